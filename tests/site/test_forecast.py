"""The place in the queue that a page shows is the order in which jobs are claimed."""

import os
import threading
import time

import pytest
from django.db import connection
from django.urls import reverse

from finetune_site.jobs import kinds, queue, services, slots
from finetune_site.jobs.forecast import Turn, forecast
from finetune_site.jobs.models import Job, JobEvent, JobState
from finetune_site.jobs.runner import Runner
from finetune_site.lib.kernel import start_time
from finetune_site.projects.models import Role
from finetune_site.projects.services import create_project, set_role
from tests.factories import make_user

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def people(monkeypatch):
    """Three users in one project, and a kind of job on the queue with one slot."""
    kind = kinds.JobKind("test.work", "Test work", "gpu", 3, lambda handle: None)
    monkeypatch.setitem(kinds._kinds, "test.work", kind)
    users = [make_user(name) for name in ("ada", "ben", "eve")]
    project = create_project(actor=users[0], name="Shared")
    for user in users[1:]:
        set_role(actor=users[0], project=project, user=user, role=Role.TRAINER)
    return project, users


def enqueue(project, user, label, **more) -> Job:
    return services.enqueue(project=project, owner=user, kind="test.work", label=label, **more)


def claim() -> Job | None:
    return queue.claim("gpu", pid=os.getpid(), pid_started=start_time(os.getpid()) or 0)


def order() -> list[str]:
    return [Job.objects.get(pk=pk).label for pk in forecast("gpu")]


def work_off() -> list[str]:
    """One slot: claim, finish, claim the next."""
    done = []
    while job := claim():
        done.append(job.label)
        queue.finish(job, JobState.SUCCEEDED)
    return done


def test_three_users_five_runs_one_slot(people):
    project, (ada, ben, eve) = people
    for label, user in (("a1", ada), ("a2", ada), ("a3", ada), ("b1", ben), ("e1", eve)):
        enqueue(project, user, label, expected_seconds=60)
    assert order() == ["a1", "b1", "e1", "a2", "a3"]  # everyone gets a turn
    assert [turn.seconds for turn in forecast("gpu").values()] == [0, 60, 120, 180, 240]
    assert work_off() == ["a1", "b1", "e1", "a2", "a3"]
    assert forecast("gpu") == {}


def test_a_stopped_job_and_one_started_again_keep_the_order_right(people):
    project, (ada, ben, _) = people
    wanted = (("a1", ada), ("a2", ada), ("b1", ben), ("b2", ben))
    jobs = {label: enqueue(project, user, label) for label, user in wanted}
    services.cancel(actor=ada, job=jobs["a1"])
    assert order() == ["a2", "b1", "b2"]
    first = claim()
    assert first is not None
    assert first.label == "a2"
    services.requeue(actor=ada, job=jobs["a1"])
    queue.finish(first, JobState.SUCCEEDED)
    predicted = order()
    assert predicted == ["b1", "a1", "b2"]  # ben was never served; then ada, who was longest ago
    assert work_off() == predicted


def test_two_slots_take_two_at_a_time(people, settings):
    settings.JOB_SLOTS = {**settings.JOB_SLOTS, "gpu": 2}
    project, (ada, ben, eve) = people
    for label, user, seconds in (("a1", ada, 100), ("a2", ada, 10), ("b1", ben, 30), ("e1", eve, 10)):
        enqueue(project, user, label, expected_seconds=seconds)
    turns = {Job.objects.get(pk=pk).label: turn for pk, turn in forecast("gpu").items()}
    assert turns == {"a1": Turn(1, 0), "b1": Turn(2, 0), "e1": Turn(3, 30), "a2": Turn(4, 40)}


def test_a_priority_goes_first_and_an_unknown_time_is_not_guessed(people):
    project, (ada, ben, _) = people
    enqueue(project, ada, "a1")
    urgent = enqueue(project, ben, "b1", priority=5)
    turns = forecast("gpu")
    assert list(turns.values()) == [Turn(1, 0), Turn(2, None)]
    assert turns[urgent.pk].place == 1


