"""The system page: for operators alone, and each line that is not fine says what to do."""

from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.urls import reverse
from django.utils import timezone
from django_q.models import Schedule, Task

from datasets_app.models import LabelStudioServer, ModelServer
from finetune_site.jobs import machines
from finetune_site.jobs import services as jobs
from finetune_site.jobs.dispatch import keep_schedules
from finetune_site.jobs.models import Job, JobEvent, Machine
from finetune_site.operations.inspection import inspect
from finetune_site.operations.schedules import forget_old
from training_app.models import OllamaState

pytestmark = pytest.mark.django_db


def line(name: str):
    [found] = [line for section in inspect() for line in section.lines if line.name == name]
    return found


def test_the_page_and_its_fragment(client_of, operator):
    client = client_of(operator)
    page = client.get(reverse("system")).content.decode()
    assert "PostgreSQL" in page and "can be written" in page and "<html" in page
    assert f'href="{reverse("system")}"' in client.get(reverse("home")).content.decode()
    fragment = client.get(reverse("system_body")).content.decode()
    assert "<html" not in fragment and 'hx-trigger="every 10s"' in fragment


def test_others_find_no_way_there(client_of, viewer):
    client = client_of(viewer)
    assert client.get(reverse("system")).status_code == 403
    assert reverse("system") not in client.get(reverse("home")).content.decode()


def test_without_a_cluster_it_says_which_to_start():
    assert "manage.py cluster default" in line("Task cluster").text
    keep_schedules()
    assert line("Task cluster").state == "fine"
    Schedule.objects.filter(name="reconcile").update(next_run=timezone.now() - timedelta(hours=1))
    assert line("Task cluster").state == "broken"
    assert "manage.py cluster gpu" in line("Machines").text


def test_a_silent_machine_with_a_wrong_clock_and_a_full_disk():
    machines.report()
    machine = Machine.objects.get()
    assert line(machine.host).state == "fine" and line(f"Clock of {machine.host}").state == "fine"
    machine.facts |= {"clock_off": -90.0, "disk": {"free": 10, "total": 1000}}
    machine.seen_at -= timedelta(hours=1)
    machine.save()
    assert "silent for 1 h" in line(machine.host).text
    assert "90 s behind PostgreSQL's" in line(f"Clock of {machine.host}").text
    assert "manage.py purge" in line(f"Free space of {machine.host}").text


def test_a_queue_in_which_nothing_moves(project, owner):
    job = jobs.enqueue(project=project, owner=owner, kind="training.train", label="a run")
    assert line("Queue gpu").state == "fine"
    Job.objects.filter(pk=job.pk).update(created_at=timezone.now() - timedelta(hours=2))
    assert line("Queue gpu").state == "look" and "manage.py cluster gpu" in line("Queue gpu").text


def test_connections_tell_their_last_problem():
    server = ModelServer.objects.create(name="S", provider="ollama", base_url="http://127.0.0.1:9", offered="m")
    OllamaState.objects.create(server=server, problem="It does not answer.", seen_at=timezone.now())
    LabelStudioServer.objects.create(name="L", url="http://127.0.0.1:9", state="failing", problem="Wrong token.")
    assert (line("Ollama S").state, line("Ollama S").text) == ("broken", "It does not answer.")
    assert (line("Label Studio L").state, line("Label Studio L").text) == ("broken", "Wrong token.")


def test_what_is_old_is_forgotten_and_the_rest_stays(project, owner, settings, client_of):
    client_of(owner).get(reverse("home"))
    long_ago = timezone.now() - timedelta(days=100)
    ended, waiting = (
        jobs.enqueue(project=project, owner=owner, kind="datasets.seal", label=label) for label in ("ended", "waiting")
    )
    for job in (ended, waiting):
        for kind in ("log", "progress", "warning"):
            JobEvent.objects.create(job=job, kind=kind, at=long_ago)
    JobEvent.objects.create(job=ended, kind="log")
    Job.objects.filter(pk=ended.pk).update(state="succeeded", finished_at=long_ago)
    Session.objects.create(session_key="old", session_data="", expire_date=long_ago)
    for key, when in (("old", long_ago), ("new", timezone.now())):
        Task.objects.create(id=key, name=key, func="f", started=when, stopped=when, success=False)

    assert forget_old() == 2  # the session and the task; of jobs nothing without a rule
    settings.JOB_LOG_DAYS = 30
    assert forget_old() == 2
    assert sorted(ended.events.exclude(kind="state").values_list("kind", flat=True)) == ["log", "warning"]
    assert waiting.events.exclude(kind="state").count() == 3
    assert Session.objects.count() == 1 and Task.objects.get().pk == "new"
