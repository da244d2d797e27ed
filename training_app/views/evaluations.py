"""Evaluations: start one, read it row by row."""

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from finetune_site.projects.access import SignedInRequest, has_role
from finetune_site.projects.models import Role
from training_app.access import get_evaluation, get_run
from training_app.models import Verdict
from training_app.services import runs as services

ROWS = 50


@require_POST
def evaluation_create(request: SignedInRequest, pk: int) -> HttpResponse:
    run = get_run(request.user, pk, role=Role.TRAINER)
    try:
        return redirect("evaluation", services.start_evaluation(actor=request.user, run=run).pk)
    except services.TrainingError as error:
        messages.error(request, str(error))
    return redirect(run)


@require_GET
def evaluation(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/evaluation.html", _context(request, pk))


@require_GET
def evaluation_body(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/evaluation.html#body", _context(request, pk))


def _context(request: SignedInRequest, pk: int) -> dict[str, object]:
    found = get_evaluation(request.user, pk)
    chosen = request.GET.get("set", "")
    rows = found.rows.filter(set=chosen) if chosen else found.rows.all()
    project = found.run.project
    judgements = found.judgements.select_related("rubric", "job", "evaluation")
    return {
        "may_judge": has_role(request.user, project, Role.REVIEWER),
        "may_train": has_role(request.user, project, Role.TRAINER),
        "judgements": [(judgement, judgement.agreement()) for judgement in judgements],
        "verdicts": Verdict.objects.filter(row__evaluation=found).sums(),
        "evaluation": found,
        "run": found.run,
        "project": project,
        "section": "runs",
        "chosen": chosen,
        "sets": found.sets,
        "page": Paginator(rows, ROWS).get_page(request.GET.get("page")),
    }
