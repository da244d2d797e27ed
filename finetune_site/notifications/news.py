"""What happened between two moments that people would want to hear of, read from the rows that say so."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, F, Q
from django.urls import reverse

from datasets_app.models import Conflict, Dataset, Example, Generation, ImportBatch, State
from finetune_site.jobs.models import Job, JobQuerySet, JobState
from finetune_site.notifications.models import Kind
from finetune_site.projects.models import Membership, Project, Role

LONG = timedelta(seconds=60)
# What people wait in front of, or what comes by itself.
QUIET = (
    "training.chat",
    "training.chat_ollama",
    "training.preview",
    "datasets.label_studio_sync",
    "datasets.label_studio_look",
)
PARSE = "datasets.parse"


@dataclass(frozen=True)
class News:
    user: int
    project: int
    kind: Kind
    text: str
    url: str
    at: datetime


def between(since: datetime, until: datetime) -> Iterator[News]:
    """All news of (since, until], in a number of queries that does not grow with it but by dataset."""
    ended = Job.objects.filter(finished_at__gt=since, finished_at__lte=until).exclude(kind__in=QUIET)
    yield from _failed(ended)
    yield from _done(ended)
    yield from _reviews(since, until)
    yield from _conflicts(since, until)


def _failed(ended: JobQuerySet) -> Iterator[News]:
    parses: dict[tuple[int, int], list[Job]] = defaultdict(list)
    for job in ended.filter(state=JobState.FAILED).select_related("project"):
        if job.kind == PARSE:
            parses[job.owner_id, job.project_id].append(job)
            continue
        url = job.url or job.get_absolute_url()
        yield News(job.owner_id, job.project_id, Kind.FAILED, f"Failed: {job}", url, _time(job))
    for (owner, project), jobs in parses.items():  # one upload of a thousand files is one notice
        text = f"Failed: {jobs[0]}" if len(jobs) == 1 else f"{len(jobs)} documents could not be read"
        url = jobs[0].url or jobs[0].get_absolute_url()
        url = url if len(jobs) == 1 else reverse("document_list", args=[project])
        yield News(owner, project, Kind.FAILED, text, url, max(map(_time, jobs)))


def _done(ended: JobQuerySet) -> Iterator[News]:
    long = ended.filter(state=JobState.SUCCEEDED, finished_at__gt=F("started_at") + LONG).exclude(kind=PARSE)
    for job in long.select_related("project"):
        yield News(
            job.owner_id, job.project_id, Kind.DONE, f"Done: {job}", job.url or job.get_absolute_url(), _time(job)
        )


def _reviews(since: datetime, until: datetime) -> Iterator[News]:
    """Examples that were generated or imported, for all who may judge them but the one who had them made."""
    new = Q(job__finished_at__gt=since, job__finished_at__lte=until, job__state=JobState.SUCCEEDED)
    makers: dict[int, set[int]] = defaultdict(set)
    for model in (Generation, ImportBatch):
        for key, person in model.objects.filter(new).values_list("dataset", "created_by"):
            makers[key].add(person)
    counted = Example.objects.filter(dataset__in=list(makers), state=State.DRAFT).order_by().values_list("dataset")
    waiting = dict(counted.annotate(Count("pk")))
    for dataset in Dataset.objects.filter(pk__in=list(waiting)).select_related("project"):
        count = waiting[dataset.pk]
        text = f"{count:,} example{'s' if count != 1 else ''} of {dataset} wait{'' if count != 1 else 's'} for review"
        for person in _judges(dataset.project) - makers[dataset.pk]:
            url = reverse("review", args=[dataset.pk])
            yield News(person, dataset.project_id, Kind.REVIEW, text, url, until)


def _conflicts(since: datetime, until: datetime) -> Iterator[News]:
    found = Conflict.objects.open().filter(at__gt=since, at__lte=until).order_by()
    counts = dict(found.values_list("task__example__dataset").annotate(Count("pk")))
    for dataset in Dataset.objects.filter(pk__in=list(counts)).select_related("project"):
        count = counts[dataset.pk]
        text = f"{count:,} example{'s' if count != 1 else ''} of {dataset} changed here and in Label Studio"
        for person in _judges(dataset.project):
            url = reverse("label_studio", args=[dataset.pk])
            yield News(person, dataset.project_id, Kind.CONFLICT, text, url, until)


def _judges(project: Project) -> set[int]:
    able = [role.value for role in Role if role.rank >= Role.REVIEWER.rank]
    held = Membership.objects.filter(project=project, role__in=able, user__is_active=True)
    return set(held.values_list("user", flat=True))


def _time(job: Job) -> datetime:
    assert job.finished_at
    return job.finished_at
