"""Public benchmarks: start some for a run, read both models' figures side by side."""

from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from finetune_site.projects.access import SignedInRequest
from finetune_site.projects.models import Role
from training_app.access import get_benchmark, get_run
from training_app.engine.suites import INSTALL, is_installed
from training_app.forms.runs import BenchmarkForm
from training_app.services import benchmarks as services
from training_app.services.runs import TrainingError


@require_http_methods(["GET", "POST"])
def benchmark_create(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_run(request.user, pk, role=Role.TRAINER)
    form = BenchmarkForm(request.POST or None)
    if form.is_valid():
        try:
            return redirect(services.start_benchmark(actor=request.user, run=found, **form.cleaned_data))
        except TrainingError as error:
            form.add_error(None, str(error))
    context = {"form": form, "run": found, "project": found.project, "section": "runs"}
    missing = "" if is_installed() else INSTALL
    return render(request, "training/benchmark_form.html", {**context, "missing": missing})


@require_GET
def benchmark(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/benchmark.html", _context(request, pk))


@require_GET
def benchmark_body(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/benchmark.html#body", _context(request, pk))


def _context(request: SignedInRequest, pk: int) -> dict[str, object]:
    found = get_benchmark(request.user, pk)
    return {"benchmark": found, "run": found.run, "project": found.run.project, "section": "runs"}
