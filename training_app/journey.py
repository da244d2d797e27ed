"""Where a project stands: its stages from documents to a model, what waits for one person in it, and the next step.

Counts alone, in a constant number of queries; nothing is written here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from django.contrib.auth.models import User
from django.db.models import Count, Exists, OuterRef, Q
from django.urls import reverse
from django.utils import timezone

from datasets_app.models import Conflict, Counts, DatasetVersion, Document, Tally
from finetune_site.jobs.models import Job, JobState
from finetune_site.projects.models import Project, Role
from training_app.models import Evaluation, Publication, PublishedModel, Run

# A failure that nobody mended in so many days waits no longer: somebody has seen it.
FAILURE_DAYS = 7


@dataclass(frozen=True)
class Stage:
    """One stop of the line. `state`: `done`, `now` (something is to be done here) or `later`."""

    title: str
    icon: str
    url: str
    count: int
    note: str
    state: str


@dataclass(frozen=True)
class Step:
    """Something to do, where, and why."""

    text: str
    url: str
    action: str
    icon: str


@dataclass
class Group:
    """One dataset and its examples by state."""

    name: str
    is_sealed: bool
    counts: Counts = field(default_factory=Counts)


@dataclass(frozen=True)
class Journey:
    """Everything that is counted of a project, and what follows from it for one person."""

    project: int
    role: Role
    documents: dict[str, int]
    datasets: dict[int, Group]
    versions: int
    runs: dict[str, int]
    models: int
    held: list[Publication]
    conflicts: dict[int, int]
    failed: list[Job]

    @property
    def examples(self) -> int:
        return sum(group.counts.total for group in self.datasets.values())

    @property
    def approved(self) -> int:
        return sum(group.counts.approved for group in self.datasets.values())

    @property
    def drafts(self) -> int:
        return sum(group.counts.draft for group in self.datasets.values())

    @property
    def stages(self) -> list[Stage]:
        """The line, left to right. What is to be done is the first stop that has nothing behind it."""
        datasets, runs = self._at("dataset_list"), self._at("run_list")
        stops = [
            ("Documents", "files", self._at("document_list"), self.documents["total"], self._documents_note()),
            ("Examples", "list-check", datasets, self.examples, _count(len(self.datasets), "dataset")),
            ("Approved", "eye", datasets, self.approved, f"{self.drafts:,} to judge" if self.drafts else "all judged"),
            ("Versions", "lock", datasets, self.versions, "what runs stand on"),
            ("Runs", "chart-line", runs, self.runs["total"], f"{self.runs['done']} finished"),
            ("Models", "box", self._at("published_model_list"), self.models, "in Ollama"),
        ]
        skipped = 1 if self.examples else 0  # examples that were written or imported need no document
        first = next((place for place, stop in enumerate(stops) if place >= skipped and not stop[3]), len(stops))
        order = ["done"] * first + ["now"] + ["later"] * len(stops)
        return [Stage(*stop, state=state) for stop, state in zip(stops, order, strict=False)]

    @property
    def tasks(self) -> list[Step]:
        """What else waits for this person, by what their role lets them do; the most pressing first."""
        found = list(self._failures())
        if self._may(Role.REVIEWER):
            found += self._conflicts()
        if self._may(Role.OWNER):
            found += self._held()
        if self._may(Role.REVIEWER):
            found += self._reviews()
        if self._may(Role.TRAINER):
            found += self._seals()
            found += self._runs()
        return [step for step in found if step != self.next_step]

    @property
    def next_step(self) -> Step | None:
        """What brings the project further; None when it is another's turn."""
        if not self._may(Role.TRAINER):
            return next(iter(self._reviews()), None) if self._may(Role.REVIEWER) else None
        if not self.examples:
            return self._first_step()
        if not self.approved:
            return next(iter(self._reviews()), None)
        if not self.versions:
            return next(iter(self._seals()), None)
        if not self.runs["total"]:
            text = "Fine-tune a model on what was sealed. The form says how long it will take before anything starts."
            return Step(text, self._at("run_create"), "Plan a run", "chart-line")
        if self.runs["unjudged"] and not self.runs["judged"]:
            text = "A run is finished. Judge it against its base: is it better, and has it forgotten anything?"
            return Step(text, self._at("run_list"), "See the runs", "scale")
        if self.runs["done"] and not self.models:
            text = "Publish the best run to Ollama. It is proved to be the same model before anybody can use it."
            return Step(text, self._at("run_list"), "Choose a run", "box")
        return next(iter(self._reviews()), None)

    def _first_step(self) -> Step:
        url = self._at("document_list")
        if not self.documents["total"]:
            text = "Upload the documents that the model should know. PDF, Word, Markdown and text are read here."
            return Step(text, url, "Upload documents", "upload")
        if not self.documents["parsed"]:
            if self.documents["working"]:
                return Step("The documents are being read; this page will say when they are.", url, "Watch", "files")
            return Step("No document could be read. Each says why on its page.", url, "See the documents", "files")
        text = "Make questions and answers from what was read. No model is needed for it."
        if not self.datasets:
            return Step(text, self._at("dataset_list"), "Make a dataset", "sparkles")
        newest = max(self.datasets)
        return Step(text, reverse("dataset", args=[newest]), f"Fill {self.datasets[newest].name}", "sparkles")

    def _failures(self) -> Iterator[Step]:
        for job in self.failed:
            yield Step(
                f"Failed: {job}. {job.error_text[:160]}", job.url or job.get_absolute_url(), "Look", "alert-triangle"
            )

    def _conflicts(self) -> Iterator[Step]:
        for dataset, count in self.conflicts.items():
            name = self.datasets[dataset].name
            text = f"{_count(count, 'example')} of {name} changed here and in Label Studio: say which text holds."
            yield Step(text, reverse("label_studio", args=[dataset]), "Decide", "git-branch")

    def _held(self) -> Iterator[Step]:
        for publication in self.held:
            text = f"{publication} is held at the gate: its evaluation does not show what the project asks for."
            yield Step(text, publication.get_absolute_url(), "Look", "hourglass")

    def _reviews(self) -> Iterator[Step]:
        for dataset, group in sorted(self.datasets.items(), key=lambda pair: -pair[1].counts.draft):
            if group.counts.draft:
                text = (
                    f"{_count(group.counts.draft, 'example')} of {group.name} to judge. Only approved ones are learned."
                )
                yield Step(text, reverse("review", args=[dataset]), "Review", "eye")

    def _seals(self) -> Iterator[Step]:
        for dataset, group in self.datasets.items():
            if group.counts.approved and not group.counts.draft and not group.is_sealed:
                text = (
                    f"{group.name} is judged: seal its {_count(group.counts.approved, 'approved example')} for a run."
                )
                yield Step(text, reverse("dataset", args=[dataset]), "Seal a version", "lock")

    def _runs(self) -> Iterator[Step]:
        url = self._at("run_list")
        if drafts := self.runs["mine_planned"]:
            yield Step(f"{_count(drafts, 'run')} of yours planned and not started.", url, "See the runs", "player-play")
        if unjudged := self.runs["mine_unjudged"]:
            yield Step(f"{_count(unjudged, 'run')} of yours finished and not judged.", url, "See the runs", "scale")

    def _documents_note(self) -> str:
        counts = self.documents
        parts = [f"{counts['parsed']:,} read"]
        parts += [f"{counts['working']} being read"] if counts["working"] else []
        parts += [f"{counts['failed']} failed"] if counts["failed"] else []
        return ", ".join(parts) if counts["total"] else "upload the first"

    def _may(self, role: Role) -> bool:
        return self.role.rank >= role.rank

    def _at(self, name: str) -> str:
        return reverse(name, args=[self.project])


