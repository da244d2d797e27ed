"""What people do to jobs: start, stop, start again."""

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models.functions import Now
from django_q.tasks import async_task

from finetune_site.jobs.events import record, tell_waiting
from finetune_site.jobs.kinds import get_kind
from finetune_site.jobs.models import FINISHED, Job, JobState
from finetune_site.projects.models import Project
from finetune_site.projects.services import audit


class JobError(Exception):
    """The act is not possible in the job's present state; the message says why."""


@transaction.atomic
def enqueue(
    *,
    project: Project,
    owner: User,
    kind: str,
    label: str,
    url: str = "",
    priority: int = 0,
    expected_seconds: float | None = None,
    slots: int = 1,
) -> Job:
    """Create a job and, in the same transaction, the task that finds a runner for it."""
    job_kind = get_kind(kind)
    job = Job.objects.create(
        project=project,
        owner=owner,
        kind=kind,
        queue=job_kind.queue,
        label=label[:200],
        url=url,
        priority=priority,
        expected_seconds=expected_seconds,
        slots=slots,
        max_attempts=job_kind.max_attempts,
    )
    record(job, "state", {"state": job.state})
    wake(job.queue)
    return job


@transaction.atomic
def cancel(*, actor: User, job: Job) -> None:
    """Stop a job: a waiting one at once, a running one at the next point where it can save what it has."""
    stopped = Job.objects.filter(pk=job.pk, state=JobState.QUEUED).update(
        state=JobState.CANCELLED, finished_at=Now(), message=f"Stopped by {actor} before it ran"
    )
    asked = Job.objects.filter(pk=job.pk, state=JobState.RUNNING).update(
        cancel_requested=True, message="Stopping: saving what is done so far"
    )
    if not stopped and not asked:
        raise JobError("The job has already ended.")
    record(job, "state", {"state": JobState.CANCELLED if stopped else JobState.RUNNING})
    if stopped:
        tell_waiting(job.queue)
    audit(job.project, actor, "stopped", job)


@transaction.atomic
def requeue(*, actor: User, job: Job) -> None:
    """Queue an ended job again, with all its attempts; it goes on from what its last attempt kept."""
    moved = Job.objects.filter(pk=job.pk, state__in=FINISHED).exclude(state=JobState.SUCCEEDED).update(
        state=JobState.QUEUED, attempt=0, cancel_requested=False, error_code="", error_text="",
        message="", not_before=None, finished_at=None,
    )  # fmt: skip
    if not moved:
        raise JobError("Only a job that failed or was stopped can be started again.")
    record(job, "state", {"state": JobState.QUEUED})
    audit(job.project, actor, "started again", job)
    wake(job.queue)


def wake(queue: str) -> None:
    """Ask the cluster of a queue's machines to fill free slots: a short, idempotent task."""
    async_task("finetune_site.jobs.dispatch.dispatch", queue, cluster="gpu" if queue == "gpu" else "default")
