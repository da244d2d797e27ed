"""Slots of this machine: how many runners a queue may have here, one lock file each.

A lock on a file dies with its holder, whatever killed it, and needs no database.
"""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from django.conf import settings

from finetune_site.lib.process import start_time

STOP_SECONDS = 95


@dataclass(frozen=True)
class Holder:
    queue: str
    slot: int
    pid: int


def take(queue: str, slot: int) -> IO[str] | None:
    """Hold a slot until the returned file is closed or this process ends; None when somebody holds it."""
    stream = _path(queue, slot).open("a+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    stream.truncate(0)
    stream.write(f"{os.getpid()}\n")
    stream.flush()
    return stream


def free(queue: str) -> list[int]:
    """The numbers of the slots that nobody holds at this moment."""
    return [slot for slot in range(settings.JOB_SLOTS[queue]) if not _is_held(_path(queue, slot))]


def holders() -> Iterator[Holder]:
    """The runners alive on this machine."""
    for path in sorted(_folder().glob("*.slot")):
        queue, _, slot = path.stem.rpartition("-")
        text = path.read_text().strip()
        if text.isdecimal() and _is_held(path) and start_time(int(text)) is not None:
            yield Holder(queue, int(slot), int(text))


def stop_holders(say: Callable[[str], object]) -> None:
    """Tell the runners of this machine to leave and wait: an engine finishes its step and saves a checkpoint."""
    told: set[int] = set()
    deadline = time.monotonic() + STOP_SECONDS
    while waiting := list(holders()):
        for holder in waiting:
            with contextlib.suppress(ProcessLookupError):
                if time.monotonic() > deadline:
                    os.killpg(holder.pid, signal.SIGKILL)
                elif holder.pid not in told:
                    say(f"waiting for the runner {holder.queue}-{holder.slot} to save its work")
                    os.kill(holder.pid, signal.SIGTERM)
            told.add(holder.pid)
        time.sleep(0.2)


def _is_held(path: Path) -> bool:
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _path(queue: str, slot: int) -> Path:
    return _folder() / f"{queue}-{slot}.slot"


def _folder() -> Path:
    folder = settings.DATA_DIR / "run"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
