"""A real browser on the real application, with the jobs done by the real runner in a thread."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection
from playwright.sync_api import expect

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCREENSHOTS = Path("docs/screenshots")
# What should come is waited for as long as a slow machine takes: models are trained and files made meanwhile.
PATIENCE = 600_000
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args):
    program = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    return {**browser_type_launch_args, "executable_path": program, "args": CHROMIUM_ARGUMENTS}


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args):
    return {**browser_context_args, "viewport": {"width": 1280, "height": 860}}


@pytest.fixture
def context(context):
    context.set_default_timeout(180_000)
    return context


@pytest.fixture
def page(page):
    """Keys are pressed once the page's scripts listen: its words are there before them, and a key would be lost."""
    press = page.keyboard.press

    def press_when_heard(key: str) -> None:
        page.wait_for_load_state()
        press(key)

    page.keyboard.press = press_when_heard
    return page


@pytest.fixture
def workers(transactional_db, settings) -> Iterator[None]:
    """A thread for each queue that does what waits, as runners do."""
    from finetune_site.jobs import queue
    from finetune_site.jobs.runner import Runner
    from finetune_site.lib.kernel import start_time

    settings.JOB_HEARTBEAT_SECONDS = 1
    stop = threading.Event()

    def work(name: str) -> None:
        try:
            while not stop.is_set():
                job = queue.claim(name, pid=os.getpid(), pid_started=start_time(os.getpid()) or 0)
                if job:
                    Runner(name, 0).do(job)
                stop.wait(0.1)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in settings.JOB_SLOTS]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join(120)


@pytest.fixture
def shoot(page, request):
    """Save a screenshot for the documentation when `SCREENSHOTS=1`; else just look that the page has no error."""

    def take(name: str) -> None:
        if os.environ.get("SCREENSHOTS"):
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=SCREENSHOTS / f"{name}.png")

    return take
