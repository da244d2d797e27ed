"""Public benchmarks of a run beside its base."""

from dataclasses import dataclass

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.urls import reverse
from django.utils import timezone

from finetune_site.jobs.models import Job
from finetune_site.projects.models import Project
from training_app.models.runs import Run

CLEAR = 1.96  # standard errors: two equal models differ by more once in twenty times


@dataclass(frozen=True)
class Figure:
    """One metric of one task, of both models, with standard errors where there are any."""

    task: str
    metric: str
    rows: int
    base: float
    base_error: float | None
    tuned: float
    tuned_error: float | None
    is_higher_better: bool

    @property
    def verdict(self) -> str:
        """“better” or “worse” where the difference is more than chance gives, else “no clear difference”.

        The errors are taken as independent; as both models answer the same rows, that is rather too careful.
        """
        gain = (self.tuned - self.base) * (1 if self.is_higher_better else -1)
        if self.base_error is None or self.tuned_error is None:
            return "no error known"
        if abs(gain) <= CLEAR * (self.base_error**2 + self.tuned_error**2) ** 0.5:
            return "no clear difference"
        return "better" if gain > 0 else "worse"


class BenchmarkQuerySet(models.QuerySet["Benchmark"]):
    def visible_to(self, user: User | AnonymousUser) -> "BenchmarkQuerySet":
        return self.filter(run__project__in=Project.objects.visible_to(user))


class Benchmark(models.Model):
    """Tasks of lm-eval asked of base and tuned model."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="benchmarks")
    tasks = ArrayField(models.CharField(max_length=100))
    limit = models.PositiveIntegerField(help_text="Rows of each task; 0: all")
    job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="benchmark")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    summary = models.JSONField(default=dict)

    objects = BenchmarkQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"benchmarks of {self.run}"

    def get_absolute_url(self) -> str:
        return reverse("benchmark", args=[self.pk])

    @property
    def figures(self) -> list[Figure]:
        """Every metric of every task, in the order in which the tasks were chosen."""
        found = self.summary.get("tasks", {})
        return [
            Figure(task=name, metric=metric, rows=found[name]["rows"], **values)
            for name in self.tasks
            if name in found
            for metric, values in found[name]["metrics"].items()
        ]

    @property
    def skipped(self) -> list[str]:
        """Why tasks could not be run."""
        return [task["reason"] for task in self.summary.get("tasks", {}).values() if task["reason"]]
