"""Who asks: the bearer's token, what it is for, and the one project it may be bound to."""

import time
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from allauth.account.adapter import get_adapter
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import models
from django.http import Http404, HttpRequest
from ninja.security import HttpBearer

from finetune_site.api.errors import ApiError
from finetune_site.api.models import Scope, Token
from finetune_site.api.services import find_token
from finetune_site.projects.models import Project, Role

REFUSED_AT_MOST, REFUSED_SECONDS = 60, 60
Row = TypeVar("Row", bound=models.Model)


class TokenRequest(HttpRequest):
    """What every operation receives: `user` is the token's person, whatever a cookie says."""

    user: User
    auth: Token


class Bearer(HttpBearer):
    """Lets a usable token with `scope` through. Cookies open nothing here, so nothing needs a CSRF token."""

    def __init__(self, scope: Scope) -> None:
        super().__init__()
        self.scope = scope

    def authenticate(self, request: HttpRequest, token: str) -> Token | None:
        found = find_token(token)
        if found is None:
            _slow_down(request)
            return None
        request.user = found.user
        require_scope(found, self.scope)
        return found


def require_scope(token: Token, scope: Scope) -> None:
    """Raise a 403 unless the token has the scope."""
    if scope not in token.scopes:
        raise ApiError(403, f"The token lacks the scope “{scope.value}”. Make one that has it.")


def _slow_down(request: HttpRequest) -> None:
    """Whoever tries tokens is answered no more for a minute; one that is valid opens at any time."""
    # The minute is part of the key: what counts in a database's cache keeps a key alive for longer.
    key = f"api-refused-{get_adapter().get_client_ip(request)}-{time.time() // REFUSED_SECONDS:.0f}"
    cache.add(key, 0, 2 * REFUSED_SECONDS)
    if cache.incr(key) > REFUSED_AT_MOST:
        raise ApiError(429, "Too many requests with tokens that are not valid. Wait a minute.")


READ, WRITE, TRAIN, PUBLISH = (Bearer(scope) for scope in Scope)


def fetch(request: TokenRequest, get: Callable[..., Row], pk: int | UUID, role: Role | None = None) -> Row:
    """A row by its access function, hidden where the token is bound to another project."""
    row = get(request.user, pk, role=role) if role else get(request.user, pk)
    if request.auth.project_id not in (None, project_of(row).pk):
        raise Http404
    return row


def projects_of(request: TokenRequest) -> "models.QuerySet[Project]":
    """The projects that the token opens."""
    found = Project.objects.visible_to(request.user).filter(is_desk=False)
    return found.filter(pk=request.auth.project_id) if request.auth.project_id else found


def project_of(row: Any) -> Project:
    """The project a row belongs to."""
    while not isinstance(row, Project):
        row = next(getattr(row, name) for name in ("project", "dataset", "run", "model") if hasattr(row, name))
    return row
