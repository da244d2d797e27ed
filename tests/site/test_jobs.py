"""The queue: one claim wins, every write is fenced, what is lost comes back, what a person can mend is not retried."""

import os
import subprocess
import sys
import threading
import time
import uuid
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from finetune_site.jobs import dispatch, kinds, queue, services
from finetune_site.jobs.events import record
from finetune_site.jobs.handle import EngineFailed, Handle, JobCancelled, JobInputError, JobReleased
from finetune_site.jobs.models import Job, JobEvent, JobState
from finetune_site.jobs.queue import LeaseLost
from finetune_site.jobs.runner import Runner
from finetune_site.lib.kernel import start_time
from finetune_site.projects.models import AuditEntry
from finetune_site.projects.services import delete_project
from tests.factories import claim, run_job


@pytest.fixture
def kind(monkeypatch):
    """A job kind whose work the test sets: `kind.work = lambda handle: …`."""

    class Box:
        work = staticmethod(lambda handle: None)

    box = Box()
    monkeypatch.setitem(
        kinds._kinds,
        "test.work",
        kinds.JobKind("test.work", "Test work", "default", 3, lambda handle: box.work(handle)),
    )
    return box


def enqueue(project, user, **more):
    return services.enqueue(project=project, owner=user, kind="test.work", label="a label", **more)


def test_a_job_runs_to_its_end_and_tells_its_progress(kind, project, trainer):
    kind.work = lambda handle: (handle.progress(3, 3, unit="pages", message="reading"), handle.log("read it"))
    job = run_job(enqueue(project, trainer))
    assert (job.state, job.done, job.total, job.unit, job.attempt) == ("succeeded", 3, 3, "pages", 1)
    assert job.token is None
    assert job.finished_at is not None
    assert list(job.events.values_list("kind", flat=True)) == ["state", "state", "progress", "log", "state"]


def test_the_time_left_is_reckoned_from_where_this_attempt_began_to_count(kind, project, trainer):
    seen = []

    def work(handle):
        handle.progress(40, 100, unit="steps")  # goes on from a checkpoint
        seen.append(handle.job.seconds_left)
        handle.job.counted_at -= timedelta(seconds=30)
        handle.job.started_at -= timedelta(hours=1)
        handle.job.done = 50
        seen.append(handle.job.seconds_left)

    kind.work = work
    run_job(enqueue(project, trainer))
    assert seen[0] is None
    assert seen[1] == pytest.approx(150, abs=5)  # ten steps took thirty seconds, fifty are left


def test_what_the_work_foretells_goes_before_its_pace(kind, project, trainer):
    seen = []

    def work(handle):
        handle.progress(0, 100, unit="steps")
        handle.progress(100, 100, seconds_left=77)
        seen.append(handle.job.seconds_left)

    kind.work = work
    run_job(enqueue(project, trainer))
    assert seen == [pytest.approx(77, abs=2)]


def test_enqueueing_queues_the_dispatching_task_in_the_same_transaction(kind, project, trainer):
    from django_q.models import OrmQ

    before = OrmQ.objects.count()
    with pytest.raises(RuntimeError), transaction.atomic():
        enqueue(project, trainer)
        raise RuntimeError
    assert OrmQ.objects.count() == before
    enqueue(project, trainer)
    assert OrmQ.objects.count() == before + 1


def test_what_the_person_can_mend_fails_at_once_with_its_sentence(kind, project, trainer):
    def work(handle):
        raise JobInputError("The file is empty. Upload another.")

    kind.work = work
    job = run_job(enqueue(project, trainer))
    assert (job.state, job.error_code, job.error_text) == ("failed", "input", "The file is empty. Upload another.")
    assert job.attempt == 1


def test_our_own_error_is_retried_up_to_the_attempts_and_hides_its_detail(kind, project, trainer):
    def work(handle):
        raise ValueError("secret detail")

    kind.work = work
    job = enqueue(project, trainer)
    for attempt in (1, 2):
        job = run_job(job)
        assert (job.state, job.attempt) == ("queued", attempt)
        assert job.not_before > timezone.now()
        Job.objects.update(not_before=None)
    job = run_job(job)
    assert (job.state, job.error_code, job.attempt) == ("failed", "error", 3)
    assert "secret" not in job.error_text
    assert "reference" in job.error_text


