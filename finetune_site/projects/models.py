"""Projects, who is in them with which role, and the trail of what was done."""

from datetime import date, datetime
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models.functions import Cast
from django.urls import reverse
from django.utils import timezone


class Role(models.TextChoices):
    """What a member may do; each role includes the ones before it."""

    VIEWER = "viewer", "Viewer: sees everything"
    REVIEWER = "reviewer", "Reviewer: also edits and judges examples"
    TRAINER = "trainer", "Trainer: also uploads, generates, seals and trains"
    OWNER = "owner", "Owner: also manages members and deletes"

    @property
    def rank(self) -> int:
        return list(Role).index(self)

    @property
    def word(self) -> str:
        return str(self.label).partition(":")[0]


class ProjectQuerySet(models.QuerySet["Project"]):
    def visible_to(self, user: User | AnonymousUser) -> "ProjectQuerySet":
        """Projects the user is a member of; operators see all."""
        if user.is_superuser:
            return self
        if not user.is_authenticated:
            return self.none()
        return self.filter(memberships__user=user)


class Project(models.Model):
    name = models.CharField(max_length=120)
    description = models.TextField(blank=True)
    needs_two = models.BooleanField("two people", default=False)
    # Limits that operators set; None: the site's own, FINETUNE_PROJECT_DISK_GB and FINETUNE_PROJECT_DEVICE_HOURS.
    disk_limit_gb = models.PositiveIntegerField("disk limit", null=True, blank=True)
    device_hours_limit = models.PositiveIntegerField("device hour limit", null=True, blank=True)
    disk_bytes = models.BigIntegerField(default=0, editable=False, help_text="As last measured, and what came since")
    is_desk = models.BooleanField(default=False, editable=False, help_text="Where the operators' own jobs belong")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    objects = ProjectQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["is_desk"], condition=models.Q(is_desk=True), name="one_operators_desk")
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("project", args=[self.pk])


class Membership(models.Model):
    project = models.ForeignKey(Project, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role.choices)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["user__username"]
        constraints = [
            models.UniqueConstraint(fields=["project", "user"], name="one_membership_per_user"),
            models.CheckConstraint(condition=models.Q(role__in=Role.values), name="known_role"),
        ]

    def __str__(self) -> str:
        return f"{self.user} ({self.role}) in {self.project}"


class Invitation(models.Model):
    """A link that makes its bearer a member, once. Only the SHA-256 of its token is kept."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="invitations")
    email = models.EmailField()
    role = models.CharField(max_length=10, choices=Role.choices)
    token_sha256 = models.CharField(max_length=64, unique=True)
    invited_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"Invitation of {self.email} to {self.project}"

    def is_open(self, now: datetime | None = None) -> bool:
        return self.accepted_at is None and self.expires_at > (now or timezone.now())


class AuditQuerySet(models.QuerySet["AuditEntry"]):
    def matching(
        self, *, words: str = "", person: User | None = None, since: date | None = None, until: date | None = None
    ) -> "AuditQuerySet":
        """Those that a filter lets through, both days included; an empty part asks for nothing."""
        found = self
        for word in words.split():
            texts = {"was": Cast("before", models.TextField()), "became": Cast("after", models.TextField())}
            said = models.Q(verb__icontains=word) | models.Q(subject__icontains=word)
            said |= models.Q(was__icontains=word) | models.Q(became__icontains=word)
            found = found.alias(**texts).filter(said)
        if person:
            found = found.filter(actor=person)
        if since:
            found = found.filter(at__date__gte=since)
        return found.filter(at__date__lte=until) if until else found


class AuditEntry(models.Model):
    """One act that changed something: who, what, when, before, after. Never edited."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="audit_entries")
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+")
    verb = models.CharField(max_length=60)
    subject = models.CharField(max_length=200)
    before = models.JSONField(null=True, encoder=DjangoJSONEncoder)
    after = models.JSONField(null=True, encoder=DjangoJSONEncoder)
    at = models.DateTimeField(default=timezone.now)

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-at", "-pk"]
        verbose_name_plural = "audit entries"
        indexes = [models.Index(fields=["project", "-at", "-id"], name="audit_order")]

    def __str__(self) -> str:
        return f"{self.actor or 'the site'} {self.verb} {self.subject}"

    @property
    def changes(self) -> list[tuple[str, Any, Any]]:
        """What differs, field by field: its name, before, after. A value without fields has no name."""
        before, after = self.before, self.after
        if not isinstance(before or {}, dict) or not isinstance(after or {}, dict):
            return [("", before, after)]
        before, after = before or {}, after or {}
        names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        return [(name, before.get(name), after.get(name)) for name in names]
