"""What can be done to tokens: make, find, revoke; and forgetting answers that are no longer kept."""

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.db.models import Q
from django.utils import timezone

from finetune_site.api.models import KeptAnswer, Scope, Token
from finetune_site.projects.models import Project

PREFIX = "fts_"  # by which scanners of repositories know a leaked one
USED_EVERY = timedelta(minutes=1)
ANSWERS_KEPT = timedelta(hours=24)


def make_token(
    *,
    actor: User,
    name: str,
    scopes: Iterable[str],
    project: Project | None = None,
    expires_at: datetime | None = None,
) -> tuple[Token, str]:
    """A new token and its secret, which is shown once and not kept."""
    secret = f"{PREFIX}{secrets.token_urlsafe(32)}"
    held = [scope.value for scope in Scope if scope == Scope.READ or scope.value in set(scopes)]
    token = Token.objects.create(
        user=actor, name=name, sha256=_sha256(secret), scopes=held, project=project, expires_at=expires_at
    )
    return token, secret


def find_token(secret: str) -> Token | None:
    """The usable token of a secret, None where there is none; found by its hash, so that timing tells nothing."""
    now = timezone.now()
    token = Token.objects.usable(now).select_related("user").filter(sha256=_sha256(secret)).first()
    if token:
        # Once a minute at most: a program that polls would else write with every read.
        stale = Q(last_used_at=None) | Q(last_used_at__lt=now - USED_EVERY)
        Token.objects.filter(stale, pk=token.pk).update(last_used_at=now)
    return token


def revoke_token(*, actor: User, pk: int) -> bool:
    """Delete a person's own token; False where it is not theirs."""
    return bool(Token.objects.of(actor).filter(pk=pk).delete()[0])


def forget_answers() -> None:
    """A short task of every hour."""
    KeptAnswer.objects.filter(at__lt=timezone.now() - ANSWERS_KEPT).delete()


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
