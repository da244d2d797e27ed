"""Files that arrive in parts, so that a lost connection costs one part and not the file."""

import uuid
from pathlib import Path

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models
from django.utils import timezone

from finetune_site.projects.models import Project


class UploadQuerySet(models.QuerySet["Upload"]):
    def visible_to(self, user: User) -> "UploadQuerySet":
        """A person's own, in the projects that are still open to them."""
        return self.filter(by=user, project__in=Project.objects.visible_to(user))


class Upload(models.Model):
    """One file on its way. `arrived`: so many of its bytes are here. `finishing_since`: somebody puts it together.
    `outcome`: what became of it once it was whole, as `services.uploads.finish` notes it; empty before."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    project = models.ForeignKey(Project, models.CASCADE, related_name="uploads")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    name = models.CharField(max_length=255)
    size = models.PositiveBigIntegerField()
    arrived = models.PositiveBigIntegerField(default=0)
    outcome = models.JSONField(default=list)
    finishing_since = models.DateTimeField(null=True)
    touched_at = models.DateTimeField(default=timezone.now, db_index=True)

    objects = UploadQuerySet.as_manager()

    class Meta:
        ordering = ["-touched_at"]
        constraints = [
            models.CheckConstraint(condition=models.Q(arrived__lte=models.F("size")), name="no_more_than_the_file")
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.arrived} of {self.size})"

    @property
    def folder(self) -> Path:
        """Where its parts lie, each under the place of its first byte."""
        return Path(settings.DATA_DIR) / "arriving" / str(self.pk)
