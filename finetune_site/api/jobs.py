"""Jobs: what runs and waits, stop, start again, and the stream of a job's events."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Literal

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection
from django.http import StreamingHttpResponse
from ninja import Query, Router, Schema, Status

from finetune_site.api.fields import Key
from finetune_site.api.idempotency import once
from finetune_site.api.models import Scope
from finetune_site.api.paging import Page, Paging, paged
from finetune_site.api.security import READ, TokenRequest, fetch, require_scope
from finetune_site.jobs import services
from finetune_site.jobs.access import get_job, require_control
from finetune_site.jobs.live import event_stream, hub
from finetune_site.jobs.models import Job, JobEvent
from finetune_site.lib.numbers import whole_number

router = Router(tags=["Jobs"])
SCOPES = dict.fromkeys(("training.export", "training.publish", "training.change_published"), Scope.PUBLISH)
STREAM: dict[str, Any] = {
    "responses": {
        200: {
            "description": "Server-sent events: `event` the kind, `data` its payload as JSON, `id` to go on from.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    }
}


class JobOut(Schema):
    """`done` of `total` `unit`s; `error_code` “input” is what you can mend."""

    id: int
    project_id: int
    kind: str
    label: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    done: int
    total: int
    unit: str
    percent: int | None
    message: str
    error_code: str
    error_text: str
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobFilter(Paging):
    project: int | None = None
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"] | None = None


@router.get("/jobs", auth=READ, response=Page[JobOut], operation_id="job_list")
def job_list(request: TokenRequest, chosen: Query[JobFilter]) -> Any:
    """Newest first."""
    jobs = Job.objects.visible_to(request.user)
    for project in (request.auth.project_id, chosen.project):
        jobs = jobs.filter(project=project) if project is not None else jobs
    return paged(jobs.filter(state=chosen.state) if chosen.state else jobs, chosen, JobOut.from_orm)


@router.get("/jobs/{int:pk}", auth=READ, response=JobOut, operation_id="job_read")
def job_read(request: TokenRequest, pk: Key) -> Any:
    """One job and how far it is."""
    return JobOut.from_orm(fetch(request, get_job, pk))


@router.post("/jobs/{int:pk}/cancel", auth=READ, response={201: JobOut}, operation_id="job_cancel")
@once
def job_cancel(request: TokenRequest, pk: Key) -> Status[Any]:
    """Stop a job: a waiting one at once, a running one where it can save what it has."""
    job = _controlled(request, pk)
    services.cancel(actor=request.user, job=job)
    return Status(201, JobOut.from_orm(get_job(request.user, pk)))


@router.post("/jobs/{int:pk}/requeue", auth=READ, response={201: JobOut}, operation_id="job_requeue")
@once
def job_requeue(request: TokenRequest, pk: Key) -> Status[Any]:
    """Start a job again that failed or was stopped; it goes on from what it kept."""
    job = _controlled(request, pk)
    services.requeue(actor=request.user, job=job)
    return Status(201, JobOut.from_orm(get_job(request.user, pk)))


@router.get("/jobs/{int:pk}/events", auth=READ, operation_id="job_events", openapi_extra=STREAM)
def job_events(request: TokenRequest, pk: Key) -> StreamingHttpResponse:
    """Everything that happened to a job and happens; ends with it or after 15 minutes. `Last-Event-ID` goes on."""
    return stream(request, fetch(request, get_job, pk))


def stream(request: TokenRequest, job: Job) -> StreamingHttpResponse:
    """The events of a job from `Last-Event-ID` on."""
    after = whole_number(request.headers.get("Last-Event-ID", ""))
    if not connection.in_atomic_block:
        connection.close()  # a stream lives for hours and must not keep the connection of its first second
    return event_stream(_follow(job.project_id, job.pk, after))


async def _follow(project: int, job: int, after: int) -> AsyncIterator[str]:
    # The hub says that something happened; what it was is read here, since its frames carry a page's HTML.
    async for _ in hub.watch(project, frozenset({job}), None):
        events, is_finished = await asyncio.to_thread(_read, job, after)
        for event in events:
            after = event.pk
            body = json.dumps(event.payload, cls=DjangoJSONEncoder)
            yield f"id: {event.pk}\nevent: {event.kind}\ndata: {body}\n\n"
        if is_finished:
            return
        yield ": still here\n\n"


def _read(pk: int, after: int) -> tuple[list[JobEvent], bool]:
    try:
        job = Job.objects.filter(pk=pk).first()  # before its events: none of them comes after its end
        return list(JobEvent.objects.filter(job=pk, pk__gt=after).order_by("pk")), job is None or job.is_finished
    finally:
        connection.close()


def _controlled(request: TokenRequest, pk: int) -> Job:
    """With the scope that starting such a job takes."""
    job = fetch(request, get_job, pk)
    require_scope(request.auth, SCOPES.get(job.kind, Scope.TRAIN if job.kind.startswith("training.") else Scope.WRITE))
    require_control(request.user, job)
    return job
