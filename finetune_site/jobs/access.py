"""Who may see and act on a job."""

from django.contrib.auth.models import AnonymousUser, User
from django.shortcuts import get_object_or_404

from finetune_site.jobs.models import Job
from finetune_site.projects.access import has_role, require_role
from finetune_site.projects.models import Role


def get_job(user: User | AnonymousUser, pk: int, *, role: Role = Role.VIEWER) -> Job:
    """The job, if `user` holds at least `role` in its project; 404 for a stranger, 403 below the role."""
    job = get_object_or_404(Job.objects.visible_to(user).select_related("project", "owner"), pk=pk)
    require_role(user, job.project, role)
    return job


def may_control(user: User | AnonymousUser, job: Job) -> bool:
    """Trainers stop and restart their own jobs; owners of the project and operators everybody's."""
    if has_role(user, job.project, Role.OWNER):
        return True
    return job.owner_id == user.pk and has_role(user, job.project, Role.TRAINER)