def test_a_crashed_engine_is_retried_and_says_why(kind, project, trainer):
    def work(handle):
        raise EngineFailed("The working process was killed (signal 9); often that means too little memory.")

    kind.work = work
    job = run_job(enqueue(project, trainer))
    assert job.state == "queued"
    assert "signal 9" in job.message


def test_a_runner_that_must_leave_gives_the_job_back_uncounted(kind, project, trainer):
    def work(handle):
        raise JobReleased("The site is restarting; the work goes on by itself.")

    kind.work = work
    job = run_job(enqueue(project, trainer))
    assert (job.state, job.attempt, job.not_before is None or job.not_before <= timezone.now()) == ("queued", 0, True)


@pytest.mark.django_db(transaction=True)
def test_of_many_claims_at_once_exactly_one_wins_each_job(kind, project, trainer):
    jobs = {enqueue(project, trainer).pk for _ in range(5)}
    won, gate = [], threading.Barrier(8)

    def grab():
        gate.wait()
        try:
            while job := queue.claim("default", pid=os.getpid(), pid_started=1):
                won.append(job.pk)
        finally:
            connection.close()

    threads = [threading.Thread(target=grab) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == sorted(jobs)


def test_owners_take_turns(kind, project, trainer, owner):
    first = [enqueue(project, trainer) for _ in range(2)]
    late = enqueue(project, owner)
    order = [queue.claim("default", pid=1, pid_started=1).pk for _ in range(3)]
    assert order == [first[0].pk, late.pk, first[1].pk]


def test_priority_goes_first(kind, project, trainer):
    enqueue(project, trainer)
    urgent = enqueue(project, trainer, priority=5)
    assert queue.claim("default", pid=1, pid_started=1).pk == urgent.pk


def test_a_job_whose_lease_was_taken_over_cannot_be_written(kind, project, trainer):
    job = claim(enqueue(project, trainer))
    Job.objects.filter(pk=job.pk).update(token=uuid.uuid4())  # somebody else runs it now
    handle = Handle(job)
    written = []
    with pytest.raises(LeaseLost):
        handle.write(lambda: written.append(1))
    with pytest.raises(LeaseLost):
        handle.check()
    with pytest.raises(LeaseLost):
        queue.finish(job, JobState.SUCCEEDED)
    with pytest.raises(LeaseLost):
        queue.release(job, message="", is_attempt=True)
    assert not queue.renew(job).is_ours
    assert written == []
    assert Job.objects.get(pk=job.pk).state == "running"


def test_a_deleted_job_stops_its_runner_without_a_word(kind, project, trainer):
    def work(handle):
        Job.objects.all().delete()
        handle.progress(1, 1)

    kind.work = work
    job = claim(enqueue(project, trainer))
    Runner("default", 0).do(job)
    assert not Job.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_project_is_deleted_while_an_event_of_its_job_is_written(kind, project, trainer, owner):
    job = enqueue(project, trainer)
    written, committed = threading.Event(), []

    def write():
        try:
            with transaction.atomic():
                record(job, "progress")
                written.set()
                time.sleep(0.5)  # meanwhile the deletion either waits for us or pulls the job from under our event
            committed.append(True)
        finally:
            connection.close()

    thread = threading.Thread(target=write)
    thread.start()
    written.wait(120)
    delete_project(actor=owner, project=project)
    thread.join()
    assert committed
    assert not Job.objects.exists() and not JobEvent.objects.exists()


def test_cancelling_a_waiting_job_ends_it_and_is_kept_in_the_trail(kind, project, trainer):
    job = enqueue(project, trainer)
    services.cancel(actor=trainer, job=job)
    job.refresh_from_db()
    assert job.state == "cancelled"
    assert AuditEntry.objects.filter(verb="stopped").exists()
    assert queue.claim("default", pid=1, pid_started=1) is None
    with pytest.raises(services.JobError):
        services.cancel(actor=trainer, job=job)


@pytest.mark.django_db(transaction=True)
def test_cancelling_a_running_job_reaches_the_function(kind, project, trainer, settings):
    settings.JOB_HEARTBEAT_SECONDS = 0.05
    stopped = threading.Event()

    def work(handle):
        services.cancel(actor=trainer, job=handle.job)
        while not handle.should_stop:
            stopped.wait(0.02)
        with pytest.raises(JobCancelled):
            handle.check()
        handle.check()

    kind.work = work
    job = run_job(enqueue(project, trainer))
    assert job.state == "cancelled"


def test_a_failed_job_can_be_started_again_and_a_done_one_cannot(kind, project, trainer):
    def work(handle):
        raise JobInputError("no")

    kind.work = work
    job = run_job(enqueue(project, trainer))
    services.requeue(actor=trainer, job=job)
    kind.work = lambda handle: None
    job = run_job(job)
    assert (job.state, job.error_text) == ("succeeded", "")
    with pytest.raises(services.JobError):
        services.requeue(actor=trainer, job=job)


def dead_process() -> tuple[int, int]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    identity = process.pid, start_time(process.pid)
    process.kill()
    process.wait()
    return identity


def test_a_job_whose_runner_died_comes_back_and_its_engine_is_ended_first(kind, project, trainer):
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    job = claim(enqueue(project, trainer))
    pid, started = dead_process()
    Job.objects.filter(pk=job.pk).update(
        pid=pid, pid_started=started, engine_pid=engine.pid, engine_started=start_time(engine.pid)
    )
    assert dispatch.reconcile() == [job.pk]
    assert engine.wait(120) == -9
    job.refresh_from_db()
    assert (job.state, job.attempt, job.token) == ("queued", 1, None)
    assert dispatch.reconcile() == []  # a second one finds nothing to do


def test_a_job_that_loses_its_runner_every_time_fails_after_its_attempts(kind, project, trainer):
    job = enqueue(project, trainer)
    for _ in range(3):
        Job.objects.update(not_before=None)
        job = claim(job)
        pid, started = dead_process()
        Job.objects.update(pid=pid, pid_started=started)
        dispatch.reconcile()
    job.refresh_from_db()
    assert (job.state, job.error_code) == ("failed", "lost")


def test_a_living_runner_whose_lease_is_late_is_left_alone(kind, project, trainer):
    job = claim(enqueue(project, trainer))
    Job.objects.update(lease_until=timezone.now() - timedelta(seconds=60))
    assert dispatch.reconcile() == []
    job.refresh_from_db()
    assert job.state == "running"


@pytest.mark.parametrize(("late", "is_taken"), [(60, False), (400, True)])
def test_another_machines_job_is_taken_over_only_after_its_grace(kind, project, trainer, late, is_taken, monkeypatch):
    monkeypatch.setattr(dispatch, "_postgres_just_started", lambda: False)
    job = claim(enqueue(project, trainer))
    Job.objects.update(host="elsewhere", lease_until=timezone.now() - timedelta(seconds=late))
    assert dispatch.reconcile() == ([job.pk] if is_taken else [])


def test_after_an_outage_of_postgres_nobody_is_declared_dead_before_it_could_renew(kind, project, trainer, settings):
    settings.JOB_LEASE_SECONDS = 100_000  # the test server started less than this ago
    job = claim(enqueue(project, trainer))
    Job.objects.update(host="elsewhere", lease_until=timezone.now() - timedelta(seconds=400))
    assert dispatch.reconcile() == []
    assert Job.objects.get(pk=job.pk).state == "running"


@pytest.mark.django_db(transaction=True)
def test_clusters_that_start_at_once_make_one_schedule():
    from django_q.models import Schedule

    def make():
        try:
            gate.wait()
            dispatch.keep_schedules()
        finally:
            connection.close()

    gate = threading.Barrier(4)
    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Schedule.objects.filter(name="reconcile").count() == 1


def test_the_database_refuses_a_running_job_without_a_token(kind, project, trainer):
    job = enqueue(project, trainer)
    with pytest.raises(IntegrityError), transaction.atomic():
        Job.objects.filter(pk=job.pk).update(state="running")


@pytest.mark.django_db(transaction=True)
def test_every_change_notifies_with_the_id_of_its_event(kind, project, trainer):
    import psycopg

    from finetune_site.jobs.live import _conninfo

    with psycopg.connect(_conninfo(), autocommit=True) as link:
        link.execute("listen job_events")
        job = enqueue(project, trainer)
        notices = [notice.payload for notice in link.notifies(timeout=120, stop_after=1)]
    assert notices == [f"[{job.events.get().pk}, {job.pk}, {project.pk}]"]
