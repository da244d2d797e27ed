"""A training on several machines: workers on a Ray cluster that runs already, brought together by Ray Train.

The engine that the site supervises computes nothing: it starts the driver (`driver.py`, which speaks with Ray), tells
the first worker's events as its own and hands a request to stop on. A worker (`worker.py`) runs the very `train` of a
single machine. Ray carries the start and what goes wrong; events, checkpoints and the wish to stop lie in the run
folder, which every machine must see under the same path.
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune_site.lib.channel import EXIT_INPUT, Cancelled, Channel, InputError, load_json, parse_json, write_json
from training_app.engine.spec import TrainSpec

HEAD_WAIT_SECONDS = 30  # a head that starts again answers within that
NOTICE_SECONDS = 60
LEAVE_SECONDS = 20
LOOK_SECONDS = 0.2
RAY_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass(frozen=True)
class Attempt:
    """The folder through which engine, driver and workers of one attempt talk. An attempt whose folder is gone is over.

    The next attempt has another folder: no stale wish stops it, and no event of workers that still live is taken for
    one of its own.
    """

    folder: Path

    @classmethod
    def begin(cls, spec: TrainSpec) -> "Attempt":
        """A new folder; those of earlier attempts go, so that workers they left behind stop."""
        folder = Path(spec.run_dir) / "cluster"
        shutil.rmtree(folder, ignore_errors=True)
        attempt = cls(folder / uuid.uuid4().hex)
        attempt.folder.mkdir(parents=True)
        attempt._wish.write_text("train")
        attempt.events.touch()
        write_json(attempt._spec, asdict(spec))
        return attempt

    @property
    def spec(self) -> TrainSpec:
        return TrainSpec(**load_json(self._spec))

    @property
    def is_here(self) -> bool:
        """False on a machine that does not see the run folder."""
        return self._spec.exists()

    @property
    def events(self) -> Path:
        """What the first worker tells."""
        return self.folder / "events.jsonl"

    @property
    def failure(self) -> Path:
        """Why the driver ended, in a sentence."""
        return self.folder / "failure.json"

    @property
    def should_stop(self) -> bool:
        """Read and not looked for: over NFS a file that came into being is seen late, new content at once."""
        try:
            return self._wish.read_text() == "stop"
        except OSError:
            return True

    def stop(self) -> None:
        self._wish.write_text("stop")

    @property
    def _wish(self) -> Path:
        return self.folder / "wish"

    @property
    def _spec(self) -> Path:
        return self.folder / "spec.json"


def train_on_cluster(spec: TrainSpec, channel: Channel) -> dict[str, Any]:
    """Train in `spec.run_dir` with `spec.processes` workers and return the run's figures."""
    if not spec.run_dir:
        raise InputError("The spec lacks run_dir.")
    if not spec.ray_address:
        raise InputError(
            "The run asks for the Ray cluster, but this site knows none. An operator names one in FINETUNE_RAY_ADDRESS."
        )
    if importlib.util.find_spec("ray") is None:
        raise InputError("Ray is not installed. An operator installs it with: pip install '.[ray]'")
    run_dir = Path(spec.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    if (run_dir / "result.json").exists():
        return load_json(run_dir / "result.json")
    _reach(spec.ray_address, channel)
    attempt = Attempt.begin(spec)
    try:
        with _driver(attempt) as driver:
            return _follow(driver, attempt, channel)
    finally:
        shutil.rmtree(attempt.folder, ignore_errors=True)


@contextlib.contextmanager
def _driver(attempt: Attempt) -> "Iterator[subprocess.Popen[bytes]]":
    """Ray in a process of its own, which it may end as it likes. Its standard input ends when we do; when it dies, Ray
    ends its workers."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "training_app.engine.driver", str(attempt.folder)],
        stdin=subprocess.PIPE,
        stdout=sys.stderr,
        env={**os.environ, **RAY_VARIABLES},
    )
    try:
        yield driver
        with contextlib.suppress(subprocess.TimeoutExpired):  # the work is done; this only tidies up
            driver.wait(LEAVE_SECONDS)
    finally:
        driver.kill()
        driver.wait()


def _follow(driver: "subprocess.Popen[bytes]", attempt: Attempt, channel: Channel) -> dict[str, Any]:
    """Tell every event of the first worker once and in order, until it says how it ended or the driver ends."""
    has_begun = has_asked = False
    notice_at = time.monotonic() + NOTICE_SECONDS
    told = 0
    while True:
        has_ended = driver.poll() is not None
        for line in _lines(attempt.events, told):
            has_begun, told = True, told + len(line)
            event = parse_json(line.decode())
            if event["event"] == "done":
                return dict(event["result"])
            if event["event"] == "cancelled":
                raise Cancelled
            if event["event"] != "joined":
                channel.emit(**event)
        if has_ended:
            raise _reason(attempt, driver.returncode)
        if channel.should_stop and not has_asked:
            attempt.stop()
            has_asked = True
        if has_asked and not has_begun:
            raise Cancelled
        if not has_begun and time.monotonic() > notice_at:
            notice_at = float("inf")
            channel.emit("warning", message="Waiting until enough devices of the Ray cluster are free.")
        time.sleep(LOOK_SECONDS)


def _lines(path: Path, start: int) -> list[bytes]:
    """The whole lines of a file from a place on; the last one may still be being written."""
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            return [line for line in stream if line.endswith(b"\n")]
    except FileNotFoundError as error:
        raise InputError("Another engine has taken this run over.") from error


def _reason(attempt: Attempt, code: int) -> Exception:
    with contextlib.suppress(InputError):
        message = str(load_json(attempt.failure)["message"])
        return InputError(message) if code == EXIT_INPUT else RuntimeError(message)
    return RuntimeError(f"The driver on the Ray cluster ended with code {code}.")


def _reach(address: str, channel: Channel) -> None:
    """Wait until the head answers: Ray itself would end a process without a word."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"FINETUNE_RAY_ADDRESS must be host:port or auto, not {address!r}.")
    deadline = time.monotonic() + HEAD_WAIT_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"The Ray cluster at {address} does not answer ({error}). Nothing is lost: once an operator has "
                    "started it, resume the run."
                ) from error
        channel.check()
        time.sleep(1)
