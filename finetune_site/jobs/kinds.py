"""The kinds of job: a name, the function that does the work, and how it is queued.

An app registers its kinds in its own `jobs.py`:

    @job_kind("datasets.parse", title="Parse document", queue="default", max_attempts=2)
    def parse(handle: Handle) -> None: ...
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_site.jobs.handle import Handle

Work = Callable[["Handle"], None]


@dataclass(frozen=True)
class JobKind:
    name: str
    title: str
    queue: str
    max_attempts: int
    work: Work
    takes_disk: bool = False  # and is not started again in a project that is full


_kinds: dict[str, JobKind] = {}


def job_kind(
    name: str, *, title: str, queue: str = "default", max_attempts: int = 3, takes_disk: bool = False
) -> Callable[[Work], Work]:
    """Register a function as the work of a kind of job. The function must be safe to run again from the start."""

    def register(work: Work) -> Work:
        if name in _kinds:
            raise ValueError(f"The job kind {name} is registered twice.")
        _kinds[name] = JobKind(name, title, queue, max_attempts, work, takes_disk)
        return work

    return register


def get_kind(name: str) -> JobKind:
    """The kind of that name; `KeyError` when no app registered it."""
    return _kinds[name]


def all_kinds() -> list[JobKind]:
    return sorted(_kinds.values(), key=lambda kind: kind.name)
