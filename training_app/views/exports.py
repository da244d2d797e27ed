"""A finished run's model as files to take away."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from django.contrib import messages
from django.db import connection
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from finetune_site.projects.access import SignedInRequest, has_role
from finetune_site.projects.models import Role
from training_app.access import get_export, get_run
from training_app.engine.spec import FORMATS
from training_app.models import Export
from training_app.services import publishing as services
from training_app.services.runs import TrainingError

BLOCK = 1 << 20


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
def export_download(request: SignedInRequest, pk: int) -> StreamingHttpResponse:
    """The file as people save it."""
    export = get_export(request.user, pk)
    if not export.is_ready:
        raise Http404
    return stream_file(export)


def stream_file(export: Export) -> StreamingHttpResponse:
    """A ready file, block by block: as a whole it would fill the memory."""
    _let_go()
    response = StreamingHttpResponse(_blocks(export.path), content_type="application/octet-stream")
    response["Content-Length"] = export.result["bytes"]
    response["Content-Disposition"] = f'attachment; filename="{export.filename}"'
    response["Repr-Digest"] = f"sha-256=:{export.digest_base64}:"
    return response


def _let_go() -> None:
    """A download lasts minutes: it must not keep the database connection of its first second."""
    if not connection.in_atomic_block:
        connection.close()


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    stream = await asyncio.to_thread(path.open, "rb")
    try:
        while block := await asyncio.to_thread(stream.read, BLOCK):
            yield block
    finally:
        await asyncio.to_thread(stream.close)


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
