"""Live updates: one LISTEN connection per web process, fanned out to every viewer.

A viewer costs a bounded queue, not a database connection. Each event is read and rendered once, however many watch.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import psycopg
from django.conf import settings
from django.db import connection
from django.http import StreamingHttpResponse
from django.template.loader import render_to_string

from finetune_site.jobs.events import CHANNEL
from finetune_site.jobs.models import JobEvent

logger = logging.getLogger(__name__)
QUEUE_LENGTH = 64
KEEPALIVE_SECONDS = 20
STREAM_SECONDS = 900  # then the page opens it again, and is asked again who it is
REPLAY_LIMIT = 2000
# Two jobs' events may commit out of the order of their ids; a reconnecting page gets these seconds again.
OVERLAP = timedelta(seconds=5)


@dataclass(frozen=True)
class Frame:
    """One event as the browser reads it."""

    job: int
    text: str


class Hub:
    """The fan-out of one web process: `watch` yields the frames of a project."""

    def __init__(self) -> None:
        self.is_connected = False
        self._viewers: dict[int, set[asyncio.Queue[Frame | None]]] = {}
        self._listener: asyncio.Task[None] | None = None

    @property
    def viewer_count(self) -> int:
        return sum(len(queues) for queues in self._viewers.values())

    async def watch(self, project: int, jobs: frozenset[int], last_event: int | None) -> AsyncIterator[str]:
        """Server-sent events of a project's jobs (all, or those of `jobs`), beginning after `last_event`.

        Subscribes before it reads, so that nothing falls between; a viewer too slow for its queue re-reads the table.
        """
        viewer = self._subscribe(project)
        try:
            yield "retry: 2000\n\n"
            if last_event is None:
                last_event = await asyncio.to_thread(_newest)
                yield f"id: {last_event}\nevent: hello\ndata: {{}}\n\n"
            else:
                missed = await asyncio.to_thread(_replay, project, last_event)
                if missed is None:
                    newest = await asyncio.to_thread(_newest)
                    yield f"id: {newest}\nevent: resync\ndata: {{}}\n\n"
                for frame in missed or ():
                    if not jobs or frame.job in jobs:
                        yield frame.text
            until = time.monotonic() + STREAM_SECONDS
            while time.monotonic() < until:
                try:
                    item = await asyncio.wait_for(viewer.get(), KEEPALIVE_SECONDS)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                if item is None:
                    yield "event: resync\ndata: {}\n\n"
                elif not jobs or item.job in jobs:
                    yield item.text
        finally:
            self._viewers[project].discard(viewer)
            if not self._viewers[project]:
                del self._viewers[project]

    def _subscribe(self, project: int) -> "asyncio.Queue[Frame | None]":
        if (
            self._listener is None
            or self._listener.done()
            or self._listener.get_loop() is not asyncio.get_running_loop()
        ):
            self._listener = asyncio.get_running_loop().create_task(self._listen())
        viewer: asyncio.Queue[Frame | None] = asyncio.Queue(QUEUE_LENGTH)
        self._viewers.setdefault(project, set()).add(viewer)
        return viewer

    async def _listen(self) -> None:
        wait = 0.2
        while True:
            try:
                link = await psycopg.AsyncConnection.connect(_conninfo(), autocommit=True)
                async with link:
                    await link.execute(f"listen {CHANNEL}")
                    self.is_connected, wait = True, 0.2
                    self._tell_all_to_resync()
                    async for notice in link.notifies():
                        await self._deliver(notice.payload)
            except (psycopg.Error, OSError):
                self.is_connected = False
                logger.warning("live updates: Postgres does not answer, trying again in %.1f s", wait)
                await asyncio.sleep(wait)
                wait = min(wait * 2, 5)

    async def _deliver(self, payload: str) -> None:
        event, _, project = json.loads(payload)
        if project not in self._viewers:
            return  # nobody looks: no query
        try:
            frame = await asyncio.to_thread(_frame, event)
            if frame is None:  # deleted since
                return
        except Exception:  # whatever one event has, the updates of all pages go on; these read theirs anew
            logger.exception("live updates: event %s of project %s cannot be shown", event, project)
            frame = None
        for viewer in list(self._viewers.get(project, ())):
            _put(viewer, frame)

    def _tell_all_to_resync(self) -> None:
        for queues in self._viewers.values():
            for viewer in queues:
                _put(viewer, None)


hub = Hub()


def event_stream(frames: AsyncIterator[str]) -> StreamingHttpResponse:
    """The answer that sends frames as they come, past what a proxy would hold back."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingHttpResponse(frames, content_type="text/event-stream", headers=headers)


def _put(viewer: "asyncio.Queue[Frame | None]", frame: Frame | None) -> None:
    if viewer.full():  # a slow viewer: drop its backlog and have the page re-read
        while not viewer.empty():
            viewer.get_nowait()
        frame = None
    with contextlib.suppress(asyncio.QueueFull):
        viewer.put_nowait(frame)


def _frame(event_id: int) -> Frame | None:
    try:
        event = JobEvent.objects.select_related("job").filter(pk=event_id).first()
        return render(event) if event else None
    finally:
        connection.close()


def _newest() -> int:
    """Of all projects: it is only the place from which this page goes on, and found without a search."""
    try:
        return JobEvent.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    finally:
        connection.close()


def _replay(project: int, last_event: int) -> list[Frame] | None:
    """What a page missed; None: so much that it had better read everything anew."""
    try:
        seen = JobEvent.objects.filter(pk=last_event).values_list("at", flat=True).first()
        events = JobEvent.objects.filter(job__project=project).select_related("job")
        missed = events.filter(at__gt=seen - OVERLAP) if seen else events.filter(pk__gt=last_event)
        found = list(missed.order_by("pk")[: REPLAY_LIMIT + 1])
        return None if len(found) > REPLAY_LIMIT else [render(event) for event in found]
    finally:
        connection.close()


def render(event: JobEvent) -> Frame:
    """`state` and `progress` carry the rendered progress component; every other kind its payload as JSON."""
    if event.kind in {"state", "progress"}:
        html = render_to_string("components/job_progress.html", {"job": event.job})
        body = json.dumps({"html": html, "state": event.job.state, "url": event.job.url})
    else:
        body = json.dumps(event.payload)
    return Frame(
        event.job_id,
        f'id: {event.pk}\nevent: {event.kind}\ndata: {json.dumps({"job": event.job_id})[:-1]}, "body": {body}}}\n\n',
    )


def _conninfo() -> str:
    database = str(connection.settings_dict["NAME"])  # in tests not the one of the settings
    return psycopg.conninfo.make_conninfo(
        settings.DATABASE_URL, dbname=database, application_name="finetune-site live", keepalives_idle=30
    )
