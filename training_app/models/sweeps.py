"""Sweeps: one run in many variants, to find the values that suit the data."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.db import models
from django.urls import reverse
from django.utils import timezone

from finetune_site.projects.models import Project
from training_app.models.runs import Run


class SweepQuerySet(models.QuerySet["Sweep"]):
    def visible_to(self, user: User | AnonymousUser) -> "SweepQuerySet":
        return self.filter(project__in=Project.objects.visible_to(user))


class Sweep(models.Model):
    """Variants of a pattern: every combination of some values, or as many as a search may try."""

    GRID, SEARCH = "grid", "search"

    project = models.ForeignKey(Project, models.CASCADE, related_name="sweeps")
    name = models.CharField(max_length=120)
    pattern = models.ForeignKey(Run, models.RESTRICT, related_name="sweeps")
    manner = models.CharField(max_length=10, choices=[(GRID, "every combination"), (SEARCH, "search")])
    space = models.JSONField(help_text="Knob to its values; in a search of numbers the lowest and the highest")
    budget = models.PositiveSmallIntegerField(help_text="Runs at most")
    stopped_at = models.DateTimeField(null=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    objects = SweepQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("sweep", args=[self.pk])


class Trial(models.Model):
    """One variant of a sweep: the values that differ, and its run."""

    sweep = models.ForeignKey(Sweep, models.CASCADE, related_name="trials")
    run = models.OneToOneField(Run, models.CASCADE, related_name="trial")
    values = models.JSONField()

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"variant {self.pk} of {self.sweep}"

    @property
    def loss(self) -> float | None:
        """What the sweep lowers: the validation loss, of the best weights where the run kept them."""
        found: Any = self.run.result.get("validation_loss")
        return found
