"""What a project takes of the site: its disk by what lies there, and its time on the devices."""

from dataclasses import dataclass

from django.db import transaction
from django.db.models import Sum

from datasets_app.models import DatasetVersion, Document, ImportBatch
from finetune_site.jobs.kinds import get_kind
from finetune_site.jobs.models import JobState
from finetune_site.jobs.usage import device_limit, used_by
from finetune_site.projects.models import Project
from finetune_site.projects.quotas import disk_limit
from training_app.models import Run
from training_app.services.housekeeping import measure_disk


@dataclass(frozen=True)
class Use:
    """Bytes by what they are, device seconds of this month by person and kind of job. Limit None: there is none."""

    disk: dict[str, int]
    disk_limit: int | None
    device: list[tuple[str, str, float]]  # username, title of the kind, device seconds
    device_limit: int | None  # hours a month

    @property
    def disk_bytes(self) -> int:
        return sum(self.disk.values())

    @property
    def device_seconds(self) -> float:
        return sum(seconds for _, _, seconds in self.device)

    @property
    def device_hours(self) -> float:
        return self.device_seconds / 3600

    @property
    def disk_share(self) -> int:
        """Percent of the limit, at most 100; 0 without one."""
        return _percent(self.disk_bytes, self.disk_limit)

    @property
    def device_share(self) -> int:
        return _percent(self.device_hours, self.device_limit)


def use_of(project: Project) -> Use:
    """What a project takes at this moment, runs as last measured."""
    return Use(
        disk=_disk(project),
        disk_limit=disk_limit(project),
        device=[(name, get_kind(kind).title, seconds) for name, kind, seconds in used_by(project)],
        device_limit=device_limit(project),
    )


def measure_projects() -> None:
    """Measure what each project has on disk, runs at work included. A short task of every ten minutes."""
    for run in Run.objects.filter(job__state=JobState.RUNNING):
        measure_disk(run)
    for pk in Project.objects.values_list("pk", flat=True):
        with transaction.atomic():
            # Whoever adds to the sum holds the row: what we see after this is what the sum so far stands for.
            if project := Project.objects.select_for_update().filter(pk=pk).first():
                Project.objects.filter(pk=pk).update(disk_bytes=sum(_disk(project).values()))


def _disk(project: Project) -> dict[str, int]:
    """Of files that several of its rows have, each counts."""
    found = {
        "Documents": Document.objects.filter(project=project).aggregate(sum=Sum("size")),
        "Imported examples": ImportBatch.objects.filter(dataset__project=project).aggregate(sum=Sum("size")),
        "Sealed versions": DatasetVersion.objects.filter(dataset__project=project).aggregate(sum=Sum("size")),
        "Runs, their checkpoints and exports": Run.objects.filter(project=project).aggregate(sum=Sum("disk_bytes")),
    }
    return {name: row["sum"] or 0 for name, row in found.items()}


def _percent(part: float, whole: int | None) -> int:
    if whole is None:
        return 0
    return min(100, round(100 * part / whole)) if whole else 100
