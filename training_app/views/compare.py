"""Runs side by side."""

from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET

from datasets_app.models import ExampleText
from datasets_app.services.comparing import compare_versions, edits
from finetune_site.lib.numbers import whole_number
from finetune_site.projects.access import SignedInRequest, get_project
from training_app import comparing
from training_app.models import Run

MAX_RUNS = 6
SHOWN_ROWS = 30


@require_GET
def run_compare(request: SignedInRequest, project: int) -> HttpResponse:
    """Two to six runs of a project: curves over each other, and what differs in configuration, data and result."""
    found = get_project(request.user, project)
    picked = [pk for pk in map(whole_number, request.GET.getlist("run")) if pk]
    runs = list(
        Run.objects.filter(project=found, pk__in=picked)
        .select_related("version__dataset", "base", "job")
        .prefetch_related("evaluations", "benchmarks")
        .order_by("pk")[: MAX_RUNS + 1]
    )
    if not 2 <= len(runs) <= MAX_RUNS:
        messages.info(request, f"Tick two to {MAX_RUNS} runs, then compare them.")
        return redirect("run_list", project)
    configuration = comparing.configuration(runs)
    context = {
        "project": found,
        "section": "runs",
        "runs": runs,
        "differing": [line for line in configuration if line.differs],
        "equal": [line for line in configuration if not line.differs],
        "results": comparing.results(runs),
        "data": _data(runs),
    }
    return render(request, "training/run_compare.html", context)


def _data(runs: list[Run]) -> list[dict[str, object]]:
    """What lies between the version of the first run and that of each other one."""
    first = runs[0].version
    others = {run.version_id: run.version for run in runs if run.version_id != first.pk}
    return [
        {
            "before": first,
            "after": version,
            "kinds": [
                {"name": name, "count": rows.count(), "rows": _shown(rows)}
                for name, rows in vars(compare_versions(first, version)).items()
            ],
        }
        for version in others.values()
    ]


def _shown(rows: QuerySet[Any]) -> list[dict[str, object]]:
    """The first rows, each with its edits where its text is another than before."""
    entries = list(rows[:SHOWN_ROWS])
    before = ExampleText.objects.in_bulk([entry.before_text for entry in entries if entry.before_text])
    return [
        {"entry": entry, "edits": edits(before[entry.before_text], entry.text) if entry.before_text else []}
        for entry in entries
    ]
