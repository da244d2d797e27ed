"""What people do with runs: plan, start, stop, resume, judge."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.urls import reverse

from datasets_app.models import DatasetVersion
from finetune_site.jobs import services as jobs
from finetune_site.jobs.machines import most_memory
from finetune_site.jobs.models import UNFINISHED, JobState
from finetune_site.jobs.usage import device_refusal
from finetune_site.lib.channel import InputError
from finetune_site.projects.models import Project
from finetune_site.projects.quotas import disk_refusal
from finetune_site.projects.services import audit
from training_app.engine import catalogue
from training_app.engine.spec import ROW_KINDS, TrainSpec
from training_app.models import BaseModel, Evaluation, Run
from training_app.services import artefacts


class TrainingError(Exception):
    """The person can mend it; the message says how."""


@transaction.atomic
def plan_run(
    *,
    actor: User,
    project: Project,
    name: str,
    version: DatasetVersion,
    base: BaseModel,
    method: str,
    preset: str,
    config: dict[str, Any],
    is_evaluated_after: bool = True,
    start: Run | None = None,
) -> Run:
    """Keep a run as a draft and look at it before it starts: tokens, first batch, memory, time."""
    if not version.is_sealed:
        raise TrainingError("The version is not sealed yet. Wait for it, or choose another.")
    if version.dataset.project_id != project.pk:
        raise TrainingError("The version belongs to another project.")
    if told := hindrance(base):
        raise TrainingError(told)
    if start:
        _check_start(start, project, base, method)
    run = Run(
        project=project,
        name=name,
        version=version,
        base=base,
        method=method,
        preset=preset,
        config=config,
        start=start,
        is_evaluated_after=is_evaluated_after,
        created_by=actor,
        base_identity=base.identity,
    )
    check_config(run)
    kind = ROW_KINDS[run.objective]
    if kind not in DatasetVersion.objects.filter(pk=version.pk).kinds():
        raise TrainingError(f"{version} holds no row of the kind that {run.objective} learns from ({kind}).")
    run.save()
    run.preview_job = _enqueue(actor, run, "training.preview")
    run.save(update_fields=["preview_job"])
    audit(project, actor, "planned the run", run, after={"version": str(version), "base": str(base), "method": method})
    return run


def hindrance(base: BaseModel) -> str:
    """Why no run may start from a base now; empty when one may."""
    if base.contradiction:
        return base.contradiction
    too_large = catalogue.too_large(base.parameters, memory_bytes())
    return f"{base} cannot be trained here, because {too_large}. Choose a smaller one." if too_large else ""


def memory_bytes() -> int:
    """What a training can have at most; 0 where nobody knows, as of a Ray cluster."""
    return 0 if settings.RAY_ADDRESS else most_memory()


def note_identity(run: Run) -> None:
    """Keep with a run what its base is, until it has started: from then on it is what it was."""
    Run.objects.filter(pk=run.pk, started={}).update(base_identity=run.base.identity)


def _check_start(start: Run, project: Project, base: BaseModel, method: str) -> None:
    if start.project_id != project.pk or not start.is_done:
        raise TrainingError("Only a finished run of this project can be gone on from.")
    if start.base_id != base.pk:
        raise TrainingError(f"The run “{start}” stands on {start.base}. Choose that base model to go on from it.")
    if start.method != method:
        raise TrainingError(f"The run “{start}” was trained with {start.method}. Choose that method to go on from it.")


def run_again(*, actor: User, run: Run) -> Run:
    """A draft that repeats a run exactly: the same version, base, start and value of every knob."""
    return plan_run(
        actor=actor,
        project=run.project,
        name=f"{run.name} again"[:120],
        version=run.version,
        base=run.base,
        method=run.method,
        preset=run.preset,
        config=run.config,
        is_evaluated_after=run.is_evaluated_after,
        start=run.start,
    )


def wish_checkpoint(*, actor: User, run: Run) -> None:
    """Ask a training run to write a checkpoint after its next step."""
    if run.state != JobState.RUNNING:
        raise TrainingError("The run is not training now, so there is nothing new to keep.")
    artefacts.wish_checkpoint(run)
    audit(run.project, actor, "asked for a checkpoint of", run)


def check_config(run: Run) -> None:
    """Raise `TrainingError` with the engine's own sentence when the run cannot work."""
    if run.config.get("cluster") and not settings.RAY_ADDRESS:
        raise TrainingError("The run asks for the Ray cluster, but this site has none. Turn cluster off.")
    if run.slots > (held := settings.JOB_SLOTS["gpu"]):
        raise TrainingError(f"The run asks for {run.slots} devices at once, but this site has {held}. Lower processes.")
    try:
        TrainSpec(**run.spec, run_dir=".")
    except InputError as error:
        raise TrainingError(str(error)) from error
    except TypeError as error:
        raise TrainingError(f"A knob is not known: {error}.") from error


