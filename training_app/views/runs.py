"""Runs: plan, look, start, watch, stop, resume."""

import json
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

from django.contrib import messages
from django.core.files.uploadedfile import UploadedFile
from django.core.paginator import Paginator
from django.db.models import Sum
from django.http import HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from datasets_app.models import DatasetVersion
from finetune_site.jobs.access import may_control
from finetune_site.jobs.models import UNFINISHED
from finetune_site.lib.numbers import whole_number
from finetune_site.projects.access import SignedInRequest, get_project, has_role
from finetune_site.projects.models import Project, Role
from training_app import configurations
from training_app.access import get_run
from training_app.configurations import Configuration, of_run
from training_app.engine.spec import ROW_KINDS
from training_app.foresight import last_errors
from training_app.forms.runs import DescribeForm, RunFilterForm, RunForm
from training_app.models import BaseModel, Metric, Run
from training_app.models.runs import LOOK_NAMES
from training_app.series import NAMES
from training_app.services import housekeeping
from training_app.services import runs as services
from training_app.services.artefacts import text_of

ENVIRONMENT_BYTES = 1_000_000
LOG_BYTES = 20_000
RUNS = 50
SHOWN_ROWS = 5
CURVES = (
    ("loss", "Loss"),
    ("learning_rate", "Learning rate"),
    ("grad_norm", "Gradient norm"),
    ("tokens_per_second", "Tokens a second"),
    ("memory_bytes", "Memory"),
    ("device_use", "Device use"),
)
REWARD_CURVES = (("reward_margin", "Reward margin"), ("reward_accuracy", "Better answer ahead"))


@require_GET
def run_list(request: SignedInRequest, project: int) -> HttpResponse:
    found = get_project(request.user, project)
    every = Run.objects.filter(project=found)
    form = RunFilterForm(request.GET, project=found)
    runs = every.matching(**form.cleaned_data) if form.is_valid() else every
    runs = runs.select_related("version__dataset", "base", "job", "created_by")
    context = {
        "filter_form": form,
        "has_runs": every.exists(),
        "disk_bytes": every.aggregate(sum=Sum("disk_bytes"))["sum"] or 0,
        "project": found,
        "section": "runs",
        "page": Paginator(runs, RUNS).get_page(request.GET.get("page")),
        "may_create": has_role(request.user, found, Role.TRAINER),
    }
    return render(request, "training/run_list.html", context | _versions(found))


def _versions(project: Project) -> dict[str, object]:
    """Whether there is something to learn from; else the version that is just being sealed."""
    versions = DatasetVersion.objects.filter(dataset__project=project)
    has_version = versions.sealed().exists()
    coming = versions.filter(sealed_at=None, job__state__in=UNFINISHED).select_related("dataset", "job")
    return {"has_version": has_version, "sealing": None if has_version else coming.order_by("-pk").first()}


@require_http_methods(["GET", "POST"])
def run_create(request: SignedInRequest, project: int) -> HttpResponse:
    found = get_project(request.user, project, role=Role.TRAINER)
    if "configuration" in request.FILES:
        form = RunForm(project=found, initial={**_first(request, found), **_from_file(request)})
    else:
        form = RunForm(request.POST or None, project=found, initial=_first(request, found))
    if form.is_valid():
        try:
            return redirect(services.plan_run(actor=request.user, project=found, **form.arguments))
        except services.TrainingError as error:
            form.add_error(None, str(error))
    context = {"form": form, "project": found, "section": "runs"}
    return render(request, "training/run_form.html", context | _versions(found))


@require_GET
def run_presets(request: SignedInRequest, project: int) -> HttpResponse:
    """What the presets would do with what is chosen so far, and what differs from the chosen one."""
    found = get_project(request.user, project, role=Role.TRAINER)
    form = RunForm(request.GET, project=found)
    form.full_clean()
    return render(request, "training/run_form.html#presets", {"chosen": form, "project": found})


