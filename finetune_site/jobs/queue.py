"""The moves of a job's state. Each is one conditional UPDATE on Postgres's clock whose row count is the answer."""

import socket
import uuid
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from finetune_site.jobs.events import record, tell_waiting
from finetune_site.jobs.models import SLOW_QUEUES, Job, JobState

HOST = socket.gethostname()
RETRY_SECONDS = 5


class LeaseLost(Exception):
    """The job is no longer ours: stop without another word."""


@dataclass(frozen=True)
class Heartbeat:
    is_ours: bool
    cancel_requested: bool


@transaction.atomic
def claim(queue: str, *, pid: int, pid_started: int, slots: int = 1, held: list[int] | None = None) -> Job | None:
    """Take the next job of a queue that needs so many slots, None when no such job waits. Owners take turns: the one
    served least and longest ago comes first; within one owner, the oldest job. `held`: the slots it will run on."""
    token = uuid.uuid4()
    with connection.cursor() as cursor:
        cursor.execute(
            _CLAIM, [token, HOST, pid, pid_started, held or [], settings.JOB_LEASE_SECONDS, queue, slots, slots]
        )
        row = cursor.fetchone()
    if row is None:
        return None
    job = Job.objects.select_related("project", "owner").get(pk=row[0])
    record(job, "state", {"state": job.state, "attempt": job.attempt})
    tell_waiting(queue)
    return job


def slots_of_next(queue: str, most: int) -> int | None:
    """How many slots the job needs whose turn it is; None when nothing waits that `most` slots can do."""
    with connection.cursor() as cursor:
        cursor.execute(f"select waiting.slots {_NEXT}", [queue, 1, most])  # constants
        row = cursor.fetchone()
    return row and row[0]


_NEXT = """
    from jobs_job waiting
    where waiting.queue = %s and waiting.state = 'queued' and not waiting.cancel_requested
        and waiting.slots between %s and %s
        and (waiting.not_before is null or waiting.not_before <= now())
    order by waiting.priority desc,
        (select count(*) from jobs_job r
         where r.owner_id = waiting.owner_id and r.queue = waiting.queue and r.state = 'running'),
        (select max(s.started_at) from jobs_job s
         where s.owner_id = waiting.owner_id and s.queue = waiting.queue) nulls first,
        waiting.id
    limit 1
"""

_CLAIM = f"""
update jobs_job set state = 'running', token = %s, attempt = attempt + 1, host = %s, pid = %s,
    pid_started = %s, held_slots = %s::smallint[],
    engine_pid = null, engine_started = null, not_before = null, counted_at = null, ends_at = null,
    error_code = '', error_text = '', message = '',
    lease_until = now() + %s * interval '1 second', started_at = now(), finished_at = null
where state = 'queued' and id = (select waiting.id {_NEXT} for update of waiting skip locked)
returning id
"""  # noqa: S608  # nosec B608  constants


def renew(job: Job) -> Heartbeat:
    """Extend the lease; says whether the job is still ours and whether somebody asked to stop it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "update jobs_job set lease_until = now() + %s * interval '1 second' "
            "where id = %s and token = %s and state = 'running' returning cancel_requested",
            [settings.JOB_LEASE_SECONDS, job.pk, job.token],
        )
        row = cursor.fetchone()
    return Heartbeat(is_ours=row is not None, cancel_requested=bool(row and row[0]))


def update(job: Job, **fields: Any) -> None:
    """Write fields of a running job under its token; `LeaseLost` when it is no longer ours."""
    if not Job.objects.filter(pk=job.pk, token=job.token, state=JobState.RUNNING).update(**fields):
        raise LeaseLost
    for name, value in fields.items():
        setattr(job, name, value)


@transaction.atomic
def finish(job: Job, state: JobState, *, code: str = "", text: str = "", message: str = "") -> None:
    """End a running job; `LeaseLost` when it is no longer ours."""
    token = job.token
    charge(job)
    done = {"done": F("total")} if state == JobState.SUCCEEDED else {}
    said = {} if state == JobState.CANCELLED else {"error_text": text}  # who stopped it may have said why
    moved = Job.objects.filter(pk=job.pk, token=token, state=JobState.RUNNING).update(
        state=state, token=None, lease_until=None, engine_pid=None, finished_at=Now(),
        error_code=code, message=message, **done, **said,
    )  # fmt: skip
    if not moved:
        raise LeaseLost
    record(job, "state", {"state": state, "error": text})
    tell_waiting(job.queue)


@transaction.atomic
def release(job: Job, *, message: str, is_attempt: bool) -> None:
    """Put a running job back into the queue; with `is_attempt` False it ended through no fault and is not counted."""
    wait = min(60, RETRY_SECONDS * 2 ** (job.attempt - 1)) if is_attempt else 0
    charge(job)
    with connection.cursor() as cursor:
        cursor.execute(
            "update jobs_job set state = 'queued', token = null, lease_until = null, engine_pid = null, "
            "attempt = attempt - %s, message = %s, not_before = now() + %s * interval '1 second' "
            "where id = %s and token = %s and state = 'running'",
            [0 if is_attempt else 1, message[:300], wait, job.pk, job.token],
        )
        if not cursor.rowcount:
            raise LeaseLost
    record(job, "state", {"state": JobState.QUEUED, "message": message})


def charge(job: Job) -> None:
    """Count the devices' time of the attempt that ends now, in the transaction that ends it. A runner that was lost is
    charged until its lease ended at most. A job that is no longer ours is not charged."""
    if job.queue in SLOW_QUEUES:
        with connection.cursor() as cursor:
            cursor.execute(_CHARGE, [job.pk, job.token])


_CHARGE = """
insert into jobs_deviceuse (job_id, devices, started_at, ended_at)
select id, greatest(1, cardinality(held_slots)), started_at,
    greatest(started_at, least(now(), lease_until))
from jobs_job where id = %s and token = %s and state = 'running'
"""
