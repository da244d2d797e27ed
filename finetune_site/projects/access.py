"""Who may: the one place where a project is fetched for a user.

A stranger gets 404 (existence is not told), a member without the role 403. Operators act as owners everywhere.
"""

from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django_htmx.middleware import HtmxDetails

from finetune_site.projects.models import Membership, Project, Role


class SignedInRequest(HttpRequest):
    """What every view receives: the middleware lets nobody through who is not signed in."""

    user: User
    htmx: HtmxDetails


def get_project(user: User | AnonymousUser, pk: int, *, role: Role = Role.VIEWER) -> Project:
    """The project, if `user` holds at least `role` in it; `Http404` for a stranger, `PermissionDenied` below it."""
    project = get_object_or_404(Project.objects.visible_to(user), pk=pk)
    require_role(user, project, role)
    return project


def require_role(user: User | AnonymousUser, project: Project, role: Role) -> None:
    """Raise `PermissionDenied` unless `user` holds at least `role` in `project`."""
    if not has_role(user, project, role):
        raise PermissionDenied(f"This needs the role “{role.word}” in the project {project}. Ask one of its owners.")


def require_operator(user: User | AnonymousUser, act: str) -> User:
    """The operator; `PermissionDenied` for anybody else. `act` completes “Only operators …”."""
    if not user.is_superuser:
        raise PermissionDenied(f"Only operators {act}.")
    return user


def has_role(user: User | AnonymousUser, project: Project, role: Role) -> bool:
    held = role_of(user, project)
    return held is not None and held.rank >= role.rank


def role_of(user: User | AnonymousUser, project: Project) -> Role | None:
    """The role that `user` holds in `project`, None for a stranger."""
    if user.is_superuser:
        return Role.OWNER
    if not user.is_authenticated:
        return None
    value = Membership.objects.filter(project=project, user=user).values_list("role", flat=True).first()
    return Role(value) if value else None
