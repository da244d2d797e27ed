"""What people do to jobs: start, stop, start again."""

import contextlib

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Max
from django.db.models.functions import Now
from django_q.tasks import async_task

from finetune_site.jobs.events import record, tell_waiting
from finetune_site.jobs.kinds import get_kind
from finetune_site.jobs.models import FINISHED, SLOW_QUEUES, Job, JobState
from finetune_site.jobs.usage import device_refusal
from finetune_site.projects.access import role_of
from finetune_site.projects.models import Project
from finetune_site.projects.quotas import disk_refusal
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
    priority: int | None = None,
    expected_seconds: float | None = None,
    slots: int = 1,
) -> Job:
    """Create a job and, in the same transaction, the task that finds a runner for it.

    Without a `priority` the operator's table by role decides; whoever has the higher one comes first.
    """
    job_kind = get_kind(kind)
    job = Job.objects.create(
        project=project,
        owner=owner,
        kind=kind,
        queue=job_kind.queue,
        label=label[:200],
        url=url,
        priority=priority_of(owner, project) if priority is None else priority,
        expected_seconds=expected_seconds,
        slots=slots,
        max_attempts=job_kind.max_attempts,
    )
    record(job, "state", {"state": job.state})
    wake(job.queue)
    return job


def priority_of(user: User, project: Project) -> int:
    """What the operator gives a person's role in a project; 0 for roles that the table leaves out."""
    role = "operator" if user.is_superuser else role_of(user, project)
    return settings.ROLE_PRIORITIES.get(role or "", 0)


@transaction.atomic
def run_next(*, actor: User, job: Job) -> None:
    """Let a waiting job overtake all that wait with it. For operators."""
    waiting = Job.objects.filter(queue=job.queue, state=JobState.QUEUED).exclude(pk=job.pk)
    top = waiting.aggregate(top=Max("priority"))["top"]
    moved = Job.objects.filter(pk=job.pk, state=JobState.QUEUED).update(
        priority=job.priority if top is None else max(job.priority, top + 1)
    )
    if not moved:
        raise JobError("The job does not wait any more.")
    record(job, "log", {"line": f"{actor} lets it run next"})
    tell_waiting(job.queue)
    audit(job.project, actor, "let run next", job)


@transaction.atomic
def cancel(*, actor: User | None, job: Job, why: str = "") -> None:
    """Stop a job: a waiting one at once, a running one at the next point where it can save what it has. Without an
    actor it is the site that does so, and says `why`."""
    stopped = Job.objects.filter(pk=job.pk, state=JobState.QUEUED).update(
        state=JobState.CANCELLED,
        finished_at=Now(),
        message=f"Stopped by {actor or 'the site'} before it ran",
        error_text=why,
    )
    asked = Job.objects.filter(pk=job.pk, state=JobState.RUNNING).update(
        cancel_requested=True, message="Stopping: saving what is done so far", error_text=why
    )
    if not stopped and not asked:
        raise JobError("The job has already ended.")
    record(job, "state", {"state": JobState.CANCELLED if stopped else JobState.RUNNING})
    if stopped:
        tell_waiting(job.queue)
    audit(job.project, actor, "stopped", job, after={"why": why} if why else None)


@transaction.atomic
def requeue(*, actor: User | None, job: Job) -> None:
    """Queue an ended job again, with all its attempts; it goes on from what its last attempt kept. Without an actor it
    is the site that does so."""
    if job.queue in SLOW_QUEUES and (told := device_refusal(job.project)):
        raise JobError(told)
    if get_kind(job.kind).takes_disk and (told := disk_refusal(job.project)):
        raise JobError(told)
    moved = Job.objects.filter(pk=job.pk, state__in=FINISHED).exclude(state=JobState.SUCCEEDED).update(
        state=JobState.QUEUED, attempt=0, cancel_requested=False, error_code="", error_text="",
        message="", not_before=None, finished_at=None,
    )  # fmt: skip
    if not moved:
        raise JobError("Only a job that failed or was stopped can be started again.")
    record(job, "state", {"state": JobState.QUEUED})
    audit(job.project, actor, "started again", job)
    wake(job.queue)


def stop_beyond_limit() -> int:
    """Stop what runs or waits for a device in projects that have used up their hours. What was done is kept, and goes
    on when somebody starts it again. A short task of every minute, which returns how many jobs it stopped."""
    stopped = 0
    waiting_or_at_work = Job.objects.unfinished().filter(queue__in=SLOW_QUEUES, cancel_requested=False)
    for project in Project.objects.filter(pk__in=waiting_or_at_work.values("project")):
        if told := device_refusal(project):
            for job in waiting_or_at_work.filter(project=project):
                with contextlib.suppress(JobError):  # it ended meanwhile
                    cancel(actor=None, job=job, why=told)
                    stopped += 1
    return stopped


def wake(queue: str) -> None:
    """Ask the cluster of a queue's machines to fill free slots: a short, idempotent task."""
    async_task("finetune_site.jobs.dispatch.dispatch", queue, cluster="gpu" if queue == "gpu" else "default")
