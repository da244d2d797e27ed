"""The whole site, started as people start it, loses one part after another while a run trains."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.engine.tiny import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]
UP = [sys.executable, "manage.py", "up"]
KEPT = {"DATABASE_URL", "FINETUNE_SECRET_KEY", "FINETUNE_WARM_TRAINING", "DJANGO_ALLOW_ASYNC_UNSAFE"}


@pytest.fixture
def environment():
    """That of a site with a data folder of its own."""
    data = Path(tempfile.mkdtemp(prefix="finetune-site-"))  # not in tmp_path, which only root can enter
    data.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in KEPT}
    yield {**kept, "FINETUNE_DATA_DIR": str(data), "FINETUNE_ENGINE_THREADS": "1"}
    shutil.rmtree(data)


@pytest.fixture
def running_site(environment, tmp_path):
    """`manage.py up`; yields its environment, its address and its process."""
    port = free_port()
    log = (tmp_path / "up.log").open("w")
    site = subprocess.Popen([*UP, "--port", port], cwd=ROOT, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    wait_for(lambda: answers(address), 600)
    yield environment, address, site
    site.send_signal(signal.SIGINT)
    site.wait(600)


def members(site: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(site.pid).children(recursive=True)


def is_cluster(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()[-2:] == ["cluster", "default"]
    return False


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/login", timeout=30) as response:
        return bool(response.status == 200)
    return False


def wait_for(is_so, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.2)


def test_the_exit_code_of_make_demo_is_that_of_the_demo(environment):
    demo = [*UP, "--port", free_port(), "--then", "demo", "--doc", "no such file.pdf"]
    done = subprocess.run(demo, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert "There is no file no such file.pdf" in done.stderr
    assert done.returncode != 0


def test_a_second_start_leaves_the_first_alone_and_works_in_it(running_site):
    environment, address, site = running_site

    def start(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*UP, *options], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)

    again = start("--port", "1")
    assert again.returncode != 0
    assert "runs already" in again.stderr
    beside = start("--then", "demo", "--doc", "no such file.pdf")
    assert beside.returncode != 0
    assert "There is no file no such file.pdf" in beside.stderr
    assert site.poll() is None
    assert answers(address)


@pytest.mark.slow
def test_a_run_survives_the_loss_of_every_part(running_site, tmp_path):
    environment, address, _ = running_site
    tiny = make_tiny_model(tmp_path / "tiny")
    walk = subprocess.run(
        [sys.executable, "-m", "tests.site.recovery_walk", str(tiny)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2300,
    )  # fmt: skip
    assert walk.returncode == 0, walk.stderr[-3000:] + (tmp_path / "up.log").read_text()[-3000:]
    seen = json.loads(walk.stdout.splitlines()[-1])
    assert seen["state"] == "succeeded", seen["error"]
    assert seen["steps"] == list(range(1, 321))
    assert seen["difference"] < 1e-3
    assert seen["claims"] >= 3  # the engine's and the runner's loss each began another attempt
    assert all(event["went_on_at"] > event["at"] for event in seen["events"].values())
    assert answers(address)


@pytest.mark.slow
def test_an_end_by_ctrl_c_leaves_no_process_and_the_next_start_has_everything(running_site, tmp_path):
    environment, address, site = running_site
    family = members(site)
    assert len(family) > 8
    supervisor = next(one for one in family if is_cluster(one))
    supervisor.kill()  # what it supervised must not outlive it
    wait_for(lambda: any(is_cluster(one) for one in members(site) if one.pid != supervisor.pid), 120)
    family = list({*family, *members(site)})
    site.send_signal(signal.SIGINT)
    assert site.wait(600) == 0
    _, alive = psutil.wait_procs(family, timeout=120)
    assert alive == []
    told = (tmp_path / "up.log").read_text()
    assert "First start" in told and "made “Sample: the Kestrel mill”" in told
    again = subprocess.Popen(
        [*UP, "--port", address.rpartition(":")[2]],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: answers(address), 600)
    again.send_signal(signal.SIGINT)
    out, _ = again.communicate(timeout=600)
    assert "First start" not in out
