"""What the machines tell of themselves, what runs on their slots, and whose job comes first."""

from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.urls import reverse
from django.utils import timezone

from finetune_site.jobs import machines, queue, services, slots
from finetune_site.jobs.forecast import forecast
from finetune_site.jobs.models import Machine
from finetune_site.lib.devices import read_devices
from finetune_site.projects.services import create_project


def enqueue(project, owner, label="a run"):
    return services.enqueue(project=project, owner=owner, kind="training.train", label=label)


def test_this_machine_is_read():
    processor = read_devices()["processor"]
    assert processor["cores"] >= 1 and processor["name"]
    assert 0 < processor["memory_used"] < processor["memory_total"]


def test_who_sees_what_runs_where(project, owner, viewer, stranger, client_of, settings):
    settings.JOB_SLOTS = {**settings.JOB_SLOTS, "gpu": 3}
    machines.report()
    machines.report()  # one row a machine, however often it tells
    assert Machine.objects.count() == 1
    job = enqueue(project, owner)
    job.slots = 2
    job.save()
    assert queue.claim("gpu", pid=1, pid_started=1, slots=2, held=[0, 2]) is not None
    [report] = machines.reports(viewer)
    assert [slot.job and slot.job.pk for slot in report.slots] == [job.pk, None, job.pk]
    page = client_of(viewer).get(reverse("device_list")).content.decode()
    assert page.count("a run</a>") == 2 and "free" in page and "another project" not in page
    strange = client_of(stranger).get(reverse("device_list_table")).content.decode()
    assert "a run" not in strange and strange.count("a job of another project") == 2


def test_a_slot_names_the_device_that_the_operator_gave_it(db, viewer):
    gpus = [
        {"number": "0", "uuid": "GPU-a", "name": "A", "memory_used": 1, "memory_total": 2, "use": None},
        {"number": "1", "uuid": "GPU-b", "name": "B", "memory_used": 1, "memory_total": 2, "use": 0.5},
    ]
    facts = {**read_devices(), "gpus": gpus, "slots": 2, "devices": ["GPU-b", "0"]}
    Machine.objects.create(host="far", facts=facts, seen_at=timezone.now() - timedelta(minutes=5))
    [report] = machines.reports(viewer)
    assert report.machine.is_silent
    assert [slot.device["name"] for slot in report.slots] == ["B", "A"]


def test_roles_come_first_where_the_operator_says_so(project, owner, trainer, settings):
    settings.ROLE_PRIORITIES = {"owner": 1}
    late, early = enqueue(project, trainer), enqueue(project, owner)
    assert list(forecast("gpu")) == [early.pk, late.pk]
    assert queue.claim("gpu", pid=1, pid_started=1).pk == early.pk


def test_without_a_table_roles_take_turns(project, owner, trainer):
    first, second = enqueue(project, trainer), enqueue(project, owner)
    assert list(forecast("gpu")) == [first.pk, second.pk]


def test_a_role_is_held_in_a_project(project, owner, trainer, settings):
    settings.ROLE_PRIORITIES = {"owner": 2, "operator": 5}
    theirs = create_project(actor=trainer, name="Another", description="")
    assert [services.priority_of(trainer, of) for of in (project, theirs)] == [0, 2]


def test_operators_let_a_job_run_next(project, owner, trainer, operator, client_of):
    first, second = enqueue(project, trainer), enqueue(project, owner)
    third = enqueue(project, owner)
    assert client_of(owner).post(reverse("job_run_next", args=[third.pk])).status_code == 403
    client_of(operator).post(reverse("job_run_next", args=[third.pk]))
    assert list(forecast("gpu")) == [third.pk, first.pk, second.pk]
    client_of(operator).post(reverse("job_run_next", args=[second.pk]))
    assert list(forecast("gpu")) == [second.pk, third.pk, first.pk]
    services.cancel(actor=operator, job=third)
    with pytest.raises(services.JobError, match="does not wait any more"):
        services.run_next(actor=operator, job=third)


def test_a_table_of_roles_that_cannot_be_read_is_refused(monkeypatch):
    from finetune_site.settings import _priorities

    monkeypatch.setenv("FINETUNE_ROLE_PRIORITIES", "operator=2, owner=1")
    assert _priorities("FINETUNE_ROLE_PRIORITIES") == {"operator": 2, "owner": 1}
    monkeypatch.setenv("FINETUNE_ROLE_PRIORITIES", "boss=9")
    with pytest.raises(ImproperlyConfigured, match="must look like operator=2,owner=1; 'boss=9' does not"):
        _priorities("FINETUNE_ROLE_PRIORITIES")


def test_a_runner_that_comes_while_all_are_told_to_leave_gets_no_slot(settings, tmp_path, monkeypatch):
    settings.DATA_DIR = tmp_path
    held = slots.take("default", 0)
    assert held is not None
    held.close()
    slots.stop_holders(lambda _: None)
    assert slots.take("default", 0) is None and slots.free("default")[0] == 0
    slots.open_all()
    held = slots.take("default", 0)
    assert held is not None
    # Another machine that shares the folder has slots of its own.
    monkeypatch.setattr(slots, "HOST", "another")
    there = slots.take("default", 0)
    assert there is not None
    held.close()
    there.close()
