"""Engines that begin at once: a process that has imported what they need forks them.

Importing an engine's libraries takes seconds, forking a process that has them a hundredth of one. A nursery has the
environment of an engine (no secret of the site), reads no file of a user's, has one thread, and ends with the process
that began it. `python -m finetune_site.lib.nursery MODULE DESCRIPTOR` is its program; MODULE imports the libraries.
Standard library only.
"""

import contextlib
import gc
import importlib
import json
import os
import queue
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_site.lib.kernel import Limits, apply, start_time

_MESSAGE_BYTES = 2**20
_ROOT = Path(__file__).resolve().parents[2]


class NurseryClosed(OSError):
    """It could not begin or has ended: the engine has to be started as a program."""


class Child:
    """An engine that a nursery forked, as `subprocess.Popen` would show it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._started = start_time(pid)
        self._code: int | None = None
        self._known = threading.Event()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._code if self._known.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code once it has ended; `subprocess.TimeoutExpired` after `timeout` seconds."""
        if not self._known.wait(timeout):
            raise subprocess.TimeoutExpired("engine", timeout or 0)
        assert self._code is not None
        return self._code

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens once it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def end(self, code: int) -> None:
        """Its nursery tells how it ended."""
        self._code = code
        self._known.set()

    def watch(self) -> None:
        """Its nursery is gone: nobody will tell how it ends, so it is looked after until it does."""
        while self._started is not None and start_time(self.pid) == self._started:
            time.sleep(0.1)
        if not self._known.is_set():
            self.end(-signal.SIGKILL)


class Nursery:
    """The near end. Threads may share one."""

    def __init__(self, preload: str, env: Mapping[str, str]) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, preload, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=dict(env),
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._asking = threading.Lock()
        self._born: queue.SimpleQueue[Child | None] = queue.SimpleQueue()
        self._closed = False
        threading.Thread(target=self._listen, daemon=True, name="nursery").start()

    @property
    def is_closed(self) -> bool:
        """True once it can fork no more."""
        return self._closed

    def fork(
        self, module: str, arguments: list[str], streams: tuple[int, int, int], env: Mapping[str, str], limits: Limits
    ) -> Child:
        """Begin `python -m module arguments` with the descriptors of its standard streams, in a process group of its
        own. `NurseryClosed` when it cannot."""
        request = {"module": module, "arguments": arguments, "env": dict(env), "limits": vars(limits)}
        with self._asking:
            try:
                socket.send_fds(self._link, [json.dumps(request).encode()], list(streams))
            except OSError as error:
                raise NurseryClosed(str(error)) from error
            child = self._born.get()
            if child is None:
                self._born.put(None)  # for whoever asks next
                raise NurseryClosed("It has ended.")
            return child

    def _listen(self) -> None:
        children: dict[int, Child] = {}
        while message := self._receive():
            if "code" in message:
                children.pop(message["pid"]).end(message["code"])
            else:
                children[message["pid"]] = child = Child(message["pid"])
                self._born.put(child)
        self._closed = True
        self._born.put(None)
        self._process.wait()
        for child in children.values():
            threading.Thread(target=child.watch, daemon=True, name="engine's end").start()

    def _receive(self) -> dict[str, Any] | None:
        try:
            answer = self._link.recv(_MESSAGE_BYTES)
        except OSError:
            return None
        return dict(json.loads(answer)) if answer else None


_nurseries: dict[str, Nursery] = {}
_beginning = threading.Lock()


def nursery_of(preload: str, env: Mapping[str, str]) -> Nursery:
    """The nursery of this process in which that module is imported; begun at the first call."""
    with _beginning:
        known = _nurseries.get(preload)
        if known is None or known.is_closed:
            known = _nurseries[preload] = Nursery(preload, env)
        return known


@dataclass(frozen=True)
class _Request:
    """What a forked process has to become."""

    module: str
    arguments: list[str]

    def become(self) -> None:
        sys.argv = [self.module, *self.arguments]
        runpy.run_module(self.module, run_name="__main__", alter_sys=True)


def _serve(link: socket.socket, made: Mapping[str, str]) -> _Request | None:
    """The far end: fork as asked until the near end is gone (None). Returns in each child too, with what it is to be.

    `made` is what the imports have put into the environment, which every child needs as well.
    """
    awake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([link.fileno(), awake], [], [])
        if awake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(awake, 4096)
            _tell_ends(link)
        if link.fileno() not in ready:
            continue
        message, streams, _, _ = socket.recv_fds(link, _MESSAGE_BYTES, 3)
        if not message:
            return None
        asked = json.loads(message)
        pid = os.fork()
        if pid == 0:
            for descriptor in (awake, wake):
                os.close(descriptor)
            link.close()
            return _in_child(asked, streams, made)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)  # here too: whoever is told of it may end its group at once
        for descriptor in streams:
            os.close(descriptor)
        link.send(json.dumps({"pid": pid}).encode())


def _in_child(asked: dict[str, Any], streams: list[int], made: Mapping[str, str]) -> _Request:
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for target, descriptor in enumerate(streams):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update({**asked["env"], **made})
    tempfile.tempdir = None  # an import may have settled on the nursery's
    apply(Limits(**asked["limits"]))
    return _Request(asked["module"], asked["arguments"])


def _tell_ends(link: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError, BrokenPipeError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            link.send(json.dumps({"pid": ended[0], "code": os.waitstatus_to_exitcode(ended[1])}).encode())


def main(preload: str, descriptor: int) -> Callable[[], None] | None:
    """Import, then fork as asked; in a forked process gives what to do there."""
    before = dict(os.environ)
    importlib.import_module(preload)
    made = {name: value for name, value in os.environ.items() if before.get(name) != value}
    made |= {name: os.environ[name] for name in ("LD_PRELOAD",) if name in os.environ}  # it holds in every fork
    gc.freeze()  # a collection in a child would copy the pages of everything imported
    request = _serve(socket.socket(fileno=descriptor), made)
    return request.become if request else None


if __name__ == "__main__":
    if become := main(sys.argv[1], int(sys.argv[2])):
        become()
