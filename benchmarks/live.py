"""How many viewers of one running job one web process serves, and how long a write takes to reach them.

Starts an embedded Postgres and one uvicorn process as `make run` does, opens the viewers as real HTTP streams of a
logged-in user, writes progress of one job, and measures from just before the write's transaction to the arrival of
the frame at each viewer. The frame carries the rendered progress line; the web process counts its renderings.
Run alone: `.venv/bin/python benchmarks/live.py [--viewers 100 1000] [--updates 20]`.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PAUSE_SECONDS = 0.5


def main() -> None:
    from finetune_site.lib.postgres import Embedded

    parser = argparse.ArgumentParser()
    parser.add_argument("--viewers", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--updates", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        Path(folder).chmod(0o755)
        os.environ.pop("DATABASE_URL", None)
        os.environ.update(FINETUNE_DATA_DIR=folder, DJANGO_SETTINGS_MODULE="finetune_site.settings")
        server = Embedded(Path(folder), durable=False)
        server.start()
        web = None
        try:
            import django

            django.setup()
            job, cookie = _prepare()
            port = free_port()
            web = start_web(port, "benchmarks.live:counted", "--factory")
            results = {
                count: asyncio.run(_measure(count, options.updates, job, cookie, port)) for count in options.viewers
            }
            renders = _renders().stat().st_size / (options.updates * len(options.viewers))
            rss = int(Path(f"/proc/{web.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        finally:
            if web:
                web.terminate()
                web.wait(20)
            server.stop()
    _report(results, renders, rss)


def _prepare() -> tuple[Any, str]:
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.test import Client

    from finetune_site.jobs import queue, services
    from finetune_site.jobs.kinds import all_kinds
    from finetune_site.lib.kernel import start_time
    from finetune_site.projects.services import create_project

    for command in ("migrate", "createcachetable"):
        call_command(command, verbosity=0)
    call_command("collectstatic", interactive=False, verbosity=0)
    user = User.objects.create_superuser("viewer", "", "password-for-the-benchmark")
    project = create_project(actor=user, name="Benchmark")
    kind = all_kinds()[0]
    services.enqueue(project=project, owner=user, kind=kind.name, label="watched")
    job = queue.claim(kind.queue, pid=os.getpid(), pid_started=start_time(os.getpid()) or 0)
    client = Client()
    client.force_login(user)
    return job, client.cookies[settings.SESSION_COOKIE_NAME].value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_web(port: int, *application: str) -> subprocess.Popen[bytes]:
    web = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", *application, "--port", str(port),
         "--lifespan", "off", "--log-level", "error", "--timeout-graceful-shutdown", "1", "--backlog", "4096"],
        cwd=ROOT, env={**os.environ, "FINETUNE_DATABASE_POOL": "1"},
    )  # fmt: skip
    wait_for_web(port)
    return web


def wait_for_web(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def counted() -> Any:
    """The site as uvicorn serves it, with every rendering of an event counted: a byte in a file."""
    from finetune_site.asgi import application
    from finetune_site.jobs import live

    render = live.render

    def count(event: Any) -> Any:
        with _renders().open("ab") as file:
            file.write(b".")
        return render(event)

    live.render = count
    return application


def _renders() -> Path:
    return Path(os.environ["FINETUNE_DATA_DIR"]) / "renders"


def _write(job: Any, step: int, updates: int) -> None:
    """Progress as a job's handle writes it."""
    from django.db import transaction

    from finetune_site.jobs import queue
    from finetune_site.jobs.events import record

    with transaction.atomic():
        queue.update(job, done=step, total=updates, message=f"update {step}")
        record(job, "progress")


async def _measure(count: int, updates: int, job: Any, cookie: str, port: int) -> dict[str, float]:
    from asgiref.sync import sync_to_async

    arrivals: dict[int, list[float]] = {}
    gate = asyncio.Semaphore(50)
    ready = [asyncio.Event() for _ in range(count)]
    tasks = [asyncio.create_task(_watch(job, (port, cookie), arrivals, gate, flag)) for flag in ready]
    began = time.perf_counter()
    await asyncio.wait_for(asyncio.gather(*(flag.wait() for flag in ready)), 120)
    connected = time.perf_counter() - began
    written = {}
    for step in range(updates):
        written[step] = time.perf_counter()
        await sync_to_async(_write)(job, step, updates)
        await asyncio.sleep(PAUSE_SECONDS)
    await asyncio.sleep(3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    delays = sorted(1000 * (at - written[step]) for step, times in arrivals.items() for at in times)
    return {
        "p50_ms": round(statistics.median(delays), 1),
        "p95_ms": round(delays[int(0.95 * len(delays))], 1),
        "delivered": len(delays) / (updates * count),
        "connect_s": round(connected, 1),
    }


async def _watch(
    job: Any, door: tuple[int, str], arrivals: dict[int, list[float]], gate: asyncio.Semaphore, ready: asyncio.Event
) -> None:
    port, cookie = door
    async with gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"GET /projects/{job.project_id}/live?jobs={job.pk} HTTP/1.1\r\nHost: localhost\r\n"
            f"Cookie: sessionid={cookie}\r\nAccept: text/event-stream\r\n\r\n".encode()
        )
        while b"event: hello" not in await reader.readline():
            pass
    ready.set()
    try:
        while line := await reader.readline():
            if found := re.search(rb">update (\d+)<", line):
                arrivals.setdefault(int(found[1]), []).append(time.perf_counter())
    finally:
        writer.close()


def _report(results: dict[int, dict[str, float]], renders: float, rss: int) -> None:
    print(f"{'viewers':>8} {'p50 ms':>8} {'p95 ms':>8} {'delivered':>10} {'connect s':>10}")
    for count, row in results.items():
        print(f"{count:>8} {row['p50_ms']:>8} {row['p95_ms']:>8} {row['delivered']:>10.1%} {row['connect_s']:>10}")
    print(f"web process: {rss / 2**20:.0f} MiB")
    summary = {f"viewers_{count}": row for count, row in results.items()}
    print(json.dumps({**summary, "renders_per_update": renders, "web_rss_mib": round(rss / 2**20)}))


if __name__ == "__main__":
    main()
