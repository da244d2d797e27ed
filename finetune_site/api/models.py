"""Tokens that programs sign in with, and the answers kept for requests that may be sent twice."""

from datetime import datetime

from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.postgres.fields import ArrayField
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import Q
from django.utils import timezone

from finetune_site.projects.models import Project


class Scope(models.TextChoices):
    """What a token may be used for. Every token reads; the others are given one by one."""

    READ = "read", "Read: everything its person sees"
    WRITE = "write", "Write: also upload, generate, import, review and seal"
    TRAIN = "train", "Train: also plan, start and stop runs, evaluate and chat"
    PUBLISH = "publish", "Publish: also make files of models and publish them"


class TokenQuerySet(models.QuerySet["Token"]):
    def of(self, user: User) -> "TokenQuerySet":
        return self.filter(user=user)

    def usable(self, now: datetime) -> "TokenQuerySet":
        """Those that open something: not expired, of a person who may sign in."""
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=now), user__is_active=True)


class Token(models.Model):
    """A person's key for a program. Only the SHA-256 of the secret is kept."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=80)
    sha256 = models.CharField(max_length=64, unique=True, editable=False)
    scopes = ArrayField(models.CharField(max_length=10, choices=Scope.choices))
    project = models.ForeignKey(Project, models.CASCADE, null=True, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)

    objects = TokenQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()


class KeptAnswer(models.Model):
    """What a request with an `Idempotency-Key` was answered; the same request again gets the same answer."""

    token = models.ForeignKey(Token, models.CASCADE, related_name="answers")
    key = models.CharField(max_length=200)
    request_sha256 = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField()
    body = models.JSONField(encoder=DjangoJSONEncoder)
    at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["token", "key"], name="one_answer_per_key")]

    def __str__(self) -> str:
        return f"answer to {self.key}"
