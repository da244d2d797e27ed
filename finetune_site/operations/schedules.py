"""The short task that comes every hour and sees whether a backup is due."""

import time

from django.conf import settings
from django.contrib.auth.models import User

from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import Job
from finetune_site.operations.backup import kept
from finetune_site.projects.services import operators_desk


def back_up_when_due() -> Job | None:
    """Queue a backup where the newest is older than FINETUNE_BACKUP_HOURS and none is under way."""
    owner = User.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
    if not settings.BACKUP_DIR or owner is None:
        return None
    newest = next(iter(kept()), None)
    if newest and time.time() - newest.stat().st_mtime < settings.BACKUP_HOURS * 3600:
        return None
    if Job.objects.unfinished().filter(kind="operations.backup").exists():
        return None
    desk = operators_desk(actor=owner)
    return jobs.enqueue(project=desk, owner=owner, kind="operations.backup", label="database and files", url="/system/")
