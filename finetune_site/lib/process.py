"""Processes: who is alive, detached starts, and the supervisor's end of an engine's channel.

`finetune_site.lib.channel` is the other end. No model, no Django.
"""

import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from finetune_site.lib.channel import parse_json
from finetune_site.lib.kernel import Limits, apply, start_time
from finetune_site.lib.nursery import Child, NurseryClosed, nursery_of

_libc = ctypes.CDLL(None)  # loaded before any fork
_PR_SET_PDEATHSIG = 1
STOP_GRACE_SECONDS = 90
# The site's own settings, its database and its keys: an engine is told what it needs and inherits none of them.
HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # only engines that fetch from the hub are given them
PRIVATE_VARIABLES = ("FINETUNE_", "DATABASE_URL", "DJANGO_", "PG", "POSTGRES_", "LABEL_STUDIO_", "AWS_", *HUB_TOKENS)
_TAIL_BYTES = 4000
MAX_LINE_BYTES, MAX_EVENTS = 16 * 2**20, 10_000


@dataclass(frozen=True)
class Outcome:
    """How an engine ended: `returncode` is negative for a signal; `failure` is its `failed` event, if it wrote one."""

    returncode: int
    timed_out: bool
    failure: dict[str, Any] = field(default_factory=dict)
    log_tail: str = ""


def is_alive(pid: int | None, started: int | None) -> bool:
    """True when the very process (not another under the same number) still lives."""
    return pid is not None and started is not None and start_time(pid) == started


def kill_group(pid: int | None, started: int | None) -> bool:
    """Kill the process group of a process that is still the one meant. False when there was nothing to kill."""
    if pid is None or not is_alive(pid, started):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(os.getpgid(pid), signal.SIGKILL)
    return True


def start_detached(argv: list[str], *, log_path: Path, env: Mapping[str, str] | None = None) -> None:
    """Start a program in its own session, child of nobody here: it outlives its starter, who need not reap it."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        subprocess.run(
            ["setsid", "--fork", *argv],  # noqa: S607  # nosec B607
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(env or {})},
            check=True,
        )


class Engine:
    """A running engine in its own process group. Use as a context manager: leaving it kills the group.

    Its standard input stays open as long as we live: end-of-file tells the engine that nobody watches any more.
    """

    def __init__(
        self,
        module: str,
        arguments: list[str],
        *,
        log_path: Path,
        limits: Limits | None = None,
        env: Mapping[str, str] | None = None,
        preload: str | None = None,
    ) -> None:
        """`preload`: a module that imports what the engine needs; from the second engine on it then begins at once."""
        self._log_path = log_path
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue(MAX_EVENTS)
        self._is_silent = threading.Event()  # it writes no more events: it has ended, or will at once
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = log_path.stat().st_size if log_path.exists() else 0
        public = _public_environment()
        with log_path.open("ab") as log:
            begin = _Beginning(module, arguments, log.fileno(), {**public, **(env or {})}, limits or Limits())
            begun = begin.as_fork_of(preload, public) if preload else None
            self._process, self._input, self._output = begun or begin.as_program()
        self.pid = self._process.pid
        self.started = start_time(self.pid)
        wall_seconds = limits.wall_seconds if limits else None
        self._deadline = time.monotonic() + wall_seconds if wall_seconds else None
        threading.Thread(target=self._read, daemon=True, name="engine events").start()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._input, self._output):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def send(self, request: dict[str, Any]) -> None:
        """Write one request line to the engine; `BrokenPipeError` when it is gone."""
        self._input.write(json.dumps(request).encode() + b"\n")
        self._input.flush()

    def next_event(self, timeout: float) -> dict[str, Any] | None:
        """The next event within `timeout` seconds, else None; None at once when it will write no more."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    @property
    def is_done(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        """Ask the engine to save and end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def run(self, on_event: Callable[[dict[str, Any]], None], should_stop: Callable[[], bool]) -> Outcome:
        """Pass every event to `on_event` until the engine ends. `should_stop` is asked several times a second."""
        failure: dict[str, Any] = {}
        asked_at: float | None = None
        timed_out = has_finished = False
        while True:
            event = self.next_event(0.25)
            if event is not None:
                if event["event"] == "failed":
                    failure = event
                has_finished = has_finished or event["event"] == "done"
                on_event(event)
            elif self._events.empty() and self._has_ended():
                break
            now = time.monotonic()
            if asked_at is None and should_stop():
                asked_at = now
                self.stop()
            if self._deadline and now > self._deadline:
                timed_out = True
            if timed_out or (asked_at and now - asked_at > STOP_GRACE_SECONDS):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
        code = self._process.wait()
        # Its result was written before `done`: what a signal or a library breaks after that breaks nothing.
        return Outcome(0 if has_finished else code, timed_out, failure, self._log_tail())

    def _read(self) -> None:
        # No line without an end, and no more events than somebody takes: a hostile file may have taken the engine over.
        for line in iter(lambda: self._output.readline(MAX_LINE_BYTES), b""):
            # A process that ignores the contract (a crash in the interpreter, say) must not break its supervisor.
            with contextlib.suppress(ValueError, TypeError, KeyError):
                event = parse_json(line.decode())
                event["event"]
                self._events.put(event)
        self._is_silent.set()
        self._events.put(None)  # whoever waits for an event need not

    def _has_ended(self) -> bool:
        if self._is_silent.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.25)
        return self.is_done

    def _log_tail(self) -> str:
        with self._log_path.open("rb") as log:
            log.seek(max(self._log_start, self._log_path.stat().st_size - _TAIL_BYTES))
            return log.read().decode(errors="replace")


_Begun = tuple["subprocess.Popen[bytes] | Child", IO[bytes], IO[bytes]]  # the process, its input, its output


@dataclass(frozen=True)
class _Beginning:
    """What an engine begins with, in either of two ways."""

    module: str
    arguments: list[str]
    log: int
    env: Mapping[str, str]
    limits: Limits

    def as_program(self) -> _Begun:
        process = subprocess.Popen(
            [sys.executable, "-m", self.module, *self.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=self.env,
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,
            preexec_fn=lambda: apply(self.limits),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        return process, process.stdin, process.stdout

    def as_fork_of(self, preload: str, public: Mapping[str, str]) -> _Begun | None:
        """None: no nursery could be had, and the program itself will say what is missing."""
        (its_input, to_it), (from_it, its_output) = os.pipe(), os.pipe()
        try:
            streams = (its_input, its_output, self.log)
            nursery = nursery_of(preload, public)
            child = nursery.fork(self.module, self.arguments, streams, self.env, self.limits)
        except NurseryClosed:
            os.close(to_it)
            os.close(from_it)
            return None
        finally:
            os.close(its_input)
            os.close(its_output)
        return child, os.fdopen(to_it, "wb"), os.fdopen(from_it, "rb")


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """For `preexec_fn`: the new process gets this signal when its parent is gone, whatever ended it."""
    _libc.prctl(_PR_SET_PDEATHSIG, number)


def _public_environment() -> dict[str, str]:
    """Our environment without the site's secrets: an engine that a hostile file has taken over finds none."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PRIVATE_VARIABLES)}
