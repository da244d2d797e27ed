"""What Label Studio's webhook may tell us, and many hints at the same moment."""

import threading

import pytest
from django.urls import reverse

from datasets_app.models import LabelStudioLink
from datasets_app.services import labelstudio as services
from tests.labelstudio.test_review import send

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


def test_the_hook_takes_nothing_but_its_secret(site, example, server, trainer, client_of):
    server.portal_url = site
    server.save()
    link = send(example.dataset, server, trainer)
    url, client = reverse("label_studio_hook", args=[link.hook_key]), client_of(None)
    assert client.post(url).status_code == 403
    assert client.post(url, headers={"X-Finetune-Site-Secret": "guess"}).status_code == 403
    assert LabelStudioLink.objects.get().sync_job is None
    known = {"X-Finetune-Site-Secret": link.hook_secret}
    for body in ('{"action": "TASKS_DELETED"}', "no JSON", "[1]"):
        assert client.post(url, body, content_type="application/json", headers=known).status_code == 202
    link.refresh_from_db()
    assert link.looks_whole and link.is_hinted and link.sync_job.state == "queued"


def test_many_hints_at_once_are_one_sync(example, server, trainer):
    from django.db import connection

    link = send(example.dataset, server, trainer)
    gate = threading.Barrier(8)

    def hint():
        try:
            gate.wait()
            services.hint(link)
        finally:
            connection.close()

    threads = [threading.Thread(target=hint) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    from finetune_site.jobs.models import Job

    assert Job.objects.filter(kind=services.SYNC).count() == 1
