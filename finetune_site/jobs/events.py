"""The record of a job's life, and the notification that wakes the pages."""

import json
from typing import Any

from django.db import connection

from finetune_site.jobs.models import Job, JobEvent

CHANNEL = "job_events"


def record(job: Job, kind: str, payload: dict[str, Any] | None = None) -> JobEvent:
    """Append one event and notify at commit. Call it in the transaction that changes the job's row: the row's lock
    then keeps the events of one job in the order of their ids."""
    event = JobEvent.objects.create(job=job, kind=kind, payload=payload or {})
    with connection.cursor() as cursor:
        cursor.execute("select pg_notify(%s, %s)", [CHANNEL, json.dumps([event.pk, job.pk, job.project_id])])
    return event
