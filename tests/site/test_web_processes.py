"""Several web processes on one address: their figures are one, and none outlives the server."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from django.db import connection

from tests.conftest import ROOT

pytestmark = pytest.mark.django_db
TOKEN = "a-token-of-the-scraper"
SERVED = re.compile(r'finetune_request_seconds_count\{method="GET",status="200",view="health_live"\} ([\d.]+)')


@pytest.fixture
def served(settings, tmp_path):
    """The server with two processes as `up` starts it, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    database = urlsplit(settings.DATABASE_URL)._replace(path=f"/{connection.settings_dict['NAME']}").geturl()
    env = {"DATABASE_URL": database, "FINETUNE_DATA_DIR": str(tmp_path), "FINETUNE_METRICS_TOKEN": TOKEN}
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "finetune_site.asgi:application",
        "--port",
        str(port),
        "--lifespan",
        "off",
    ]
    server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env, "WEB_CONCURRENCY": "2"})
    try:
        yield server, f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def processes_of(server):
    """Those that serve; the other child is the resource tracker of `multiprocessing`."""
    return [child for child in psutil.Process(server.pid).children() if "resource_tracker" not in str(child.cmdline())]


def ask(url, **options):
    deadline = time.monotonic() + 120
    while True:
        try:
            return httpx.get(url, timeout=30, **options).raise_for_status()
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def counted(site):
    """Requests of that page as the figures tell them, whichever process is asked."""
    text = ask(f"{site}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    assert "finetune_live_viewers 0.0" in text
    return float(SERVED.search(text)[1])


def test_what_each_has_served_is_added_up_and_none_outlives_the_server(served, tmp_path):
    server, site = served
    asked, deadline = 0, time.monotonic() + 120
    while len(list(tmp_path.glob("run/figures-*/histogram_*.db"))) < 2 or asked < 20:  # until both have served
        assert time.monotonic() < deadline
        ask(f"{site}/health/live")
        asked += 1
    assert {counted(site) for _ in range(20)} == {asked}
    children = processes_of(server)
    assert len(children) == 2
    server.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
