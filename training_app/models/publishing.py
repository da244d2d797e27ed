"""A run's model on its way to its users: files to take away, and what stands in Ollama under which name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.db import models
from django.urls import reverse
from django.utils import timezone

from datasets_app.models import Document, ModelServer
from finetune_site import bucket
from finetune_site.jobs.models import Job, JobState
from finetune_site.projects.models import Project
from training_app.engine.spec import FORMATS, Format
from training_app.models.runs import Run

# The steps of a publication, in their order, each with what the page says of it.
STEPS = {
    "merged": "Adapter merged into its base",
    "checked": "GGUF says what the model says",
    "agrees": "Log-probabilities agree",
    "uploaded": "Uploaded",
    "created": "Created under a candidate tag",
    "prompt": "Prompt is byte for byte the trained one",
    "tokens": "Prompt is cut into as many tokens",
    "smoke": "Answers end by themselves",
    "gate": "Evaluation passes the gate",
    "promoted": "Promoted",
}


class ExportQuerySet(models.QuerySet["Export"]):
    def visible_to(self, user: User | AnonymousUser) -> "ExportQuerySet":
        return self.filter(run__project__in=Project.objects.visible_to(user))


class Export(models.Model):
    """A run's model as one file in one format."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="exports")
    format = models.CharField(max_length=10)
    job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="export")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    result = models.JSONField(default=dict, help_text="What the engine said of the file")

    objects = ExportQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["run", "format"], name="one_export_per_format")]

    def __str__(self) -> str:
        return f"{self.run} as {self.kind.title}"

    def get_absolute_url(self) -> str:
        return reverse("export_list", args=[self.run_id])

    @property
    def kind(self) -> Format:
        return FORMATS[self.format]

    @property
    def folder(self) -> Path:
        return self.run.folder / "exports" / self.format

    @property
    def path(self) -> Path:
        """The file; only once `result` is there."""
        return self.folder / str(self.result["file"])

    @property
    def filename(self) -> str:
        """As people save it."""
        return f"run-{self.run_id}-{self.result['file']}"

    @property
    def is_ready(self) -> bool:
        """The file is there and nothing was found against it."""
        return bool(self.result) and not self.result["problem"] and bucket.has(self.path)


class PublishedModelQuerySet(models.QuerySet["PublishedModel"]):
    def visible_to(self, user: User | AnonymousUser) -> "PublishedModelQuerySet":
        return self.filter(project__in=Project.objects.visible_to(user))

    def learned_from(self, document: Document) -> "PublishedModelQuerySet":
        """Those with a published version that was trained on examples from a document."""
        return self.filter(
            publications__outcome=Publication.Outcome.PUBLISHED,
            publications__run__version__entries__example__document=document,
        ).distinct()


