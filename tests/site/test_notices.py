"""What people hear of: in the page, by mail, by webhook to a real server, and who does not."""

import json
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.db import connection
from django.urls import reverse
from django.utils import timezone

from datasets_app.models import Conflict, Example, ImportBatch, LabelStudioTask
from datasets_app.services import datasets, examples
from finetune_site.jobs.models import Job
from finetune_site.notifications import services
from finetune_site.notifications.models import LookedUntil, Notice, Wishes
from finetune_site.notifications.services import deliver, save_wishes, tell
from finetune_site.projects.services import remove_member
from tests.site.test_access import things  # noqa: F401

pytestmark = pytest.mark.django_db
ALL = ["done", "failed", "review", "conflict"]


@pytest.fixture(autouse=True)
def _looked_an_hour_ago(db):
    LookedUntil.objects.create(pk=1, at=timezone.now() - timedelta(hours=1))


def ended(project, owner, state="succeeded", kind="training.train", seconds=300, **fields) -> Job:
    at = timezone.now() - timedelta(minutes=5)
    return Job.objects.create(
        project=project, owner=owner, kind=kind, queue="gpu", label="R", state=state, url="/runs/1",
        started_at=at - timedelta(seconds=seconds), finished_at=at, **fields,
    )  # fmt: skip


def texts(user) -> list[str]:
    return [notice.text for notice in Notice.objects.filter(user=user).order_by("pk")]


def test_long_work_that_ended_and_work_that_failed_is_told_to_its_owner_once(project, trainer, owner):
    ended(project, trainer)
    ended(project, trainer, seconds=20)
    ended(project, trainer, state="failed", seconds=2, kind="datasets.seal")
    ended(project, trainer, kind="training.chat")
    ended(project, trainer, state="cancelled")
    assert tell() == 2 and tell() == 0
    assert texts(trainer) == ["Failed: Seal version · R", "Done: Fine-tune · R"] and texts(owner) == []


def test_a_thousand_files_that_cannot_be_read_are_one_notice(project, trainer):
    for _ in range(12):
        ended(project, trainer, state="failed", kind="datasets.parse")
    tell()
    assert texts(trainer) == ["12 documents could not be read"]
    assert Notice.objects.get().url == reverse("document_list", args=[project.pk])


def test_new_examples_are_told_to_all_who_may_judge_but_their_maker(project, trainer, reviewer, owner, viewer):
    dataset = datasets.create_dataset(actor=trainer, project=project, name="Facts")
    content = {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]}
    examples.write_example(actor=trainer, dataset=dataset, content=content)
    job = ended(project, trainer, kind="datasets.import", seconds=3)
    ImportBatch.objects.create(dataset=dataset, name="a.jsonl", sha256="0" * 64, created_by=trainer, job=job)
    tell()
    assert texts(reviewer) == texts(owner) == ["1 example of Facts waits for review"]
    assert texts(trainer) == texts(viewer) == []
    Example.objects.update(state="approved", decided_by=owner)
    LookedUntil.objects.update(at=timezone.now() - timedelta(hours=1))
    assert tell() == 0, "nothing is left to judge"


def test_conflicts_are_told_to_all_who_may_decide(things, reviewer, viewer):  # noqa: F811
    Notice.objects.all().delete()
    Conflict.objects.update(at=timezone.now() - timedelta(minutes=1))
    tell()
    assert texts(reviewer) == ["1 example of D changed here and in Label Studio"] and texts(viewer) == []
    assert LabelStudioTask.objects.exists()


def test_nobody_hears_of_what_they_do_not_want_or_may_not_see(project, trainer, owner, client_of):
    save_wishes(user=trainer, kinds=["failed"], by_mail=False, webhook=None)
    ended(project, trainer)
    ended(project, owner)
    User.objects.filter(pk=owner.pk).update(is_active=False)
    assert tell() == 0
    ended(project, trainer, state="failed")
    LookedUntil.objects.update(at=timezone.now() - timedelta(hours=1))
    tell()
    client, notice = client_of(trainer), Notice.objects.get()
    assert client.get(notice.get_absolute_url()).url == "/runs/1"
    remove_member(actor=owner, membership=project.memberships.get(user=trainer))
    assert client.get(notice.get_absolute_url()).status_code == 404
    assert "Failed" not in client.get(reverse("notice_list")).content.decode()


def test_the_bell_counts_what_is_new(project, trainer, client_of):
    ended(project, trainer)
    tell()
    client = client_of(trainer)
    assert "Notices: 1 new" in client.get(reverse("bell")).content.decode()
    assert "<html" not in client.get(reverse("bell")).content.decode()
    assert "Done: Fine-tune · R" in client.get(reverse("notice_list")).content.decode()
    client.get(Notice.objects.get().get_absolute_url())
    assert "new" not in client.get(reverse("bell")).content.decode()
    Notice.objects.update(read_at=None)
    client.post(reverse("notices_read"))
    assert not Notice.objects.unread().exists()


