"""Notices to people, what each wants to hear of and where, and up to when news was looked for."""

from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils import timezone

from finetune_site.lib.sealing import UnsealError, unseal
from finetune_site.projects.models import Project


class Kind(models.TextChoices):
    DONE = "done", "Work of mine that took more than a minute is done"
    FAILED = "failed", "Work of mine failed"
    REVIEW = "review", "New examples wait for review"
    CONFLICT = "conflict", "An example was changed here and in Label Studio"


def all_kinds() -> list[str]:
    return list(Kind.values)


class Wishes(models.Model):
    """What a person wants to hear of. Without a row: everything, in the page alone."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, related_name="wishes")
    kinds = ArrayField(models.CharField(max_length=10, choices=Kind.choices), default=all_kinds)
    by_mail = models.BooleanField(default=False)
    sealed_webhook = models.TextField(blank=True, help_text="The address, sealed under the site's key: it opens a door")

    class Meta:
        verbose_name_plural = "wishes"

    def __str__(self) -> str:
        return f"wishes of {self.user}"

    @classmethod
    def of(cls, user: User) -> "Wishes":
        return cls.objects.filter(user=user).first() or cls(user=user)

    @property
    def webhook(self) -> str:
        """The address; empty when there is none, or it was sealed under another key."""
        try:
            return unseal(self.sealed_webhook, settings.SECRET_KEY) if self.sealed_webhook else ""
        except UnsealError:
            return ""


class NoticeQuerySet(models.QuerySet["Notice"]):
    def visible_to(self, user: User) -> "NoticeQuerySet":
        """Whoever left a project hears of it no more."""
        return self.filter(user=user, project__in=Project.objects.visible_to(user))

    def unread(self) -> "NoticeQuerySet":
        return self.filter(read_at=None)

    def due(self) -> "NoticeQuerySet":
        return self.filter(Q(mail_due=True) | Q(webhook_due=True))


class Notice(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="notices")
    project = models.ForeignKey(Project, models.CASCADE, related_name="+")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    text = models.CharField(max_length=400)
    url = models.CharField(max_length=200)
    at = models.DateTimeField(default=timezone.now)
    read_at = models.DateTimeField(null=True)
    mail_due = models.BooleanField(default=False)
    webhook_due = models.BooleanField(default=False)
    tries = models.PositiveSmallIntegerField(default=0)

    objects = NoticeQuerySet.as_manager()

    class Meta:
        ordering = ["-at", "-pk"]
        indexes = [
            models.Index(fields=["user", "-at", "-id"], name="notice_order"),
            models.Index(fields=["user"], condition=Q(read_at=None), name="notice_unread"),
            models.Index(fields=["id"], condition=Q(mail_due=True) | Q(webhook_due=True), name="notice_due"),
            models.Index(fields=["at"], name="notice_at"),
        ]
        constraints = [models.CheckConstraint(condition=Q(kind__in=Kind.values), name="known_notice_kind")]

    def __str__(self) -> str:
        return self.text

    def get_absolute_url(self) -> str:
        return reverse("notice", args=[self.pk])


class LookedUntil(models.Model):
    """One row: news before `at` has been told."""

    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"looked until {self.at}"