def test_the_page_shows_the_true_place_among_jobs_one_does_not_see(people, client_of):
    project, (ada, ben, _) = people
    hidden = create_project(actor=ben, name="Hidden")
    enqueue(hidden, ben, "theirs", expected_seconds=300)
    mine = enqueue(project, ada, "mine", expected_seconds=300)
    page = client_of(ada).get(reverse("job_list")).content.decode()
    assert "theirs" not in page
    assert '<td class="text-secondary">2</td>' in page
    assert "place 2 in the queue · starts in about 5 min" in page
    told = JobEvent.objects.filter(job=mine, kind="progress").count()
    claim()
    assert JobEvent.objects.filter(job=mine, kind="progress").count() == told + 1  # its page hears of it
    alone = client_of(ada).get(reverse("job_progress", args=[mine.pk])).content.decode()
    assert "place 1 in the queue · starts in about" in alone


def test_a_job_that_needs_two_slots_waits_for_both_and_nobody_overtakes_it(people, settings, monkeypatch):
    project, (ada, ben, _) = people
    settings.JOB_SLOTS = {**settings.JOB_SLOTS, "gpu": 2}
    settings.GPU_DEVICES = ["4", "7"]
    monkeypatch.setattr("finetune_site.jobs.runner.signal.signal", lambda *_: None)  # we are not a main thread
    seen = []
    kind = kinds.JobKind("test.work", "Test work", "gpu", 3, lambda handle: seen.append(handle._devices))
    monkeypatch.setitem(kinds._kinds, "test.work", kind)
    wide = enqueue(project, ada, "wide", slots=2)
    enqueue(project, ben, "narrow")
    busy = slots.take("gpu", 1)
    worker = threading.Thread(target=work_here, args=(0,))
    worker.start()
    time.sleep(1)
    assert Job.objects.filter(state=JobState.QUEUED).count() == 2, "it began on one slot"
    assert Runner("gpu", 1).work() == 0  # the slot is held
    busy.close()
    worker.join(120)
    assert list(Job.objects.order_by("started_at").values_list("label", "state")) == [
        ("wide", "succeeded"),
        ("narrow", "succeeded"),
    ]
    assert (wide.slots, seen) == (2, ["4,7", "4"])
    assert slots.free("gpu") == [0, 1]


def test_two_that_gather_do_not_wait_for_one_another(settings):
    settings.JOB_SLOTS = {**settings.JOB_SLOTS, "gpu": 2}
    first, second = slots.take("gpu", 0), slots.take("gpu", 1)
    asked = []
    gatherer = threading.Thread(target=lambda: asked.append(slots.gather("gpu", 1, lambda: not second.closed)))
    gatherer.start()
    time.sleep(0.5)
    assert slots.gather("gpu", 1, lambda: True) is None
    second.close()
    gatherer.join(120)
    held = asked[0]
    assert held is None or [slots.number(stream) for stream in held] == [1]
    for stream in [first, *(held or [])]:
        stream.close()


def test_the_forecast_counts_every_slot_that_a_job_needs(people, settings):
    project, (ada, ben, eve) = people
    settings.JOB_SLOTS = {**settings.JOB_SLOTS, "gpu": 2}
    enqueue(project, ada, "runs", expected_seconds=100)
    claim()
    wide = enqueue(project, ben, "wide", expected_seconds=50, slots=2)
    last = enqueue(project, eve, "last", expected_seconds=10)
    turns = forecast("gpu")
    assert (turns[wide.pk].place, turns[last.pk].place) == (1, 2)
    assert turns[wide.pk].seconds == pytest.approx(100, abs=5)
    assert turns[last.pk].seconds == pytest.approx(150, abs=5)


def test_a_machine_leaves_alone_what_needs_more_slots_than_it_has(people, settings):
    project, (ada, _, _) = people
    enqueue(project, ada, "too wide", slots=3)
    fits = enqueue(project, ada, "fits")
    assert queue.slots_of_next("gpu", 1) == 1
    assert claim().pk == fits.pk
    assert queue.slots_of_next("gpu", 2) is None


def work_here(slot: int) -> None:
    try:
        Runner("gpu", slot).work()
    finally:
        connection.close()
