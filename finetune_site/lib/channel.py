"""The engine's end of the channel to its supervisor: events out, stop requests in.

An engine is a program (`python -m training_app.engine run.json`). It reads one spec file, writes one JSON
event a line on its standard output and a `result.json` as its very last act. `finetune_site.lib.process` holds
the other end. Standard library only, so that an engine starts fast and knows nothing of the site.
"""

import contextlib
import dataclasses
import json
import os
import queue
import re
import signal
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Spec = TypeVar("Spec", bound="DataclassInstance")

EXIT_DONE, EXIT_ERROR, EXIT_INPUT, EXIT_CANCELLED = 0, 1, 2, 130


class InputError(Exception):
    """The input is wrong and the person can mend it: the message says what happened and what to do."""


class Cancelled(Exception):
    """The engine stopped because it was asked to, after saving what it had."""


class Channel:
    """Standard output as a stream of events, SIGTERM and end-of-file on standard input as a request to stop.

    Opening it points file descriptor 1 at standard error, so that a library's `print` cannot break the stream.
    A muted one tells nothing: its process helps another that does.
    """

    def __init__(self, *, is_muted: bool = False) -> None:
        self._stream = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
        self._is_muted = is_muted
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self._lock = threading.Lock()
        self._journal: IO[str] | None = None
        self._stop = threading.Event()
        self.requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        if stat.S_ISFIFO(os.fstat(0).st_mode) or stat.S_ISSOCK(os.fstat(0).st_mode):
            threading.Thread(target=self._read_requests, daemon=True, name="channel").start()

    @property
    def should_stop(self) -> bool:
        """True once the supervisor asked for an end (SIGTERM) or is gone (end-of-file on standard input)."""
        return self._stop.is_set()

    def emit(self, event: str, **fields: object) -> None:
        """Write one event. A supervisor that is gone is a request to stop, never a crash."""
        if self._is_muted:
            return
        line = json.dumps({"event": event, "at": round(time.time(), 3), **fields}, ensure_ascii=False, allow_nan=False)
        try:
            with self._lock:
                self._note(line)
                self._stream.write(line + "\n")
                self._stream.flush()
        except BrokenPipeError:
            self._stop.set()

    def _note(self, line: str) -> None:
        if self._journal:
            try:
                self._journal.write(line + "\n")
            except OSError:  # the disk is full: without a journal at least why it ends can still be told
                self._journal = None
                raise

    def keep_journal(self, path: Path) -> None:
        """From now on append every event to a file too, before it is sent: what a supervisor that is killed had not
        yet taken over can be read there by the next one."""
        self._journal = path.open("a", buffering=1, encoding="utf-8")
        self._journal.write("\n")  # a line that a kill tore stays alone

    def check(self) -> None:
        """Raise `Cancelled` when a stop was asked for. Call it between steps."""
        if self.should_stop:
            raise Cancelled

    def _read_requests(self) -> None:
        # A raw descriptor, not sys.stdin: a buffered reader held by a daemon thread aborts the interpreter at exit.
        pending = b""
        while block := os.read(0, 65536):
            *lines, pending = (pending + block).split(b"\n")
            for line in lines:
                if line.strip():
                    self.requests.put(json.loads(line))
        self._stop.set()


def read_spec(cls: type[Spec], fields: dict[str, Any]) -> Spec:
    """Build the frozen dataclass `cls` from a spec file's fields; an unknown or missing key is an `InputError`."""
    known = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := sorted(set(fields) - set(known)):
        raise InputError(f"The spec has unknown keys: {', '.join(unknown)}. Known keys: {', '.join(sorted(known))}.")
    required = (
        name
        for name, field in known.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )
    if missing := sorted(set(required) - set(fields)):
        raise InputError(f"The spec lacks these keys: {', '.join(missing)}.")
    return cls(**fields)


def parse_json(text: str) -> Any:
    """Parse JSON with NUL characters replaced: a model may write one, and Postgres takes none in a text."""
    return json.loads(re.sub(r"(?<!\\)((?:\\\\)*)\\u0000", r"\1\\ufffd", text))


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The whole events of a journal in order; none when there is no journal."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            with contextlib.suppress(ValueError):  # an empty line, or one that a kill tore
                yield parse_json(line)


def load_json(path: str | Path) -> dict[str, Any]:
    """Read one JSON object from a file; anything else is an `InputError`."""
    try:
        value = parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"The file {Path(path).name} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"The file {Path(path).name} must hold one JSON object.")
    return value


def write_json(path: str | Path, value: object) -> None:
    """Write JSON so that the file exists only whole: written aside, synced, renamed."""
    path = Path(path)
    aside = path.with_name(path.name + ".part")
    with aside.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, ensure_ascii=False, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    aside.rename(path)


def run(task: Callable[[Channel], dict[str, Any]], *, result_path: Path | None, is_muted: bool = False) -> int:
    """Run one engine task under the contract and return its exit code.

    `task` returns the result; it is written to `result_path` (None: nothing is written) before `done` is emitted.
    """
    channel = Channel(is_muted=is_muted)
    try:
        result = task(channel)
    except InputError as error:
        channel.emit("failed", kind="input", message=str(error))
        return EXIT_INPUT
    except Cancelled:
        channel.emit("cancelled")
        return EXIT_CANCELLED
    except Exception as error:
        traceback.print_exc()
        channel.emit("failed", kind="error", message=f"{type(error).__name__}: {error}"[:500])
        return EXIT_ERROR
    if result_path is not None:
        write_json(result_path, result)
    channel.emit("done")
    return EXIT_DONE