def test_one_mail_tells_all(project, trainer, settings):
    settings.CAN_MAIL, settings.SITE_URL = True, "https://portal.example.org"
    save_wishes(user=trainer, kinds=ALL, by_mail=True, webhook=None)
    ended(project, trainer)
    ended(project, trainer, state="failed")
    tell()
    (sent,) = mail.outbox
    assert sent.to == ["trainer@example.org"] and sent.subject == "Finetune Site: 2 notices"
    assert "Failed: Fine-tune · R (Kestrel)\nhttps://portal.example.org/notices/" in sent.body
    deliver()
    assert len(mail.outbox) == 1


def test_mail_that_does_not_go_out_is_tried_again_for_a_while(project, trainer, settings):
    settings.CAN_MAIL = True
    settings.EMAIL_BACKEND, settings.EMAIL_HOST, settings.EMAIL_PORT = (
        "django.core.mail.backends.smtp.EmailBackend", "127.0.0.1", 9,
    )  # fmt: skip
    save_wishes(user=trainer, kinds=ALL, by_mail=True, webhook=None)
    ended(project, trainer)
    tell()
    assert Notice.objects.get().mail_due and Notice.objects.get().tries == 1
    for _ in range(services.TRIES):
        deliver()
    assert not Notice.objects.get().mail_due and Notice.objects.get().tries == services.TRIES


@pytest.fixture
def listener():
    """A real server that keeps what it is told; `status` is what it answers."""
    heard = []

    class Handler(BaseHTTPRequestHandler):
        status = 204

        def do_POST(self):
            heard.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(Handler.status)
            self.send_header("Location", "http://127.0.0.1:9/")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", heard, Handler
    server.shutdown()


def test_a_webhook_is_called_and_its_address_lies_sealed(project, trainer, settings, listener, client_of, caplog):
    base, heard, handler = listener
    client = client_of(trainer)
    assert "Call this address" not in client.get(reverse("wishes")).content.decode()
    settings.WEBHOOK_HOSTS = [base]
    for wrong, told in (("http://127.0.0.1:9/x", "operators of this site allow"), ("nonsense", "whole address")):
        page = client.post(reverse("wishes"), {"kinds": ALL, "webhook": wrong})
        assert told in page.content.decode()
    client.post(reverse("wishes"), {"kinds": ALL, "webhook": f"{base}/hooks/secret-of-the-hook"})
    assert "secret-of-the-hook" not in Wishes.objects.get().sealed_webhook
    assert "secret-of-the-hook" not in client.get(reverse("wishes")).content.decode()
    ended(project, trainer)
    handler.status = 302
    tell()
    assert len(heard) == 1 and Notice.objects.get().webhook_due, "it is not followed elsewhere"
    assert "secret-of-the-hook" not in caplog.text
    handler.status = 204
    deliver()
    path, told = heard[-1]
    assert path == "/hooks/secret-of-the-hook" and told["kind"] == "done" and "Done: Fine-tune · R" in told["text"]
    deliver()
    assert len(heard) == 2
    settings.WEBHOOK_HOSTS = []
    Notice.objects.update(webhook_due=True)
    deliver()
    assert len(heard) == 2 and not Notice.objects.get().webhook_due, "the operators took the host off"
    settings.WEBHOOK_HOSTS = [base]
    client.post(reverse("wishes"), {"kinds": ["done"], "webhook": ""})
    assert Wishes.objects.get().webhook, "an empty field leaves it"
    client.post(reverse("wishes"), {"kinds": ["done"], "webhook": "", "forget_webhook": "on"})
    assert not Wishes.objects.get().webhook and Wishes.objects.get().kinds == ["done"]


def test_an_address_that_never_answers_keeps_nobody_waiting(project, trainer, owner, settings, listener, monkeypatch):
    base, heard, _ = listener
    monkeypatch.setattr(services, "AT_ONCE", 3)
    settings.WEBHOOK_HOSTS = [base, "http://127.0.0.1:9"]
    save_wishes(user=trainer, kinds=["done"], by_mail=False, webhook="http://127.0.0.1:9/dead")
    save_wishes(user=owner, kinds=["done"], by_mail=False, webhook=f"{base}/alive")
    for _ in range(5):
        ended(project, trainer)
    ended(project, owner)
    tell()
    assert [path for path, _ in heard] == ["/alive"]
    for _ in range(12):
        deliver()
    assert not Notice.objects.due().exists() and len(heard) == 1, "each is tried five times, and then no more"


def test_one_turn_at_a_time(project, trainer, settings, listener):
    base, heard, _ = listener
    settings.WEBHOOK_HOSTS = [base]
    save_wishes(user=trainer, kinds=["done"], by_mail=False, webhook=f"{base}/hook")
    ended(project, trainer)
    told = []

    def another():
        with services._turn() as is_ours:
            told.append(is_ours)
        connection.close()

    with services._turn() as is_ours:
        assert is_ours
        thread = threading.Thread(target=another)
        thread.start()
        thread.join(60)
    assert told == [False]
    tell()
    assert len(heard) == 1


def test_notices_are_forgotten_in_the_end(project, trainer):
    old = Notice.objects.create(user=trainer, project=project, kind="done", text="Old", url="/")
    Notice.objects.filter(pk=old.pk).update(at=timezone.now() - timedelta(days=services.DAYS + 1))
    tell()
    assert not Notice.objects.exists()