class PublishedModel(models.Model):
    """A name in an Ollama server under which versions of a model stand, one of them as the stable one."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="published_models")
    server = models.ForeignKey(ModelServer, models.PROTECT, related_name="published_models")
    name = models.CharField(max_length=120, help_text="ft/<name>; the stable version is its tag latest")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    current = models.ForeignKey("Publication", models.RESTRICT, null=True, related_name="+")
    switch_job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="changed_model")
    turn_job = models.OneToOneField(
        Job, models.SET_NULL, null=True, related_name="+", help_text="Who moves its names now: one at a time"
    )
    wish = models.JSONField(default=dict, help_text="What `switch_job` is to do")

    objects = PublishedModelQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["server", "name"], name="one_model_per_name")]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("published_model", args=[self.pk])

    @property
    def stable_tag(self) -> str:
        return f"{self.name}:latest"


class PublicationQuerySet(models.QuerySet["Publication"]):
    def visible_to(self, user: User | AnonymousUser) -> "PublicationQuerySet":
        return self.filter(model__project__in=Project.objects.visible_to(user))


class Publication(models.Model):
    """One version of a published model: which run in which format, with what, and how it was proved."""

    class Outcome(models.TextChoices):
        WORKING = "working", "on its way"
        HELD = "held", "held at the gate"
        PUBLISHED = "published", "published"
        FAILED = "failed", "not published"
        WITHDRAWN = "withdrawn", "withdrawn"

    model = models.ForeignKey(PublishedModel, models.CASCADE, related_name="publications")
    number = models.PositiveIntegerField()
    run = models.ForeignKey(Run, models.RESTRICT, related_name="publications")
    format = models.CharField(max_length=10)
    system = models.TextField(blank=True)
    parameters = models.JSONField(default=dict, help_text="Ollama's: temperature, num_ctx, …")
    licence = models.TextField(blank=True)
    note = models.CharField(max_length=300, blank=True)
    card = models.TextField(blank=True)
    job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="publication")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    outcome = models.CharField(max_length=10, choices=Outcome.choices, default=Outcome.WORKING)
    expected = models.JSONField(default=dict, help_text="What it must read, from its own tokenizer and template")
    evidence = models.JSONField(default=dict, help_text="Of each step what was found")
    problem = models.TextField(blank=True)
    digest = models.CharField(max_length=100, blank=True, help_text="Which model it is in Ollama")
    published_at = models.DateTimeField(null=True)
    override_reason = models.TextField(blank=True)
    override_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+")

    objects = PublicationQuerySet.as_manager()

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["model", "number"], name="one_publication_per_number"),
            models.CheckConstraint(
                condition=models.Q(override_by=None) | ~models.Q(override_reason=""), name="override_has_its_reason"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} v{self.number}"

    def get_absolute_url(self) -> str:
        return reverse("publication", args=[self.pk])

    @property
    def tag(self) -> str:
        """Its own name in Ollama, which never moves."""
        return f"{self.model.name}:v{self.number}"

    @property
    def candidate(self) -> str:
        """Under which it is tried before anybody uses it."""
        return f"{self.model.name}:v{self.number}-candidate"

    def documents(self) -> models.QuerySet[Document]:
        """Those that its training examples came from, with how many each gave (`taught`)."""
        entries = models.Count("examples__entries", models.Q(examples__entries__version=self.run.version_id))
        found = Document.objects.annotate(taught=entries).filter(taught__gt=0)
        return found.order_by("-taught", "name")

    @property
    def is_on_its_way(self) -> bool:
        return bool(self.job and not self.job.is_finished)

    @property
    def standing(self) -> str:
        """Its outcome; what was lost on its way, with its runner, counts as not published."""
        if self.outcome == self.Outcome.WORKING and not self.is_on_its_way:
            return self.Outcome.FAILED
        return self.outcome

    @property
    def standing_in_words(self) -> str:
        return str(self.Outcome(self.standing).label)

    @property
    def steps(self) -> Iterator[tuple[str, str, str, Any]]:
        """Each step: its name, what it is, how it stands (`done`, `failed`, `now`, `waiting`) and its evidence."""
        has_come = False
        for name, title in STEPS.items():
            found = self.evidence.get(name)
            if found is not None:
                yield name, title, "done" if found["ok"] else "failed", found
            elif not has_come and self.is_on_its_way and self.job and self.job.state == JobState.RUNNING:
                has_come = True
                yield name, title, "now", None
            else:
                has_come = True
                yield name, title, "waiting", None


class Switch(models.Model):
    """The stable name was moved from one version to another."""

    model = models.ForeignKey(PublishedModel, models.CASCADE, related_name="switches")
    before = models.ForeignKey(Publication, models.RESTRICT, null=True, related_name="+")
    after = models.ForeignKey(Publication, models.RESTRICT, null=True, related_name="+")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    at = models.DateTimeField(default=timezone.now)
    reason = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.model}: {self.before} → {self.after}"


class Gate(models.Model):
    """What an evaluation must show before a project's models are promoted. Shares of questions, 0 to 1."""

    project = models.OneToOneField(Project, models.CASCADE, related_name="gate")
    min_gain = models.FloatField(
        "gain on the version's questions",
        default=0.0,
        help_text="By how much the share of right answers must exceed the base's.",
    )
    min_kept = models.FloatField(
        "general answers kept",
        default=0.7,
        help_text="Of the base's right general answers, the share that must stay right.",
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(min_gain__range=(-1, 1)) & models.Q(min_kept__range=(0, 1)), name="gate_of_shares"
            )
        ]

    def __str__(self) -> str:
        return f"gate of {self.project}"


class OllamaState(models.Model):
    """An Ollama server as a worker last met it: its models and what it holds in memory, as the client tells them."""

    server = models.OneToOneField(ModelServer, models.CASCADE, related_name="ollama_state")
    version = models.CharField(max_length=40, blank=True)
    held = models.JSONField(default=list)
    loaded = models.JSONField(default=list)
    told = models.JSONField(default=dict, help_text="By digest what helps to find its weights")
    problem = models.TextField(blank=True)
    seen_at = models.DateTimeField(null=True)
    asked_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"state of {self.server}"

    @property
    def disk_bytes(self) -> int:
        """What its models take; those that share weights are counted each."""
        return sum(entry["size"] for entry in self.held)

    def digest_of(self, name: str) -> str:
        """Which model a name is there; empty when the server does not hold it."""
        return next((str(entry["digest"]) for entry in self.held if entry["name"] == name), "")


class OllamaPull(models.Model):
    """A model on its way from a registry into an Ollama server."""

    server = models.ForeignKey(ModelServer, models.CASCADE, related_name="pulls")
    name = models.CharField(max_length=160)
    job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="ollama_pull")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.name} into {self.server}"
