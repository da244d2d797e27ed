"""Who may see and act on runs. A stranger gets 404, a member below the role 403."""

from django.contrib.auth.models import User
from django.shortcuts import get_object_or_404

from finetune_site.projects.access import require_role
from finetune_site.projects.models import Role
from training_app.models import ChatTurn, Evaluation, Run, Sweep


def get_run(user: User, pk: int, *, role: Role = Role.VIEWER) -> Run:
    runs = Run.objects.visible_to(user).select_related(
        "project", "version__dataset", "base", "start", "job", "preview_job", "created_by"
    )
    run = get_object_or_404(runs, pk=pk)
    require_role(user, run.project, role)
    return run


def get_sweep(user: User, pk: int, *, role: Role = Role.VIEWER) -> Sweep:
    sweeps = Sweep.objects.visible_to(user).select_related("project", "pattern", "created_by")
    sweep = get_object_or_404(sweeps, pk=pk)
    require_role(user, sweep.project, role)
    return sweep


def get_turn(user: User, pk: int) -> ChatTurn:
    """A turn is its asker's alone, also before owners and operators."""
    return get_object_or_404(ChatTurn, pk=pk, user=user, run__in=Run.objects.visible_to(user))


def get_evaluation(user: User, pk: int) -> Evaluation:
    evaluations = Evaluation.objects.filter(run__in=Run.objects.visible_to(user))
    return get_object_or_404(evaluations.select_related("run__project", "run__base", "job"), pk=pk)
