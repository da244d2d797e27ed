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

from finetune_site.jobs.queue import HOST
from finetune_site.lib.kernel import start_time

STOP_SECONDS = 95


@dataclass(frozen=True)
class Holder:
    queue: str
    slot: int
    pid: int


def take(queue: str, slot: int) -> IO[str] | None:
    """Hold a slot until the returned file is closed or this process ends; None when somebody holds it, or when this
    machine's runners were told to leave while we came."""
    stream = _lock(_path(queue, slot))
    if stream and _closed().exists():
        stream.close()
        return None
    if stream:
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
    return stream


def gather(queue: str, count: int, is_wanted: Callable[[], bool]) -> list[IO[str]] | None:
    """Hold `count` further slots, waiting for those that are busy while `is_wanted`; close them to let go.

    None when another runner gathers already (two would wait for one another) or when they are no longer wanted.
    """
    gatherer = _lock(_folder() / f"{queue}.gather")
    if gatherer is None:
        return None
    held: list[IO[str]] = []
    with gatherer, contextlib.ExitStack() as undo:
        while is_wanted():
            for slot in free(queue):
                if len(held) < count and (stream := take(queue, slot)):
                    held.append(undo.enter_context(stream))
            if len(held) == count:
                undo.pop_all()
                return held
            time.sleep(0.2)
    return None


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


def open_all() -> None:
    """Let slots be taken again, after `stop_holders`."""
    _closed().unlink(missing_ok=True)


def stop_holders(say: Callable[[str], object]) -> None:
    """Tell the runners of this machine to leave and wait: an engine finishes its step and saves a checkpoint. One that
    was started a moment ago and holds nothing yet gets no slot any more, until `open_all`."""
    _closed().touch()
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


def _lock(path: Path) -> IO[str] | None:
    stream = path.open("a+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    return stream


def _is_held(path: Path) -> bool:
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def number(stream: IO[str]) -> int:
    """Which slot a held one is."""
    return int(Path(stream.name).stem.rpartition("-")[2])


def _path(queue: str, slot: int) -> Path:
    return _folder() / f"{queue}-{slot}.slot"


def _closed() -> Path:
    return _folder() / "closed"


def _folder() -> Path:
    # Each machine its own, also where machines share the data folder: a lock there would be one for all of them.
    folder: Path = settings.DATA_DIR / "run" / f"slots-{HOST}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
