"""Finished runs kept in order: notes and tags, the disk they take, and checkpoints that nobody needs any more."""

import contextlib
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import Q
from django.utils import timezone

from finetune_site.bucket import BucketError
from finetune_site.jobs.models import Job, JobState
from finetune_site.projects.models import Project
from finetune_site.projects.quotas import give_disk_back
from finetune_site.projects.services import audit
from training_app.models import Export, Run
from training_app.services.artefacts import EXPORTS, TO_GO_ON, all_bytes, bytes_of, run_mirror
from training_app.services.runs import TrainingError

MAX_TAGS, MAX_TAG = 12, 40


@dataclass(frozen=True)
class Rule:
    """Which checkpoints go: those of runs that ended so, at least so many days ago."""

    days: int = 7
    with_stopped: bool = False  # also of stopped and failed runs, which then start from their first step

    @property
    def states(self) -> list[str]:
        stopped = [JobState.CANCELLED, JobState.FAILED] if self.with_stopped else []
        return [JobState.SUCCEEDED, *stopped]


@transaction.atomic
def describe_run(*, actor: User, run: Run, notes: str, tags: list[str]) -> None:
    """Write down what people should know of a run, and the tags that it is found by."""
    tags = list(dict.fromkeys(" ".join(tag.split()) for tag in tags if tag.strip()))
    if len(tags) > MAX_TAGS or any(len(tag) > MAX_TAG for tag in tags):
        raise TrainingError(f"A run has at most {MAX_TAGS} tags of at most {MAX_TAG} letters each. Shorten them.")
    before = {"notes": run.notes, "tags": run.tags}
    Run.objects.filter(pk=run.pk).update(notes=notes.strip(), tags=tags)
    audit(run.project, actor, "described the run", run, before=before, after={"notes": notes.strip(), "tags": tags})


def measure_disk(run: Run) -> None:
    """Keep what the run takes; a database or bucket that is away at this moment hears of it next time."""
    with contextlib.suppress(OperationalError, InterfaceError, BucketError):
        size = all_bytes(run)
        if size is not None:
            Run.objects.filter(pk=run.pk).update(disk_bytes=size)


def removable(project: Project | None, rule: Rule) -> list[tuple[Run, int]]:
    """The runs of a project (None: of all) whose checkpoints the rule lets go, each with their bytes."""
    runs = Run.objects.filter(
        job__state__in=rule.states, job__finished_at__lte=timezone.now() - timedelta(days=rule.days)
    )
    found = [(run, checkpoint_bytes(run)) for run in (runs.filter(project=project) if project else runs)]
    return [(run, size) for run, size in found if size]


def checkpoint_bytes(run: Run) -> int:
    return bytes_of(run, TO_GO_ON)


def clean_up(*, actor: User, project: Project, rule: Rule) -> int:
    """Delete the checkpoints that the rule lets go; returns the bytes set free. Results and weights stay."""
    freed = sum(_let_go(run, rule) for run, _ in removable(project, rule))
    give_disk_back(project, freed)  # it is measured anew within minutes; who has just made room need not wait for that
    audit(project, actor, "cleaned up checkpoints", project, after={"days": rule.days, "freed_bytes": freed})
    return freed


def clean_up_by_itself() -> int:
    """The operator's rule for all projects: checkpoints of runs that ended well go after CHECKPOINT_DAYS."""
    if not settings.CHECKPOINT_DAYS:
        return 0
    rule = Rule(days=settings.CHECKPOINT_DAYS)
    return sum(_let_go(run, rule) for run, _ in removable(None, rule))


@transaction.atomic
def purge_run(*, actor: User, run: Run) -> int:
    """Delete what can be made again of a run that has ended: checkpoints and exported files. Its weights, results and
    record stay. Returns the bytes set free; `TrainingError` while something works with them."""
    job = Job.objects.select_for_update().filter(run=run).first()
    exports = Export.objects.select_for_update().filter(run=run)
    at_work = Job.objects.unfinished().filter(Q(run=run) | Q(export__run=run) | Q(publication__run=run))
    if job is None or at_work.exists():
        raise TrainingError("The run has not ended, or is being exported or published. Wait until that is done.")
    freed = bytes_of(run, (*TO_GO_ON, EXPORTS))
    run_mirror(run).drop((*TO_GO_ON, EXPORTS))
    exports.delete()
    measure_disk(run)
    audit(run.project, actor, "purged", run, after={"freed_bytes": freed})
    return freed


@transaction.atomic
def _let_go(run: Run, rule: Rule) -> int:
    # The job's row is held: a run that is started again at this moment waits, and then finds no half of a checkpoint.
    if not Job.objects.select_for_update().filter(run=run, state__in=rule.states).exists():
        return 0
    size = checkpoint_bytes(run)
    run_mirror(run).drop(TO_GO_ON)
    measure_disk(run)
    return size
