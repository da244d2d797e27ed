"""A finished run's model as files to take away."""

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from finetune_site.downloads import send_file
from finetune_site.projects.access import SignedInRequest, has_role
from finetune_site.projects.models import Role
from training_app.access import get_export, get_run
from training_app.engine.spec import FORMATS
from training_app.services import publishing as services
from training_app.services.runs import TrainingError


@require_GET
def export_list(request: SignedInRequest, pk: int) -> HttpResponse:
    """Every format with its size, made or not."""
    return render(request, "training/export_list.html", _context(request, pk))


@require_GET
def export_list_body(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/export_list.html#body", _context(request, pk))


@require_POST
def export_create(request: SignedInRequest, pk: int) -> HttpResponse:
    run = get_run(request.user, pk, role=Role.TRAINER)
    try:
        services.start_export(actor=request.user, run=run, format=request.POST.get("format", ""))
    except TrainingError as error:
        messages.error(request, str(error))
    return redirect("export_list", pk)


@require_GET
def export_download(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """The file as people save it."""
    export = get_export(request.user, pk)
    if not export.is_ready:
        raise Http404
    found = export.result
    return send_file(export.path, export.filename, size=found["bytes"], sha256=found["sha256"])


def _context(request: SignedInRequest, pk: int) -> dict[str, object]:
    run = get_run(request.user, pk)
    made = {export.format: export for export in run.exports.select_related("job", "created_by")}
    rows = [
        {
            "name": name,
            "kind": kind,
            "export": made.get(name),
            "bytes": services.foretold_bytes(run, name),
            "refusal": services.refusal(run, name),
        }
        for name, kind in FORMATS.items()
    ]
    return {
        "run": run,
        "project": run.project,
        "section": "runs",
        "rows": rows,
        "may_export": has_role(request.user, run.project, Role.TRAINER),
    }
