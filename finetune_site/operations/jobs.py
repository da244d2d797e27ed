"""The one kind of job of the operators: a backup into their folder, after which the oldest ones go."""

from datetime import datetime
from pathlib import Path

from django.conf import settings

from finetune_site.jobs.handle import Handle, JobInputError
from finetune_site.jobs.kinds import job_kind
from finetune_site.operations.archive import BackupError
from finetune_site.operations.backup import kept, take


@job_kind("operations.backup", title="Back up", queue="default", max_attempts=2)
def back_up(handle: Handle) -> None:
    """Run again it makes another archive: one that was not finished never bore its name."""
    if not settings.BACKUP_DIR:
        raise JobInputError("FINETUNE_BACKUP_DIR is not set on the machine that does this. Set it on all of them.")
    folder = Path(settings.BACKUP_DIR)
    path = folder / f"finetune-site-{datetime.now():%Y%m%d-%H%M%S}.tar"
    try:
        take(path, say=handle.log)
    except BackupError as error:
        raise JobInputError(str(error)) from error
    handle.check()
    for old in kept()[settings.BACKUP_KEEP :]:
        old.unlink(missing_ok=True)
        handle.log(f"removed {old.name}: {settings.BACKUP_KEEP} newer ones are kept")