@transaction.atomic
def start_run(*, actor: User, run: Run) -> Run:
    """Queue a draft for training. Once started, a run never changes."""
    locked = Run.objects.select_for_update().get(pk=run.pk)
    if locked.job:
        raise TrainingError("The run was started already.")
    if locked.preview_job and locked.preview_job.state == JobState.FAILED:
        raise TrainingError("The look before the start found something that would stop the run. Mend it in a new run.")
    if told := hindrance(locked.base) or room_refusal(locked.project):
        raise TrainingError(told)
    queue_training(actor, locked, expected_seconds=locked.preview.get("seconds"))
    audit(locked.project, actor, "started the run", locked, after=locked.config)
    return locked


def room_refusal(project: Project) -> str:
    """Why no run may start in a project; empty when one may."""
    return device_refusal(project) or disk_refusal(project)


def queue_training(actor: User, run: Run, expected_seconds: float | None) -> None:
    """The run's job; from now on it waits for its turn."""
    run.job = jobs.enqueue(
        project=run.project,
        owner=actor,
        kind="training.train",
        label=run.name,
        url=reverse("run", args=[run.pk]),
        expected_seconds=expected_seconds,
        slots=run.slots,
    )
    run.save(update_fields=["job"])


def stop_run(*, actor: User, run: Run) -> None:
    """Ask a run to save a checkpoint and stop."""
    if run.job is None:
        raise TrainingError("The run has not been started.")
    try:
        jobs.cancel(actor=actor, job=run.job)
    except jobs.JobError as error:
        raise TrainingError(str(error)) from error


def resume_run(*, actor: User, run: Run) -> None:
    """Go on from the newest checkpoint."""
    if run.job is None:
        raise TrainingError("The run has not been started.")
    try:
        jobs.requeue(actor=actor, job=run.job)
    except jobs.JobError as error:
        raise TrainingError(str(error)) from error


@transaction.atomic
def start_evaluation(*, actor: User, run: Run) -> Evaluation:
    """Ask base and tuned model the questions that were set apart, and the general ones."""
    if not run.is_done:
        raise TrainingError("Only a finished run can be evaluated. Let it end first.")
    if run.evaluations.filter(job__state__in=UNFINISHED).exists():
        raise TrainingError("The run is being evaluated already.")
    if told := device_refusal(run.project):
        raise TrainingError(told)
    audit(run.project, actor, "evaluated", run)
    return queue_evaluation(actor=actor, run=run)


def queue_evaluation(*, actor: User, run: Run) -> Evaluation:
    """The evaluation's row and its job, without asking whether the run has ended: its own last act calls this."""
    evaluation = Evaluation.objects.create(run=run, created_by=actor)
    evaluation.job = jobs.enqueue(
        project=run.project,
        owner=actor,
        kind="training.evaluate",
        label=run.name,
        url=reverse("evaluation", args=[evaluation.pk]),
    )
    evaluation.save(update_fields=["job"])
    return evaluation


def _enqueue(actor: User, run: Run, kind: str) -> Any:
    return jobs.enqueue(project=run.project, owner=actor, kind=kind, label=run.name, url=reverse("run", args=[run.pk]))
