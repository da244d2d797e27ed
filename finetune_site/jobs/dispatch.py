"""The short, idempotent tasks of Django-Q2: fill free slots with runners, bring lost jobs back to the queue."""

import logging
import sys
from datetime import timedelta

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django_q.models import Schedule

from finetune_site.jobs import slots
from finetune_site.jobs.events import record
from finetune_site.jobs.models import Job, JobState
from finetune_site.jobs.queue import HOST, RETRY_SECONDS, charge
from finetune_site.jobs.services import wake
from finetune_site.lib.process import is_alive, kill_group, start_detached

logger = logging.getLogger(__name__)
# A foreign machine's runner stops itself when it is cut off; only after that may its job be taken over.
FOREIGN_GRACE_SECONDS = settings.JOB_CUTOFF_SECONDS + 30
_LOCK = 715_001


def dispatch(queue: str) -> int:
    """Start a runner in each free slot of this machine for which a job waits. Two of these at once are harmless: the
    slot's lock decides. Returns how many were started."""
    reconcile()
    waiting = Job.objects.filter(queue=queue, state=JobState.QUEUED, cancel_requested=False).count()
    started = slots.free(queue)[:waiting]
    for slot in started:
        start_detached(
            [sys.executable, str(settings.BASE_DIR / "manage.py"), "runner", queue, str(slot)],
            log_path=settings.DATA_DIR / "log" / f"runner-{queue}-{slot}.log",
            env={"FINETUNE_DATABASE_POOL": "0"},
        )
    return len(started)


def reconcile() -> list[int]:
    """Find running jobs whose runner is gone, end what is left of it, and queue the job again or fail it.

    On this machine a process's identity decides, so a dead runner is found at once and a stalled one is left its
    grace; of another machine only the lease is known. Just after Postgres came back nobody is declared dead before
    every runner had the time to renew.
    """
    moved = []
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("select pg_try_advisory_xact_lock(%s)", [_LOCK])
            if not cursor.fetchone()[0]:
                return []
        is_fresh = _postgres_just_started()
        for job in _suspects():
            if _is_dead(job) or (job.is_long_expired and not is_fresh):  # type: ignore[attr-defined]  # annotated
                _bring_back(job)
                moved.append(job.pk)
    return moved


@transaction.atomic
def keep_schedules() -> None:
    """See that every task of JOB_SCHEDULES comes at its pace, from one schedule however many clusters start at once."""
    with connection.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
    for name, (function, minutes) in settings.JOB_SCHEDULES.items():
        wanted = {"func": function, "schedule_type": Schedule.MINUTES, "minutes": minutes}
        kept = Schedule.objects.filter(name=name, **wanted).order_by("pk").first()
        Schedule.objects.filter(name=name).exclude(pk=kept.pk if kept else None).delete()
        if kept is None:
            Schedule.objects.create(name=name, cluster="default", **wanted)


def _suspects() -> list[Job]:
    return list(
        Job.objects.select_for_update(of=("self",), skip_locked=True)
        .filter(state=JobState.RUNNING)
        .annotate(is_long_expired=Q(lease_until__lt=Now() - timedelta(seconds=FOREIGN_GRACE_SECONDS)))
        .select_related("project")
    )


def _is_dead(job: Job) -> bool:
    return job.host == HOST and not is_alive(job.pid, job.pid_started)


def _bring_back(job: Job) -> None:
    if job.host == HOST:  # fence first: nothing of the lost attempt may write once another starts
        kill_group(job.pid, job.pid_started)
        kill_group(job.engine_pid, job.engine_started)
    message = text = ""
    if job.cancel_requested:
        state, text = JobState.CANCELLED, job.error_text
    elif job.attempt >= job.max_attempts:
        state, text = JobState.FAILED, f"The runner was lost {job.attempt} times; the last one on {job.host}."
    else:
        state = JobState.QUEUED
        message = f"The runner was lost in attempt {job.attempt}; the work goes on from what it kept"
    charge(job)
    with connection.cursor() as cursor:
        cursor.execute(
            "update jobs_job set state = %s, token = null, lease_until = null, engine_pid = null, message = %s, "
            "error_code = %s, error_text = %s, finished_at = case when %s then null else now() end, "
            "not_before = now() + %s * interval '1 second' where id = %s and token = %s",
            [
                state,
                message,
                "lost" if state == JobState.FAILED else "",
                text,
                state == JobState.QUEUED,
                RETRY_SECONDS,
                job.pk,
                job.token,
            ],
        )
    logger.warning("job %s: runner lost, now %s", job.pk, state)
    record(job, "state", {"state": state, "message": message, "error": text})
    wake(job.queue)


def _postgres_just_started() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "select pg_postmaster_start_time() > now() - %s * interval '1 second'",
            [settings.JOB_LEASE_SECONDS],
        )
        return bool(cursor.fetchone()[0])
