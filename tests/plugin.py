"""Starts the embedded Postgres before Django reads its settings (pytest-django does that earlier than any conftest).

Loaded by `-p tests.plugin` in pyproject.toml. DATABASE_URL points the tests at another server. Of several processes
(pytest -n) the first starts the server; each has a database and a data folder of its own.
"""

import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from finetune_site.lib.postgres import Embedded

_folders: list[Path] = []
_started: list[Embedded] = []


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Generator[None, None, None]:
    folder = Path(tempfile.mkdtemp(prefix="finetune-test-"))
    folder.chmod(0o755)
    _folders.append(folder)
    os.environ.update(FINETUNE_DATA_DIR=str(folder), FINETUNE_SECRET_KEY="only-for-tests-" + "x" * 40)
    # Two processes test at once on two cores: threads that wait for each other make all of it several times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("FINETUNE_ENGINE_THREADS", "1")
    os.environ.setdefault("FINETUNE_WARM_TRAINING", "on")  # hundreds of engines, each ten seconds of imports
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Playwright's synchronous interface keeps an event loop in its thread, which Django takes for an async caller.
    os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    if not os.environ.get("DATABASE_URL"):
        server = Embedded(folder, durable=False)
        server.start()
        os.environ["DATABASE_URL"] = server.dsn
        _started.append(server)
    return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of browser tests last: from the first of them on an event loop runs in this thread, and Django refuses to
    run its own. Several processes take whole files in this order (`--no-loadscope-reorder`): files that hold slow tests
    come first, so that what is left at the end is short."""
    browser_files = {item.path for item in items if _is_browser_test(item)}
    if mixed := {item.path.name for item in items if item.path in browser_files and not _is_browser_test(item)}:
        raise pytest.UsageError(f"Browser tests need a file of their own: {', '.join(sorted(mixed))} holds others too.")
    long_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (_is_browser_test(item), item.path not in long_files))


def _is_browser_test(item: pytest.Item) -> bool:
    return item.get_closest_marker("browser") is not None


def pytest_unconfigure() -> None:
    for server in _started:
        server.stop()
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)
