"""What must hold of every row at every moment, whoever died meanwhile: read by `manage.py check_invariants`.

Each finding is a sentence. Nothing is mended here: a finding is a fault of the site, and its rows tell how it came.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db.models import Count, Exists, F, Max, OuterRef, Q, QuerySet, Subquery, Sum
from django.db.models.fields.json import KT

from datasets_app.models import DatasetVersion, Document, Example, LabelStudioTask, Tally, VersionEntry
from finetune_site import bucket
from finetune_site.jobs.models import FINISHED, Job, JobEvent, JobState
from finetune_site.lib.files import sha256_of_blocks
from finetune_site.projects.models import Membership, Project, Role
from training_app.models import ChatAnswer, Metric, Publication, PublishedModel, Run
from training_app.services import artefacts

SHOWN = 5


@dataclass(frozen=True)
class Invariant:
    """`find` yields a sentence for each row that contradicts `title`."""

    title: str
    find: Callable[[bool], Iterator[str]]


def check(*, is_deep: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Each invariant with what contradicts it. `is_deep`: files are read and held against their hashes."""
    for invariant in INVARIANTS:
        yield invariant.title, list(invariant.find(is_deep))


def _jobs_end(_: bool) -> Iterator[str]:
    ended = Job.objects.filter(state__in=FINISHED)
    yield from _each(ended.filter(finished_at=None), "ended without a time")
    yield from _each(
        ended.filter(Q(token__isnull=False) | Q(lease_until__isnull=False)), "ended and still holds a lease"
    )
    yield from _each(Job.objects.filter(state=JobState.RUNNING, lease_until=None), "runs without a lease")
    yield from _each(Job.objects.filter(attempt__gt=F("max_attempts") + 1000), "was tried without end")


def _slots_are_held_once(_: bool) -> Iterator[str]:
    held = Counter(
        (job.host, job.queue, slot) for job in Job.objects.filter(state=JobState.RUNNING) for slot in job.held_slots
    )
    for (host, queue, slot), count in held.items():
        if count > 1:
            yield f"slot {slot} of {queue} on {host} is held by {count} jobs"


def _done_once(_: bool) -> Iterator[str]:
    ends = JobEvent.objects.filter(kind="state", payload__state=JobState.SUCCEEDED).order_by()
    for job, count in ends.values_list("job").annotate(count=Count("pk")).filter(count__gt=1):
        yield f"job {job} was done {count} times"
    states = JobEvent.objects.filter(job=OuterRef("pk"), kind="state").annotate(state=KT("payload__state"))
    last = Subquery(states.order_by("-pk").values("state")[:1])
    for job in Job.objects.filter(state__in=FINISHED).annotate(told=last).exclude(told=F("state"))[:SHOWN]:
        yield f"job {job.pk} is {job.state}, and its last event says {job.told}"


def _documents_have_their_files(is_deep: bool) -> Iterator[str]:
    for document in Document.objects.iterator():
        if not bucket.has(document.path):
            yield f"document {document.pk}: its file is not there"
        elif is_deep and _hash(document.path) != document.sha256:
            yield f"document {document.pk}: its file is another than was uploaded"
    yield from _each(
        Document.objects.filter(parsed_at=None, job__state=JobState.SUCCEEDED), "is not parsed, its job done"
    )


def _examples_are_whole(_: bool) -> Iterator[str]:
    yield from _each(Example.objects.filter(text=None), "has no text")
    yield from _each(Example.objects.exclude(text=None).exclude(text__example=F("pk")), "shows another's text")
    newest = Example.objects.annotate(last=Max("texts__number")).exclude(text__number=F("last"))
    yield from _each(newest, "does not show its newest text")


def _tally_is_exact(_: bool) -> Iterator[str]:
    counted = Counter({(d, s): n for d, s, n in _by_state(Example.objects.all()).annotate(n=Count("pk"))})
    kept = Counter({(d, s): n for d, s, n in _by_state(Tally.objects.all()).annotate(n=Sum("change"))})
    datasets = {dataset for dataset, _ in counted}
    for dataset, state in counted.keys() | kept.keys():
        if dataset in datasets and counted[dataset, state] != kept[dataset, state]:
            there, told = counted[dataset, state], kept[dataset, state]
            yield f"dataset {dataset} has {there} examples that are {state}, and {told} are counted"


