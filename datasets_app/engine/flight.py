"""Several requests at once."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
TICK_SECONDS = 0.25


def in_flight(
    tasks: Iterable[Task], work: Callable[[Task], Result], count: int, tick: Callable[[], None]
) -> Iterator[tuple[Task, Result]]:
    """Each task with what `work` makes of it, at most `count` at a time, as they end. `tick` is called meanwhile; what
    it raises ends all. An exception of `work` is raised here. Its threads are daemons: nothing waits for a server that
    does not answer when the reader goes."""
    waiting = iter(list(tasks))
    lock, ended = threading.Lock(), threading.Event()
    results: queue.SimpleQueue[tuple[Task, Result | None, BaseException | None] | None] = queue.SimpleQueue()

    def run() -> None:
        while not ended.is_set():
            with lock:
                task = next(waiting, None)
            if task is None:
                break
            try:
                results.put((task, work(task), None))
            except BaseException as error:
                results.put((task, None, error))
        results.put(None)

    for number in range(count):
        threading.Thread(target=run, daemon=True, name=f"request-{number}").start()
    try:
        working = count
        while working:
            tick()
            try:
                item = results.get(timeout=TICK_SECONDS)
            except queue.Empty:
                continue
            if item is None:
                working -= 1
                continue
            task, result, error = item
            if error is not None:
                raise error
            yield task, result  # type: ignore[misc]  # without an error there is one
    finally:
        ended.set()
