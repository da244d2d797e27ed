"""How much of the disk a project may take. What is there is counted for each project that has it, shared files too.

The sum is measured every few minutes (`training_app.services.use`). What is uploaded in between is added at once, in
one conditional UPDATE, so that two uploads at the same moment cannot both take the last place.
"""

from django.conf import settings
from django.db.models import F, Q
from django.db.models.functions import Greatest

from finetune_site.projects.models import Project

GB = 2**30  # as all pages count


class QuotaError(Exception):
    """The project has no room left; the message says what to do."""


def disk_limit(project: Project) -> int | None:
    """In bytes; None: without a limit."""
    limit = settings.PROJECT_DISK_GB if project.disk_limit_gb is None else project.disk_limit_gb
    return None if limit is None else limit * GB


def disk_refusal(project: Project) -> str:
    """Why nothing that takes disk may start in a project; empty when it may."""
    limit = disk_limit(project)
    if limit is None or Project.objects.filter(pk=project.pk, disk_bytes__lt=limit).exists():
        return ""
    return _full(limit)


def take_disk(project: Project, size: int) -> None:
    """Count `size` bytes more for a project, in the transaction that writes their row. `QuotaError`: no room."""
    limit = disk_limit(project)
    has_room = Q() if limit is None else Q(disk_bytes__lte=limit - size)
    if (
        not Project.objects.filter(has_room, pk=project.pk).update(disk_bytes=F("disk_bytes") + size)
        and limit is not None
    ):
        raise QuotaError(_full(limit))


def give_disk_back(project: Project, size: int) -> None:
    """Count `size` bytes less, in the transaction that deletes their row."""
    Project.objects.filter(pk=project.pk).update(disk_bytes=Greatest(F("disk_bytes") - size, 0))


def _full(limit: int) -> str:
    return (
        f"The project has no room left: it may take {limit / GB:.0f} GB of disk. Delete documents or runs that are not "
        "needed, clean up checkpoints, or ask an operator for more."
    )