def _by_state(rows: "QuerySet[Example] | QuerySet[Tally]") -> "QuerySet[Example, tuple[int, str]]":
    return rows.order_by().values_list("dataset", "state")  # type: ignore[return-value]


def _versions_are_sealed(is_deep: bool) -> Iterator[str]:
    for version in DatasetVersion.objects.sealed().annotate(number_of=Count("entries")):
        if not bucket.has(version.file_path):
            yield f"version {version.pk}: its file is not there"
        elif is_deep and _hash(version.file_path) != version.sha256:
            yield f"version {version.pk}: its file is another than was sealed"
        if version.number_of != version.counts.get("rows", version.number_of):
            yield f"version {version.pk} lists {version.number_of} rows and holds {version.counts['rows']}"
    yield from _each(VersionEntry.objects.exclude(text__example=F("example")), "holds another example's text")
    unsealed = DatasetVersion.objects.filter(sealed_at=None, job__state=JobState.SUCCEEDED)
    yield from _each(unsealed, "is not sealed, its job done")


def _runs_have_what_they_learned(_: bool) -> Iterator[str]:
    for run in Run.objects.filter(job__state=JobState.SUCCEEDED):
        if not run.result:
            yield f"run {run.pk} is done without a result"
        if not artefacts.bytes_of(run, ("adapter", "model")):
            yield f"run {run.pk} is done, and its weights are not there"
    steps = Metric.objects.filter(name="loss").order_by().values("run").annotate(count=Count("pk"), last=Max("step"))
    for row in steps.filter(run__job__state=JobState.SUCCEEDED, run__start=None).exclude(count=F("last")):
        yield f"run {row['run']} has {row['count']} of its {row['last']} steps"


def _models_stand(_: bool) -> Iterator[str]:
    current = PublishedModel.objects.exclude(current=None)
    wrong = ~Q(current__outcome=Publication.Outcome.PUBLISHED) | ~Q(current__model=F("pk"))
    yield from _each(current.filter(wrong), "stands for a version that is not published")


def _somebody_answers(_: bool) -> Iterator[str]:
    busy = Job.objects.filter(kind__in=("training.chat", "training.chat_ollama")).unfinished()
    if not busy.exists():
        yield from _each(ChatAnswer.objects.filter(state__in=("loading", "answering")), "is written by nobody")


def _label_studio_has_each_once(_: bool) -> Iterator[str]:
    tasks = LabelStudioTask.objects.exclude(remote_id=None).order_by()
    for row in tasks.values("project", "remote_id").annotate(count=Count("pk")).filter(count__gt=1):
        yield f"task {row['remote_id']} of project {row['project']} stands for {row['count']} examples"


def _projects_have_an_owner(_: bool) -> Iterator[str]:
    owner = Exists(Membership.objects.filter(project=OuterRef("pk"), role=Role.OWNER))
    yield from _each(Project.objects.filter(~owner, is_desk=False), "has no owner")


def _each(rows: "QuerySet[Any]", what: str) -> Iterator[str]:
    for row in rows[:SHOWN]:
        yield f"{type(row).__name__.lower()} {row.pk} {what}"


INVARIANTS = (
    Invariant("A job that has ended let go of everything", _jobs_end),
    Invariant("No slot is held twice", _slots_are_held_once),
    Invariant("No job was done twice, and the last event tells its state", _done_once),
    Invariant("Every document has its file", _documents_have_their_files),
    Invariant("Every example shows its newest text", _examples_are_whole),
    Invariant("The tally is the number of examples", _tally_is_exact),
    Invariant("A sealed version holds what it lists", _versions_are_sealed),
    Invariant("A finished run has its weights, its result and all its steps", _runs_have_what_they_learned),
    Invariant("A published model stands for one of its published versions", _models_stand),
    Invariant("No answer is left half written", _somebody_answers),
    Invariant("A task in Label Studio stands for one example", _label_studio_has_each_once),
    Invariant("Every project has an owner", _projects_have_an_owner),
)


def _hash(path: Path) -> str:
    """Of a file on the disk or in the bucket."""
    return sha256_of_blocks(bucket.blocks(path))
