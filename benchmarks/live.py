"""How many viewers of one running job one web process serves, and how long a write takes to reach them.

Starts an embedded Postgres and one uvicorn process as `make run` does, opens the viewers as real HTTP streams of a
logged-in user, writes progress of one job, and measures from just before the write's transaction to the arrival of
the frame at each viewer. Run alone: `.venv/bin/python benchmarks/live.py`.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PORT = 8765
VIEWERS = (100, 1000)
UPDATES = 20
PAUSE_SECONDS = 0.5


def main() -> None:
    from finetune_site.lib.postgres import Embedded

    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        Path(folder).chmod(0o755)
        os.environ.update(FINETUNE_DATA_DIR=folder, DJANGO_SETTINGS_MODULE="finetune_site.settings")
        server = Embedded(Path(folder), durable=False)
        server.start()
        web = None
        try:
            import django

            django.setup()
            job, cookie = _prepare()
            web = _start_web()
            results = {count: asyncio.run(_measure(count, job, cookie)) for count in VIEWERS}
            rss = int(Path(f"/proc/{web.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        finally:
            if web:
                web.terminate()
                web.wait(20)
            server.stop()
    _report(results, rss)


def _prepare():
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.test import Client

    from finetune_site.jobs import queue, services
    from finetune_site.jobs.kinds import all_kinds
    from finetune_site.lib.process import start_time
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


def _start_web() -> subprocess.Popen[bytes]:
    web = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "finetune_site.asgi:application", "--port", str(PORT), "--lifespan", "off",
         "--log-level", "error", "--timeout-graceful-shutdown", "1", "--backlog", "4096"],
        cwd=ROOT, env={**os.environ, "FINETUNE_DATABASE_POOL": "1"},
    )  # fmt: skip
    time.sleep(4)
    return web


async def _measure(count: int, job, cookie: str) -> dict[str, float]:
    from asgiref.sync import sync_to_async

    from finetune_site.jobs.events import record

    arrivals: dict[int, list[float]] = {}
    gate = asyncio.Semaphore(50)
    ready = [asyncio.Event() for _ in range(count)]
    tasks = [asyncio.create_task(_watch(job, cookie, arrivals, gate, flag)) for flag in ready]
    began = time.perf_counter()
    await asyncio.wait_for(asyncio.gather(*(flag.wait() for flag in ready)), 120)
    connected = time.perf_counter() - began
    written = {}
    for step in range(UPDATES):
        written[step] = time.perf_counter()
        await sync_to_async(record)(job, "step", {"step": step})
        await asyncio.sleep(PAUSE_SECONDS)
    await asyncio.sleep(3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    delays = sorted(1000 * (at - written[step]) for step, times in arrivals.items() for at in times)
    return {
        "p50_ms": round(statistics.median(delays), 1),
        "p95_ms": round(delays[int(0.95 * len(delays))], 1),
        "delivered": len(delays) / (UPDATES * count),
        "connect_s": round(connected, 1),
    }


async def _watch(job, cookie: str, arrivals, gate: asyncio.Semaphore, ready: asyncio.Event) -> None:
    async with gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        writer.write(
            f"GET /projects/{job.project_id}/live?jobs={job.pk} HTTP/1.1\r\nHost: localhost\r\n"
            f"Cookie: sessionid={cookie}\r\nAccept: text/event-stream\r\n\r\n".encode()
        )
        while b"event: hello" not in await reader.readline():
            pass
    ready.set()
    try:
        while line := await reader.readline():
            if line.startswith(b"data: ") and b'"step"' in line:
                arrivals.setdefault(json.loads(line[6:])["body"]["step"], []).append(time.perf_counter())
    finally:
        writer.close()


def _report(results: dict[int, dict[str, float]], rss: int) -> None:
    print(f"{'viewers':>8} {'p50 ms':>8} {'p95 ms':>8} {'delivered':>10} {'connect s':>10}")
    for count, row in results.items():
        print(f"{count:>8} {row['p50_ms']:>8} {row['p95_ms']:>8} {row['delivered']:>10.1%} {row['connect_s']:>10}")
    print(f"web process: {rss / 2**20:.0f} MiB")
    # Each event is rendered once per web process, however many watch: tests/site/test_live.py proves it.
    summary = {f"viewers_{count}": row for count, row in results.items()}
    print(json.dumps({**summary, "renders_per_update": 1, "web_rss_mib": round(rss / 2**20)}))


if __name__ == "__main__":
    main()
