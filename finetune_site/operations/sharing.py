"""Everything between this machine and the bucket at once: brought here before a backup, sent there after a restore, and
when a site that has files gets a bucket. Without a bucket both do nothing."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from django.conf import settings

from datasets_app.services.storage import ROWS
from finetune_site import bucket
from finetune_site.jobs.models import JobState
from finetune_site.jobs.queue import HOST
from training_app.models import BaseModel, Export, Run
from training_app.services.artefacts import bring_base, keep_base, run_mirror


def bring_all(*, has_models: bool, say: Callable[[str], object]) -> None:
    """Fetch what the bucket has and this machine has not. What rows name and nobody has is left to who looks."""
    if not bucket.is_on():
        return
    say("fetching what the bucket has")
    for name in ROWS:
        for kept in bucket.listing(Path(settings.MEDIA_ROOT) / name):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                bucket.fetch(kept.path)
    for run in Run.objects.select_related("job").iterator():
        # What trains here is newer than what was kept of it, and at work in that folder.
        if not (run.job and run.job.state == JobState.RUNNING and run.job.host == HOST):
            run_mirror(run).pull()
    for export in _exports():
        with contextlib.suppress(FileNotFoundError):
            bucket.fetch(export.path)
    if has_models:
        for base in BaseModel.objects.exclude(ready_at=None):
            bring_base(base)


def forget_former() -> None:
    """Remove from the bucket the runs and base models of the site's former life: their numbers are given out again, and
    whoever got one would find another's weights."""
    for name in ("runs", "models"):
        home = Path(settings.DATA_DIR) / name
        for folder in sorted({home / kept.path.relative_to(home).parts[0] for kept in bucket.listing(home)}):
            if not folder.exists():
                bucket.remove_below(folder)


def send_all() -> int:
    """Put into the bucket what this machine has; returns how many files and folders that were."""
    count = 0
    for name in ROWS:
        for path in sorted((Path(settings.MEDIA_ROOT) / name).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                bucket.put(path)
                count += 1
    for run in Run.objects.iterator():
        if run.folder.exists():
            run_mirror(run).push()
            count += 1
    for export in _exports():
        if export.path.exists():
            bucket.put(export.path)
            count += 1
    for base in BaseModel.objects.iterator():
        if base.folder.exists():
            keep_base(base)
            count += 1
    return count


def _exports() -> Iterator[Export]:
    return (export for export in Export.objects.select_related("run") if export.result and not export.result["problem"])
