"""How far the estimates before the last runs lay from what those runs then took: shown beside the next estimate."""

import statistics
from dataclasses import dataclass

from finetune_site.jobs.models import JobState
from finetune_site.projects.models import Project
from training_app.models import Run

LOOKED_AT = 12


@dataclass(frozen=True)
class Errors:
    """Medians over `runs` finished runs; 0.2 means: estimated a fifth more than it took. None where none can tell."""

    runs: int
    seconds: float | None
    memory: float | None


def last_errors(project: Project) -> Errors | None:
    """Of the last finished runs of a project that were never resumed; None before there is one."""
    ended = Run.objects.filter(project=project, job__state=JobState.SUCCEEDED, started__start_step=0)
    runs = list(ended.order_by("-job__finished_at")[:LOOKED_AT])
    if not runs:
        return None
    return Errors(len(runs), _median(runs, "seconds", "seconds"), _median(runs, "memory_bytes", "peak_memory_bytes"))


def _median(runs: list[Run], expected: str, taken: str) -> float | None:
    errors = [
        run.preview[expected] / run.result[taken] - 1
        for run in runs
        if run.preview.get(expected) and run.result.get(taken)
    ]
    return statistics.median(errors) if errors else None