@require_GET
def run(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/run.html", _context(request, pk))


@require_GET
def run_body(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/run.html#body", _context(request, pk))


@require_GET
def run_metrics(request: SignedInRequest, pk: int) -> HttpResponse:
    """The series so far, thinned when it is long: what the chart draws before live points come in."""
    found = get_run(request.user, pk)
    points: dict[int, dict[str, float]] = {}
    for step, name, value in found.metrics.thinned().values_list("step", "name", "value"):
        points.setdefault(step, {"step": step})[name] = value
    return JsonResponse({"points": list(points.values()), "state": found.state})


@require_GET
def run_log(request: SignedInRequest, pk: int) -> HttpResponse:
    """The end of the engine's log."""
    found = get_run(request.user, pk)
    return render(request, "training/run_log.html", {"log": text_of(found, "log.txt", LOG_BYTES)})


@require_GET
def run_config(request: SignedInRequest, pk: int) -> HttpResponse:
    """The configuration as a file that the form of a new run reads."""
    found = get_run(request.user, pk)
    response = HttpResponse(configurations.dump(found), content_type="application/yaml")
    response["Content-Disposition"] = f'attachment; filename="run-{found.pk}.yaml"'
    return response


@require_GET
def run_samples(request: SignedInRequest, pk: int) -> HttpResponse:
    """What the model answered at its looks at the validation rows."""
    found = get_run(request.user, pk)
    context = {"run": found, "samples": found.samples.newest(), "row_losses": _row_losses(found)}
    return render(request, "training/run.html#samples", context)


@require_GET
def run_spec(request: SignedInRequest, pk: int) -> HttpResponse:
    """The exact record of the run, and the command that runs it again."""
    found = get_run(request.user, pk)
    record = {
        "name": found.name,
        "version": str(found.version),
        "base": found.base.name,
        "base_identity": found.base_identity,
        "spec": {"task": "train", **found.spec, "run_dir": str(found.folder)},
        "environment": _environment(found),
        "result": found.result or None,
    }
    response = JsonResponse(record, json_dumps_params={"indent": 1, "ensure_ascii": False})
    response["Content-Disposition"] = f'attachment; filename="run-{found.pk}.json"'
    return response


@require_GET
def run_card(request: SignedInRequest, pk: int) -> HttpResponse:
    """The run in a page of Markdown: for a wiki, a report, or the model's folder."""
    found = get_run(request.user, pk)
    newest = next((evaluation for evaluation in found.evaluations.all() if evaluation.summary), None)
    judgements = newest.judgements.exclude(summary={}).select_related("rubric", "evaluation") if newest else []
    context = {
        "run": found,
        "evaluation": newest,
        "judgements": judgements,
        "benchmark": found.benchmarks.exclude(summary={}).first(),
        "record": _environment(found),
    }
    response = render(request, "training/run_card.md", context, content_type="text/markdown; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="run-{found.pk}.md"'
    return response


@require_POST
def run_describe(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_run(request.user, pk, role=Role.TRAINER)
    form = DescribeForm(request.POST)
    if not form.is_valid():
        messages.error(request, " ".join(str(error) for errors in form.errors.values() for error in errors))
        return redirect(found)
    return _act(request, found, lambda: housekeeping.describe_run(actor=request.user, run=found, **form.cleaned_data))


@require_POST
def run_start(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_run(request.user, pk, role=Role.TRAINER)
    return _act(request, found, lambda: services.start_run(actor=request.user, run=found))


@require_POST
def run_stop(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_run(request.user, pk, role=Role.TRAINER)
    return _act(request, found, lambda: services.stop_run(actor=request.user, run=found))


@require_POST
def run_resume(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_run(request.user, pk, role=Role.TRAINER)
    return _act(request, found, lambda: services.resume_run(actor=request.user, run=found))


@require_POST
def run_checkpoint(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_run(request.user, pk, role=Role.TRAINER)
    return _act(request, found, lambda: services.wish_checkpoint(actor=request.user, run=found))


@require_POST
def run_again(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_run(request.user, pk, role=Role.TRAINER)
    try:
        return redirect(services.run_again(actor=request.user, run=found))
    except services.TrainingError as error:
        messages.error(request, str(error))
    return redirect(found)


def _act(request: SignedInRequest, found: Run, act: Callable[[], object]) -> HttpResponse:
    try:
        act()
    except services.TrainingError as error:
        messages.error(request, str(error))
    return redirect(found)


def _environment(found: Run) -> dict[str, Any] | None:
    text = text_of(found, "environment.json", ENVIRONMENT_BYTES)
    return json.loads(text) if text.startswith("{") else None


def _first(request: SignedInRequest, project: Project) -> dict[str, Any]:
    """What a new run starts from: the newest version; `?like=` takes over another run's choices, and `?start=` goes
    on from its weights with the newest version.
    """
    versions = DatasetVersion.objects.filter(dataset__project=project).sealed()
    version = versions.filter(pk=whole_number(request.GET.get("version", ""))).first()
    version = version or versions.order_by("-sealed_at").first()
    kinds = DatasetVersion.objects.filter(pk=version.pk).kinds() if version else set()
    objective = next((name for name, kind in ROW_KINDS.items() if kind in kinds), "supervised")
    bases = BaseModel.objects.select_related("server__ollama_state")
    first: dict[str, Any] = {
        "version": version,
        "objective": objective,
        "base": next((base for base in bases if not services.hindrance(base)), None),
        "name": _next_name(project.pk),
    }
    like, start = _run_named(request, project, "like"), _run_named(request, project, "start")
    if start:
        return {**first, "base": start.base, "start": start, **_choices(of_run(start))}
    if like:
        first = {**first, "version": like.version, "base": like.base, "start": like.start, **_choices(of_run(like))}
        # What the page of a run that lacked memory offers.
        return {**first, "quantization": "4bit"} if request.GET.get("quantization") == "4bit" else first
    return first


def _run_named(request: SignedInRequest, project: Project, key: str) -> Run | None:
    return Run.objects.filter(project=project, pk=whole_number(request.GET.get(key, ""))).first()


def _from_file(request: SignedInRequest) -> dict[str, Any]:
    file = request.FILES["configuration"]
    assert isinstance(file, UploadedFile)
    try:
        found = configurations.load(file.read(configurations.MAX_BYTES).decode(errors="replace"))
    except configurations.ConfigurationError as error:
        messages.error(request, str(error))
        return {}
    messages.info(request, f"Filled in from {file.name}. Look it over, then plan the run.")
    return _choices(found)


def _choices(found: Configuration) -> dict[str, Any]:
    return {"objective": found.objective, "method": found.method, "preset": found.preset, **found.knobs}


def _row_losses(found: Run) -> dict[str, list[dict[str, Any]]]:
    """The validation rows that lose most and least at the newest look, each with its example."""
    newest = found.row_losses.order_by("-step").values_list("step", flat=True).first()
    rows = list(found.row_losses.filter(step=newest).values("example_id", "loss")) if newest else []
    half = min(SHOWN_ROWS, len(rows) // 2)
    parts = {"worst": rows[:half], "best": rows[len(rows) - half :][::-1]}
    shown = {row["example_id"] for part in parts.values() for row in part}
    entries = found.version.entries.filter(example_id__in=shown).select_related("example", "text")
    by_example = {entry.example_id: entry for entry in entries}
    return {
        name: [{**row, "entry": by_example[row["example_id"]]} for row in part if row["example_id"] in by_example]
        for name, part in parts.items()
    }


def _next_name(project: int) -> str:
    return f"Run {Run.objects.filter(project=project).count() + 1}"


def _context(request: SignedInRequest, pk: int) -> dict[str, object]:
    found = get_run(request.user, pk)
    has_rewards = ROW_KINDS[found.objective] == "preference"
    return {
        "run": found,
        "project": found.project,
        "section": "runs",
        "withdrawn": found.version.withdrawn_documents(),
        "last": Metric.objects.newest_of(found, (*NAMES, *LOOK_NAMES)),
        "differing": found.differing,
        "samples": found.samples.newest(),
        "row_losses": _row_losses(found),
        "has_rewards": has_rewards,
        "first_batch": list(
            zip_longest(found.preview.get("first_batch_titles", []), found.preview.get("first_batch", []))
        ),
        "last_errors": last_errors(found.project),
        "describe_form": DescribeForm(initial={"notes": found.notes, "tags": ", ".join(found.tags)}),
        "curves": (*CURVES, *REWARD_CURVES) if has_rewards else CURVES,
        "evaluations": found.evaluations.select_related("job"),
        "benchmarks": found.benchmarks.select_related("job"),
        "log": text_of(found, "log.txt", LOG_BYTES),
        "may_train": has_role(request.user, found.project, Role.TRAINER),
        "may_control": found.job is not None and may_control(request.user, found.job),
        "is_active": found.state in UNFINISHED,
        "events": found.job.events.filter(kind__in=("log", "checkpoint", "warning")).order_by("-pk")[:12]
        if found.job
        else [],
    }
