"""Live updates: one event reaches every viewer, nothing is lost across a reconnect, strangers get nothing."""

import asyncio
import json

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.test import AsyncClient

from finetune_site.jobs import events, kinds, services
from finetune_site.jobs.live import Hub
from finetune_site.jobs.models import JobEvent

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def job(monkeypatch, project, trainer):
    monkeypatch.setitem(
        kinds._kinds, "test.work", kinds.JobKind("test.work", "Test work", "default", 3, lambda handle: None)
    )
    return services.enqueue(project=project, owner=trainer, kind="test.work", label="a label")


async def frames(stream, count):
    """The next `count` real frames as (event, data)."""
    got = []
    while len(got) < count:
        text = await asyncio.wait_for(anext(stream), 120)
        fields = dict(line.split(": ", 1) for line in text.strip().split("\n") if ": " in line)
        if fields.get("event") not in (None, "hello", "resync"):
            got.append((fields["event"], json.loads(fields["data"])))
    return got


async def ready(hub, stream):
    """Read up to the greeting, so that the viewer is subscribed and the listener connected."""
    while "hello" not in await asyncio.wait_for(anext(stream), 120):
        pass
    while not hub.is_connected:
        await asyncio.sleep(0.01)


def test_every_viewer_gets_an_event_that_is_rendered_once(job, project, monkeypatch):
    from finetune_site.jobs import live

    rendered = []
    real = live.render
    monkeypatch.setattr(live, "render", lambda event: rendered.append(event.pk) or real(event))

    async def scene():
        hub = Hub()
        viewers = [hub.watch(project.pk, frozenset(), None) for _ in range(20)]
        for viewer in viewers:
            await ready(hub, viewer)
        await sync_to_async(events.record)(job, "step", {"step": 1, "loss": 2.5})
        got = [await frames(viewer, 1) for viewer in viewers]
        hub._listener.cancel()
        return got

    got = asyncio.run(scene())
    assert got == [[("step", {"job": job.pk, "body": {"step": 1, "loss": 2.5}})]] * 20
    assert len(rendered) == 1


def test_a_reconnecting_page_gets_what_it_missed(job, project):
    first = JobEvent.objects.get(job=job)
    events.record(job, "step", {"step": 1})

    async def scene():
        stream = Hub().watch(project.pk, frozenset(), first.pk)
        return await frames(stream, 2)

    kinds_seen = [kind for kind, _ in asyncio.run(scene())]
    assert kinds_seen == ["state", "step"]  # the last seconds come again; pages take an event twice without harm


def test_a_page_that_missed_too_much_is_told_to_read_everything_anew(job, project, monkeypatch):
    monkeypatch.setattr("finetune_site.jobs.live.REPLAY_LIMIT", 3)
    first = JobEvent.objects.get(job=job)
    for step in range(5):
        events.record(job, "step", {"step": step})

    async def scene():
        hub = Hub()
        stream = hub.watch(project.pk, frozenset(), first.pk)
        text = ""
        while "resync" not in text:
            text = await asyncio.wait_for(anext(stream), 120)
        while not hub.is_connected:
            await asyncio.sleep(0.01)
        await sync_to_async(events.record)(job, "step", {"step": 9})
        got = await frames(stream, 1)
        hub._listener.cancel()
        return text, got

    text, got = asyncio.run(scene())
    assert f"id: {JobEvent.objects.order_by('-pk')[1].pk}\n" in text
    assert got == [("step", {"job": job.pk, "body": {"step": 9}})]


def test_a_viewer_may_watch_some_jobs_only(job, project, trainer):
    other = services.enqueue(project=project, owner=trainer, kind="test.work", label="another")

    async def scene():
        hub = Hub()
        stream = hub.watch(project.pk, frozenset([other.pk]), None)
        await ready(hub, stream)
        await sync_to_async(events.record)(job, "step", {"step": 1})
        await sync_to_async(events.record)(other, "step", {"step": 2})
        got = await frames(stream, 1)
        hub._listener.cancel()
        return got

    assert asyncio.run(scene())[0][1]["body"] == {"step": 2}


def test_a_slow_viewer_is_told_to_read_again_and_the_listener_goes_on(job, project):
    async def scene():
        hub = Hub()
        stream = hub.watch(project.pk, frozenset(), None)
        await ready(hub, stream)
        for step in range(100):
            await sync_to_async(events.record)(job, "step", {"step": step})
        await asyncio.sleep(0.5)
        texts = [await asyncio.wait_for(anext(stream), 120)]
        hub._listener.cancel()
        return texts

    assert "resync" in asyncio.run(scene())[0]


def test_an_event_that_cannot_be_shown_ends_nothing(job, project, monkeypatch):
    from finetune_site.jobs import live

    real = live.render

    def render(event):
        if event.payload == {"step": 1}:
            raise ValueError("it cannot be shown")
        return real(event)

    monkeypatch.setattr(live, "render", render)

    async def scene():
        hub = Hub()
        viewer = hub.watch(project.pk, frozenset(), None)
        await ready(hub, viewer)
        await sync_to_async(events.record)(job, "step", {"step": 1})
        while "resync" not in await asyncio.wait_for(anext(viewer), 120):
            pass
        await sync_to_async(events.record)(job, "step", {"step": 2})
        got = await frames(viewer, 1)
        hub._listener.cancel()
        return got

    assert asyncio.run(scene()) == [("step", {"job": job.pk, "body": {"step": 2}})]


def test_after_the_listening_connection_is_cut_events_still_arrive(job, project):
    def cut():
        with connection.cursor() as cursor:
            cursor.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'finetune-site live'"
            )

    async def scene():
        hub = Hub()
        stream = hub.watch(project.pk, frozenset(), None)
        await ready(hub, stream)
        await sync_to_async(cut)()
        while hub.is_connected:
            await asyncio.sleep(0.01)
        while not hub.is_connected:
            await asyncio.sleep(0.01)
        await sync_to_async(events.record)(job, "step", {"step": 7})
        got = await frames(stream, 1)
        hub._listener.cancel()
        return got

    assert asyncio.run(scene())[0][1]["body"] == {"step": 7}


def test_a_stream_ends_after_a_while_so_that_access_is_asked_again(job, project, monkeypatch):
    monkeypatch.setattr("finetune_site.jobs.live.STREAM_SECONDS", 0.2)
    monkeypatch.setattr("finetune_site.jobs.live.KEEPALIVE_SECONDS", 0.1)

    async def scene():
        hub = Hub()
        texts = [text async for text in hub.watch(project.pk, frozenset(), None)]
        hub._listener.cancel()
        return hub, texts

    hub, texts = asyncio.run(asyncio.wait_for(scene(), 120))
    assert "hello" in texts[1]
    assert hub.viewer_count == 0


@pytest.mark.parametrize(("who", "status"), [(None, 302), ("stranger", 404), ("viewer", 200)])
def test_who_may_open_the_stream(who, status, project, request):
    user = request.getfixturevalue(who) if who else None

    async def scene():
        client = AsyncClient()
        if user:
            await client.aforce_login(user)
        response = await client.get(f"/projects/{project.pk}/live")
        assert response.status_code == status
        if status == 200:
            assert response.headers["Content-Type"] == "text/event-stream"
            await response.streaming_content.aclose() if hasattr(response.streaming_content, "aclose") else None

    asyncio.run(scene())
