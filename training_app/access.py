"""Who may see and act on runs. A stranger gets 404, a member below the role 403."""

from django.contrib.auth.models import User
from django.shortcuts import get_object_or_404

from finetune_site.projects.access import require_role
from finetune_site.projects.models import Role
from training_app.models import (
    Benchmark,
    ChatAnswer,
    ChatTurn,
    Conversation,
    Evaluation,
    EvaluationRow,
    Export,
    Judgement,
    Publication,
    PublishedModel,
    Run,
    Sweep,
)


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


def get_conversation(user: User, pk: int) -> Conversation:
    """A conversation is its person's alone, also before owners and operators."""
    found = Conversation.objects.of(user).select_related("project", "run__base", "run__job", "model__current__job")
    return get_object_or_404(found, pk=pk)


def get_turn(user: User, pk: int) -> ChatTurn:
    turns = ChatTurn.objects.filter(conversation__in=Conversation.objects.of(user))
    found = turns.select_related("conversation__project", "conversation__run__base", "conversation__model")
    return get_object_or_404(found.prefetch_related("answers__example"), pk=pk)


def get_answer(user: User, pk: int, *, role: Role = Role.VIEWER) -> ChatAnswer:
    answers = ChatAnswer.objects.filter(turn__conversation__in=Conversation.objects.of(user))
    found = answers.select_related("turn__conversation__project", "turn__conversation__run__base")
    answer = get_object_or_404(found, pk=pk)
    require_role(user, answer.turn.conversation.project, role)
    return answer


def get_evaluation(user: User, pk: int, *, role: Role = Role.VIEWER) -> Evaluation:
    evaluations = Evaluation.objects.filter(run__in=Run.objects.visible_to(user))
    evaluation = get_object_or_404(evaluations.select_related("run__project", "run__base", "job"), pk=pk)
    require_role(user, evaluation.run.project, role)
    return evaluation


def get_evaluation_row(user: User, pk: int, *, role: Role = Role.VIEWER) -> EvaluationRow:
    rows = EvaluationRow.objects.filter(evaluation__run__in=Run.objects.visible_to(user))
    row = get_object_or_404(rows.select_related("evaluation__run__project"), pk=pk)
    require_role(user, row.evaluation.run.project, role)
    return row


def get_judgement(user: User, pk: int) -> Judgement:
    judgements = Judgement.objects.visible_to(user).select_related(
        "evaluation__run__project", "rubric", "server", "job", "created_by"
    )
    return get_object_or_404(judgements, pk=pk)


def get_benchmark(user: User, pk: int) -> Benchmark:
    benchmarks = Benchmark.objects.visible_to(user).select_related("run__project", "job", "created_by")
    return get_object_or_404(benchmarks, pk=pk)


def get_export(user: User, pk: int) -> Export:
    return get_object_or_404(Export.objects.visible_to(user).select_related("run__project"), pk=pk)


def get_publication(user: User, pk: int, *, role: Role = Role.VIEWER) -> Publication:
    found = Publication.objects.visible_to(user).select_related(
        "model__project", "model__server", "model__current", "run__base", "run__version", "job", "created_by"
    )
    publication = get_object_or_404(found, pk=pk)
    require_role(user, publication.model.project, role)
    return publication


def get_published_model(user: User, pk: int) -> PublishedModel:
    models = PublishedModel.objects.visible_to(user).select_related("project", "server", "current__run", "switch_job")
    return get_object_or_404(models, pk=pk)
