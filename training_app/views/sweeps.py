"""Sweeps: plan, watch, stop."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from finetune_site.projects.access import SignedInRequest, has_role
from finetune_site.projects.models import Role
from training_app.access import get_run, get_sweep
from training_app.forms.runs import SweepForm
from training_app.models import Sweep
from training_app.services import sweeps as services
from training_app.services.runs import TrainingError


@require_http_methods(["GET", "POST"])
def sweep_create(request: SignedInRequest, pk: int) -> HttpResponse:
    """Variants of one run."""
    run = get_run(request.user, pk, role=Role.TRAINER)
    form = SweepForm(request.POST or None, run=run)
    if form.is_valid():
        chosen = {name: form.cleaned_data[name] for name in ("manner", "budget", "space")}
        try:
            return redirect(services.plan_sweep(actor=request.user, run=run, **chosen))
        except TrainingError as error:
            form.add_error(None, str(error))
    context = {"form": form, "run": run, "project": run.project, "section": "runs"}
    return render(request, "training/sweep_form.html", context)


@require_GET
def sweep(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/sweep.html", _context(request, get_sweep(request.user, pk)))


@require_GET
def sweep_body(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/sweep.html#body", _context(request, get_sweep(request.user, pk)))


@require_POST
def sweep_stop(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_sweep(request.user, pk, role=Role.TRAINER)
    try:
        services.stop_sweep(actor=request.user, sweep=found)
    except TrainingError as error:
        messages.error(request, str(error))
    return redirect(found)


def _context(request: SignedInRequest, found: Sweep) -> dict[str, object]:
    trials = list(found.trials.select_related("run__job"))
    judged = sorted((trial for trial in trials if trial.loss is not None), key=lambda trial: trial.loss or 0.0)
    is_open = any(trial.run.job and not trial.run.job.is_finished for trial in trials)
    return {
        "sweep": found,
        "project": found.project,
        "section": "runs",
        "names": list(found.space),
        "trials": [*judged, *(trial for trial in trials if trial.loss is None)],
        "best": judged[0] if judged else None,
        "is_open": is_open and not found.stopped_at,
        "may_train": has_role(request.user, found.project, Role.TRAINER),
    }
