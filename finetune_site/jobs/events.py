"""The record of a job's life, and the notification that wakes the pages."""

import json
from typing import Any

from django.db import connection, transaction

from finetune_site.jobs.models import SLOW_QUEUES, Job, JobEvent, JobState

CHANNEL = "job_events"
TOLD_WAITING = 20


def record(job: Job, kind: str, payload: dict[str, Any] | None = None) -> JobEvent:
    """Append one event and notify at commit. Call it in the transaction that changes the job's row: the row's lock
    then keeps the events of one job in the order of their ids. `Job.DoesNotExist` when the job was deleted."""
    with connection.cursor() as cursor:
        # Its foreign key is looked at only at commit: until then whoever deletes the job has to wait for the event.
        cursor.execute("select id from jobs_job where id = %s for key share", [job.pk])
        if cursor.fetchone() is None:
            raise Job.DoesNotExist
        event = JobEvent.objects.create(job=job, kind=kind, payload=payload or {})
        cursor.execute("select pg_notify(%s, %s)", [CHANNEL, json.dumps([event.pk, job.pk, job.project_id])])
    return event


def tell_waiting(queue: str) -> None:
    """After this transaction tell the pages of a slow queue's next waiting jobs that their turn may have changed.

    Not within it: an event takes a lock on its job, and two claims would wait for each other. A failure is only logged.
    """

    def tell() -> None:
        for job in Job.objects.filter(queue=queue, state=JobState.QUEUED).order_by("-priority", "pk")[:TOLD_WAITING]:
            with transaction.atomic():
                record(job, "progress")

    if queue in SLOW_QUEUES:
        transaction.on_commit(tell, robust=True)
