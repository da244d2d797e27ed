"""What can be done to a project and its members: each verb one transaction, with its audit entry."""

import hashlib
import secrets
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.mail import send_mail
from django.db import transaction
from django.utils import timezone

from finetune_site.projects.models import AuditEntry, Invitation, Membership, Project, Role

INVITATION_DAYS = 14


class ProjectError(Exception):
    """Something the person can mend; the message says how."""


def audit(
    project: Project, actor: User | None, verb: str, subject: object, *, before: Any = None, after: Any = None
) -> AuditEntry:
    """Keep who did what. Call it inside the transaction that does it."""
    return AuditEntry.objects.create(
        project=project, actor=actor, verb=verb, subject=str(subject)[:200], before=before, after=after
    )


@transaction.atomic
def create_project(*, actor: User, name: str, description: str = "", needs_two: bool = False) -> Project:
    """Make a project whose creator owns it."""
    project = Project.objects.create(name=name, description=description, needs_two=needs_two, created_by=actor)
    Membership.objects.create(project=project, user=actor, role=Role.OWNER)
    audit(project, actor, "created", project)
    return project


def operators_desk(*, actor: User) -> Project:
    """The project without members that the operators' own jobs belong to."""
    desk, _ = Project.objects.get_or_create(is_desk=True, defaults={"name": "Operators' desk", "created_by": actor})
    return desk


@transaction.atomic
def edit_project(*, actor: User, project: Project, name: str, description: str, needs_two: bool | None = None) -> None:
    """Change what is said of a project, and (None: as it is) whether two people are needed to seal and publish."""
    before = {"name": project.name, "description": project.description, "two people": project.needs_two}
    project.name, project.description = name, description
    project.needs_two = project.needs_two if needs_two is None else needs_two
    project.save(update_fields=["name", "description", "needs_two"])
    after = {"name": name, "description": description, "two people": project.needs_two}
    audit(project, actor, "edited", project, before=before, after=after)


@transaction.atomic
def set_limits(*, actor: User, project: Project, disk_limit_gb: int | None, device_hours_limit: int | None) -> None:
    """Say how much a project may take; None: as much as the site lets any project. For operators."""
    locked = Project.objects.select_for_update().get(pk=project.pk)
    before = {"disk in GB": locked.disk_limit_gb, "device hours a month": locked.device_hours_limit}
    Project.objects.filter(pk=project.pk).update(disk_limit_gb=disk_limit_gb, device_hours_limit=device_hours_limit)
    after = {"disk in GB": disk_limit_gb, "device hours a month": device_hours_limit}
    audit(project, actor, "set the limits of", project, before=before, after=after)


@transaction.atomic
def delete_project(*, actor: User, project: Project) -> None:
    """Delete a project with its rows. Runners at work for it notice at their next write and stop; files that nothing
    points at any more are removed by `manage.py purge`."""
    Project.objects.select_for_update().get(pk=project.pk)
    # Whoever writes an event holds its job: the event comes before the deletion, or not at all.
    list(project.jobs.select_for_update().order_by("pk").values("pk"))
    audit(operators_desk(actor=actor), actor, "deleted the project", project, before={"id": project.pk})
    project.delete()


@transaction.atomic
def add_member(*, actor: User, project: Project, user: User, role: Role) -> Membership:
    """Make `user` a member. Whoever is one already keeps the role: it is changed with `set_role`, knowingly."""
    Project.objects.select_for_update().get(pk=project.pk)
    if here := Membership.objects.filter(project=project, user=user).first():
        raise ProjectError(f"{user} is already a member, as {here.role}. Change the role in the list of members.")
    return set_role(actor=actor, project=project, user=user, role=role)


@transaction.atomic
def set_role(*, actor: User, project: Project, user: User, role: Role) -> Membership:
    """Make `user` a member with `role`, or change the role. The last owner stays one."""
    Project.objects.select_for_update().get(pk=project.pk)
    membership = Membership.objects.filter(project=project, user=user).first()
    if membership and membership.role == Role.OWNER and role != Role.OWNER:
        _keep_an_owner(project, membership)
    before = membership.role if membership else None
    membership, _ = Membership.objects.update_or_create(project=project, user=user, defaults={"role": role})
    audit(project, actor, "set the role of", user, before=before, after=role)
    return membership


@transaction.atomic
def remove_member(*, actor: User, membership: Membership) -> None:
    """End a membership. The last owner cannot leave."""
    Project.objects.select_for_update().get(pk=membership.project_id)
    membership.refresh_from_db()  # as it is now that nobody else changes it
    if membership.role == Role.OWNER:
        _keep_an_owner(membership.project, membership)
    audit(membership.project, actor, "removed", membership.user, before=membership.role)
    membership.delete()


@transaction.atomic
def invite(*, actor: User, project: Project, email: str, role: Role) -> tuple[Invitation, str]:
    """Make an invitation; returns it and the token of its link, which is shown once and not kept."""
    token = secrets.token_urlsafe(32)
    invitation = Invitation.objects.create(
        project=project,
        email=email,
        role=role,
        token_sha256=_sha256(token),
        invited_by=actor,
        expires_at=timezone.now() + timedelta(days=INVITATION_DAYS),
    )
    audit(project, actor, "invited", email, after=role)
    return invitation, token


@transaction.atomic
def take_back_invitation(*, actor: User, invitation: Invitation) -> None:
    """Make the link of an invitation worthless. One that somebody followed meanwhile is a membership: remove that."""
    here = Invitation.objects.select_for_update().filter(pk=invitation.pk).first()
    if here is None:
        return
    if here.accepted_at:
        raise ProjectError(f"The invitation of {here.email} was just accepted. Remove the member instead.")
    audit(here.project, actor, "took back the invitation of", here.email, before=here.role)
    here.delete()


def mail_invitation(invitation: Invitation, link: str) -> None:
    """Send the link to whom it is for. `OSError` when the mail server does not take it."""
    text = (
        f"{invitation.invited_by} invites you to the project {invitation.project} as {invitation.role}.\n\n{link}\n\n"
        f"The link works once, for {INVITATION_DAYS} days."
    )
    subject = f"Finetune Site: join {invitation.project}".replace("\n", " ")
    send_mail(subject, text, settings.DEFAULT_FROM_EMAIL, [invitation.email])


def find_invitation(token: str) -> Invitation | None:
    """The open invitation of a token, None when there is none, it was used or has expired."""
    invitation = Invitation.objects.select_related("project").filter(token_sha256=_sha256(token)).first()
    return invitation if invitation and invitation.is_open() else None


@transaction.atomic
def accept_invitation(*, user: User, invitation: Invitation) -> Membership:
    """Make `user` a member as invited; a role already held is never lowered. Each invitation works once."""
    taken = Invitation.objects.filter(pk=invitation.pk, accepted_at=None).update(accepted_at=timezone.now())
    if not taken:
        raise ProjectError("This invitation was used or taken back. Ask an owner of the project for another.")
    membership, created = Membership.objects.get_or_create(
        project=invitation.project, user=user, defaults={"role": invitation.role}
    )
    if not created and Role(membership.role).rank < Role(invitation.role).rank:
        membership.role = invitation.role
        membership.save(update_fields=["role"])
    audit(invitation.project, user, "joined as", membership.role)
    return membership


def _keep_an_owner(project: Project, leaving: Membership) -> None:
    others = Membership.objects.filter(project=project, role=Role.OWNER).exclude(pk=leaving.pk)
    if not others.exists():
        raise ProjectError(f"{leaving.user} is the only owner of {project}. Make somebody else an owner first.")


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
