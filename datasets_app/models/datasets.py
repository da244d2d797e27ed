"""Datasets and their sealed versions."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.db import models
from django.urls import reverse
from django.utils import timezone

from datasets_app.models.documents import Document
from finetune_site.jobs.models import Job
from finetune_site.projects.models import Project


class DatasetQuerySet(models.QuerySet["Dataset"]):
    def visible_to(self, user: User | AnonymousUser) -> "DatasetQuerySet":
        return self.filter(project__in=Project.objects.visible_to(user))


class Dataset(models.Model):
    """Examples that are made, judged and sealed together."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="datasets")
    name = models.CharField(max_length=120)
    description = models.TextField(blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    check_job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="+")
    found = models.JSONField(default=dict, help_text="Of each finding how many examples have it, and approved ones")

    objects = DatasetQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-pk"]
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="one_dataset_per_name")]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("dataset", args=[self.pk])


class VersionQuerySet(models.QuerySet["DatasetVersion"]):
    def visible_to(self, user: User | AnonymousUser) -> "VersionQuerySet":
        return self.filter(dataset__project__in=Project.objects.visible_to(user))

    def sealed(self) -> "VersionQuerySet":
        return self.filter(sealed_at__isnull=False)

    def kinds(self) -> set[str]:
        """The kinds of examples that the sealed ones among them hold."""
        held = self.sealed().order_by().values_list("entries__example__kind", flat=True).distinct()
        return {kind for kind in held if kind}


class DatasetVersion(models.Model):
    """The approved examples of one moment, written once. From `sealed_at` on the row and its file never change."""

    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    parent = models.ForeignKey("self", models.RESTRICT, null=True, related_name="children")
    note = models.CharField(max_length=300, blank=True)
    validation_share = models.FloatField(default=0.1)
    recall_share = models.FloatField(default=1.0)
    job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="dataset_version")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    sealed_at = models.DateTimeField(null=True)
    sha256 = models.CharField(max_length=64, blank=True)
    size = models.BigIntegerField(default=0)
    counts = models.JSONField(default=dict)

    objects = VersionQuerySet.as_manager()

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["dataset", "number"], name="one_version_per_number"),
            models.CheckConstraint(
                condition=models.Q(sealed_at=None) | ~models.Q(sha256=""), name="sealed_version_has_its_hash"
            ),
        ]

    def withdrawn_documents(self) -> models.QuerySet["Document"]:
        """The documents that examples of it were made from and that were withdrawn."""
        used = self.entries.filter(example__document=models.OuterRef("pk"))
        withdrawn = Document.objects.filter(project=self.dataset.project_id, withdrawn_at__isnull=False)
        return withdrawn.filter(models.Exists(used)).select_related("withdrawn_by")

    def __str__(self) -> str:
        return f"{self.dataset} v{self.number}"

    def get_absolute_url(self) -> str:
        return reverse("version", args=[self.pk])

    @property
    def is_sealed(self) -> bool:
        return self.sealed_at is not None

    @property
    def file_path(self) -> Path:
        """The sealed Parquet file, named by its content."""
        return Path(settings.MEDIA_ROOT) / "versions" / self.sha256[:2] / f"{self.sha256}.parquet"

    @property
    def filename(self) -> str:
        """What its files are called when people save them, without the suffix."""
        return f"{self.dataset.name}-v{self.number}".replace(" ", "-").lower()

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk and DatasetVersion.objects.sealed().filter(pk=self.pk).exists():
            raise TypeError("A sealed version never changes; seal a new one.")
        super().save(*args, **kwargs)


class VersionEntry(models.Model):
    """One example of a version, in the exact text that was approved, and what it serves."""

    version = models.ForeignKey(DatasetVersion, models.CASCADE, related_name="entries")
    example = models.ForeignKey("Example", models.RESTRICT, related_name="entries")
    text = models.ForeignKey("ExampleText", models.RESTRICT, related_name="entries")
    split = models.CharField(max_length=10)

    class Meta:
        ordering = ["pk"]
        verbose_name_plural = "version entries"
        constraints = [models.UniqueConstraint(fields=["version", "example"], name="one_entry_per_example")]

    def __str__(self) -> str:
        return f"{self.split} example {self.example_id}"
