"""Who may see and act on a job."""

from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import PermissionDenied
from django.shortcuts import get_object_or_404

from finetune_site.jobs.models import Job
from finetune_site.projects.access import has_role
from finetune_site.projects.models import Role


def get_job(user: User | AnonymousUser, pk: int) -> Job:
    """The job, for whoever is in its project; 404 for a stranger."""
    return get_object_or_404(Job.objects.visible_to(user).select_related("project", "owner"), pk=pk)


def require_control(user: User | AnonymousUser, job: Job) -> None:
    """Raise `PermissionDenied` unless `user` may stop and restart it."""
    if not may_control(user, job):
        raise PermissionDenied("Only the person who started a job, an owner of its project or an operator may do this.")


def may_control(user: User | AnonymousUser, job: Job) -> bool:
    """Trainers stop and restart their own jobs; owners of the project and operators everybody's."""
    if has_role(user, job.project, Role.OWNER):
        return True
    return job.owner_id == user.pk and has_role(user, job.project, Role.TRAINER)
