"""The place in the queue that a page shows is the order in which jobs are claimed."""

import os

import pytest
from django.urls import reverse

from finetune_site.jobs import kinds, queue, services
from finetune_site.jobs.forecast import Turn, forecast
from finetune_site.jobs.models import Job, JobEvent, JobState
from finetune_site.lib.process import start_time
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
