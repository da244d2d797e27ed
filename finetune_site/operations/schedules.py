"""The short tasks of the operators: whether a backup is due, and what is old enough to be forgotten."""

import logging
import time
from datetime import timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.utils import timezone
from django_q.models import Task

from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import Job, JobEvent
from finetune_site.operations.backup import kept
from finetune_site.projects.services import operators_desk

logger = logging.getLogger(__name__)
TASK_DAYS = 30  # short tasks that failed; of those that went well Django-Q keeps the last hundred
FORGOTTEN_KINDS = ("progress", "log")  # states and warnings tell the job's life, and stay
PIECE = 5_000  # rows of one statement: a short task, and no long lock
MOST = 200_000  # of one day; what is left goes on the next


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


def forget_old() -> int:
    """Delete what only fills tables: expired sessions, old failed short tasks, and by the operator's rule the lines
    of jobs that ended long ago. Returns how many rows went."""
    now = timezone.now()
    gone = {
        "sessions": Session.objects.filter(expire_date__lt=now).delete()[0],
        "tasks": Task.objects.filter(stopped__lt=now - timedelta(days=TASK_DAYS)).delete()[0],
        "job events": _forget_events() if settings.JOB_LOG_DAYS else 0,
    }
    logger.info("forgot %s", ", ".join(f"{count} {what}" for what, count in gone.items()))
    return sum(gone.values())


def _forget_events() -> int:
    before = timezone.now() - timedelta(days=settings.JOB_LOG_DAYS)
    old = JobEvent.objects.filter(kind__in=FORGOTTEN_KINDS, at__lt=before, job__finished_at__lt=before)
    count = 0
    while count < MOST:
        keys = list(old.order_by("at").values_list("pk", flat=True)[:PIECE])
        if not keys:
            break
        count += JobEvent.objects.filter(pk__in=keys).delete()[0]
    return count