def journey(project: Project, user: User, role: Role) -> Journey:
    """What is to be seen of `project` by `user`, who holds `role` in it."""
    held = Publication.objects.filter(model__project=project, outcome=Publication.Outcome.HELD)
    return Journey(
        project=project.pk,
        role=role,
        documents=_documents(project),
        datasets=_datasets(project),
        versions=DatasetVersion.objects.filter(dataset__project=project).sealed().count(),
        runs=_runs(project, user),
        models=PublishedModel.objects.filter(project=project, current__isnull=False).count(),
        held=list(held.select_related("model")[:5]),
        conflicts=_conflicts(project),
        failed=_failed(project, user),
    )


def _documents(project: Project) -> dict[str, int]:
    working = Q(job__state__in=[JobState.QUEUED, JobState.RUNNING])
    return Document.objects.filter(project=project).aggregate(
        total=Count("pk"),
        parsed=Count("pk", Q(parsed_at__isnull=False)),
        working=Count("pk", working),
        failed=Count("pk", Q(job__state=JobState.FAILED)),
    )


def _datasets(project: Project) -> dict[int, Group]:
    sealed = DatasetVersion.objects.filter(dataset=OuterRef("pk")).sealed()
    found = project.datasets.annotate(has_version=Exists(sealed)).values_list("pk", "name", "has_version")
    groups = {pk: Group(name, is_sealed) for pk, name, is_sealed in found}
    for dataset, counts in Tally.objects.counts(groups).items():
        groups[dataset].counts = counts
    return groups


def _runs(project: Project, user: User) -> dict[str, int]:
    done, mine = Q(job__state=JobState.SUCCEEDED), Q(created_by=user)
    judged = Exists(Evaluation.objects.filter(run=OuterRef("pk")))
    return (
        Run.objects.filter(project=project)
        .annotate(is_judged=judged)
        .aggregate(
            total=Count("pk"),
            done=Count("pk", done),
            judged=Count("pk", Q(is_judged=True)),
            unjudged=Count("pk", done & Q(is_judged=False)),
            mine_planned=Count("pk", mine & Q(job=None)),
            mine_unjudged=Count("pk", done & mine & Q(is_judged=False)),
        )
    )


def _conflicts(project: Project) -> dict[int, int]:
    found = Conflict.objects.open().filter(task__example__dataset__project=project).order_by()
    return dict(found.values_list("task__example__dataset").annotate(Count("pk")))


def _failed(project: Project, user: User) -> list[Job]:
    since = timezone.now() - timedelta(days=FAILURE_DAYS)
    mine = project.jobs.filter(owner=user, state=JobState.FAILED, finished_at__gt=since)
    return list(mine[:5])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
