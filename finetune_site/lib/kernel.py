"""What the kernel knows of a process: when it began, and what it may take. Standard library only."""

import resource
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """What an engine may take; None means no limit. Address space counts virtual memory, so be generous."""

    memory_bytes: int | None = None
    cpu_seconds: int | None = None
    file_bytes: int | None = None
    wall_seconds: float | None = None
    open_files: int | None = None


def start_time(pid: int) -> int | None:
    """The kernel's start time of a process, in clock ticks since boot: with the pid it is an identity.

    None for a process that is gone or a zombie.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def apply(limits: Limits) -> None:
    """Set them for this process and those it starts; no core file either."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, value in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
    ):
        if value is not None:
            resource.setrlimit(name, (value, value))
