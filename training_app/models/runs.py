"""Runs, and the series of numbers a run writes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.postgres.fields import ArrayField
from django.db import connection, models
from django.db.models import Max, Q
from django.db.models.functions import Mod
from django.urls import reverse
from django.utils import timezone

from datasets_app.models import DatasetVersion
from finetune_site.jobs.models import Job, JobState
from finetune_site.projects.models import Project
from training_app.engine.spec import knobs
from training_app.models.bases import BaseModel

# What pages show of a run of any length: so many steps of its curves, so many looks of its answers.
CURVE_STEPS, SHOWN_LOOKS = 2000, 10
LOOK_NAMES = ("validation_loss", "validation_margin", "validation_accuracy")


class RunQuerySet(models.QuerySet["Run"]):
    def visible_to(self, user: User | AnonymousUser) -> "RunQuerySet":
        return self.filter(project__in=Project.objects.visible_to(user))

    def matching(
        self, *, words: str = "", state: str = "", base: Any = None, method: str = "", tag: str = ""
    ) -> "RunQuerySet":
        """Those that a filter lets through; an empty part asks for nothing. A draft is a run without a job."""
        found = self
        for word in words.split():
            found = found.filter(Q(name__icontains=word) | Q(notes__icontains=word) | Q(tags__icontains=word))
        if state:
            found = found.filter(job=None) if state == "draft" else found.filter(job__state=state)
        if base:
            found = found.filter(base=base)
        if method:
            found = found.filter(method=method)
        return found.filter(tags__contains=[tag]) if tag else found


class Run(models.Model):
    """One fine-tuning: which version, which base, which method and knobs, and what came of it."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="runs")
    name = models.CharField(max_length=120)
    version = models.ForeignKey(DatasetVersion, models.RESTRICT, related_name="runs")
    base = models.ForeignKey(BaseModel, models.PROTECT, related_name="runs")
    method = models.CharField(max_length=10)
    preset = models.CharField(max_length=20)
    start = models.ForeignKey("self", models.RESTRICT, null=True, related_name="continuations")
    config = models.JSONField(help_text="Every knob's value")
    is_evaluated_after = models.BooleanField(default=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    preview_job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="previewed_run")
    preview = models.JSONField(default=dict)
    job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="run")
    base_identity = models.JSONField(default=dict, help_text="What its base was before it started")
    started = models.JSONField(default=dict, help_text="What the engine said when it started")
    result = models.JSONField(default=dict)
    tags = ArrayField(models.CharField(max_length=40), default=list, blank=True)
    notes = models.TextField(blank=True)
    disk_bytes = models.BigIntegerField(default=0, help_text="Size of its folder when it was last measured")

    objects = RunQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("run", args=[self.pk])

    @property
    def folder(self) -> Path:
        """Everything that made the model: spec, environment, log, checkpoints, weights, result."""
        return Path(settings.DATA_DIR) / "runs" / str(self.pk)

    @property
    def state(self) -> str:
        return self.job.state if self.job else "draft"

    @property
    def objective(self) -> str:
        return str(self.config.get("objective", "supervised"))

    @property
    def slots(self) -> int:
        """Devices of one machine that it needs at the same time; on the Ray cluster one slot stands for all of them."""
        return 1 if self.config.get("cluster") else int(self.config.get("processes", 1))

    @property
    def is_done(self) -> bool:
        return self.state == JobState.SUCCEEDED

    @property
    def preset_knobs(self) -> dict[str, Any]:
        """What its preset gives every knob, for this base and this version."""
        size = self.version.counts.get("train", 0)
        return knobs(self.method, self.preset, self.objective, self.base.parameters, size)

    @property
    def differing(self) -> dict[str, tuple[Any, Any]]:
        """Which knobs differ from the preset: name to (preset's value, this value)."""
        usual = self.preset_knobs
        return {name: (usual[name], value) for name, value in self.config.items() if usual.get(name, value) != value}

    @property
    def spec(self) -> dict[str, Any]:
        """What preview and training share; the engine's `TrainSpec` without its folder."""
        return {
            "data_path": str(self.version.file_path),
            "data_sha256": self.version.sha256,
            "base_dir": str(self.base.folder),
            "base_name": self.base.name,
            **({"start_dir": str(self.start.folder)} if self.start else {}),
            "method": self.method,
            **self.config,
        }


_NEWEST = """
select wanted.name, newest.value from unnest(%s::text[]) as wanted (name), lateral (
  select value from training_app_metric where run_id = %s and name = wanted.name order by step desc limit 1
) as newest
"""


class MetricQuerySet(models.QuerySet["Metric"]):
    def thinned(self) -> "MetricQuerySet":
        """Of one run's: every number of evenly spread steps, of each look and of the last step."""
        last = self.aggregate(last=Max("step"))["last"] or 0
        looks = self.filter(name__in=LOOK_NAMES).order_by().values("step")
        spread = self.annotate(rest=Mod("step", last // CURVE_STEPS + 1))
        return spread.filter(Q(rest=0) | Q(step=last) | Q(step__in=looks))

    def newest_of(self, run: Run, names: Iterable[str]) -> dict[str, float]:
        """The last number of each of these names that has one: a look into the index for each, whatever is in it."""
        with connection.cursor() as cursor:
            cursor.execute(_NEWEST, [list(names), run.pk])
            return dict(cursor.fetchall())


class Metric(models.Model):
    """One number of one step. An event that is delivered twice adds nothing."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="metrics")
    step = models.PositiveIntegerField()
    name = models.CharField(max_length=24)
    value = models.FloatField()

    objects = MetricQuerySet.as_manager()

    class Meta:
        ordering = ["step"]
        constraints = [models.UniqueConstraint(fields=["run", "step", "name"], name="one_metric_per_step")]

    def __str__(self) -> str:
        return f"{self.name} {self.value} at step {self.step}"


class SampleQuerySet(models.QuerySet["Sample"]):
    def newest(self) -> "SampleQuerySet":
        """Of one run's: those of the last looks."""
        looks = self.order_by("-step").values_list("step", flat=True).distinct()[:SHOWN_LOOKS]
        return self.filter(step__in=list(looks))


class Sample(models.Model):
    """What the model answered to one validation question at one step. Delivered twice, it is there once."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="samples")
    step = models.PositiveIntegerField()
    example_id = models.BigIntegerField()
    question = models.TextField()
    reference = models.TextField()
    answer = models.TextField()

    objects = SampleQuerySet.as_manager()

    class Meta:
        ordering = ["example_id", "-step"]
        constraints = [models.UniqueConstraint(fields=["run", "step", "example_id"], name="one_sample_per_step")]

    def __str__(self) -> str:
        return f"answer at step {self.step}"


class RowLoss(models.Model):
    """What one validation row loses at the newest look: where the model is right, and where it has not learnt."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="row_losses")
    example_id = models.BigIntegerField()
    step = models.PositiveIntegerField()
    loss = models.FloatField()

    class Meta:
        ordering = ["-loss"]
        verbose_name_plural = "row losses"
        constraints = [models.UniqueConstraint(fields=["run", "example_id"], name="one_loss_per_row")]

    def __str__(self) -> str:
        return f"example {self.example_id}: {self.loss}"
