"""A model's judgement of an evaluation: start one, read it beside people's verdicts."""

from django.core.paginator import Paginator
from django.db.models import Count, Prefetch
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from finetune_site.lib.numbers import whole_number
from finetune_site.projects.access import SignedInRequest, has_role
from finetune_site.projects.models import Role
from training_app.access import get_evaluation, get_judgement
from training_app.forms.runs import JudgeForm
from training_app.models import Grade, Rubric, Verdict
from training_app.services import judging as services
from training_app.services.runs import TrainingError

ROWS = 25


@require_http_methods(["GET", "POST"])
def judgement_create(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_evaluation(request.user, pk, role=Role.TRAINER)
    project = found.run.project
    form = JudgeForm(request.POST or None, evaluation=found, initial=_chosen_rubric(request, project.pk))
    if form.is_valid():
        try:
            return redirect(services.start_judgement(actor=request.user, evaluation=found, **form.arguments))
        except TrainingError as error:
            form.add_error(None, str(error))
    context = {"form": form, "evaluation": found, "run": found.run, "project": project, "section": "runs"}
    return render(request, "training/judge_form.html", {**context, "rubrics": project.rubrics.all()})


@require_GET
def judgement(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/judgement.html", _context(request, pk))


@require_GET
def judgement_body(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/judgement.html#body", _context(request, pk))


def _chosen_rubric(request: SignedInRequest, project: int) -> dict[str, str]:
    """An earlier version that `?rubric=` names."""
    pk = request.GET.get("rubric", "")
    rubric = Rubric.objects.filter(project=project, pk=whole_number(pk)).first()
    return {"rubric": rubric.text} if rubric else {}


def _context(request: SignedInRequest, pk: int) -> dict[str, object]:
    found = get_judgement(request.user, pk)
    run = found.evaluation.run
    chosen = request.GET.get("set", "")
    rows = found.evaluation.rows.filter(grades__judgement=found).distinct()
    rows = rows.filter(set=chosen) if chosen else rows
    grades = Prefetch("grades", Grade.objects.filter(judgement=found), to_attr="judged")
    verdicts = Prefetch("verdicts", Verdict.objects.select_related("by"))
    return {
        "judgement": found,
        "evaluation": found.evaluation,
        "run": run,
        "project": run.project,
        "section": "runs",
        "chosen": chosen,
        "sets": found.evaluation.sets,
        "outcomes": found.grades.values("outcome").annotate(count=Count("pk")).order_by("outcome"),
        "agreement": found.agreement(),
        "may_judge": has_role(request.user, run.project, Role.REVIEWER),
        "page": Paginator(rows.prefetch_related(grades, verdicts), ROWS).get_page(request.GET.get("page")),
    }
