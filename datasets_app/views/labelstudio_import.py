"""Import of a Label Studio project: choose it, say which text is which field, look at ten rows, import."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from datasets_app import access
from datasets_app.engine.formats import Row, RowError
from datasets_app.engine.labelling import LAYOUTS
from datasets_app.engine.mapping import to_row
from datasets_app.forms import LabelStudioMappingForm, LabelStudioProjectForm, LabelStudioServerChoiceForm
from datasets_app.models import LabelStudioImport
from datasets_app.services import labelstudio as services
from datasets_app.services.errors import DatasetError
from finetune_site.projects.access import SignedInRequest
from finetune_site.projects.models import Role


@require_POST
def label_studio_import_start(request: SignedInRequest, pk: int) -> HttpResponse:
    dataset = access.get_dataset(request.user, pk, role=Role.TRAINER)
    form = LabelStudioServerChoiceForm(request.POST)
    try:
        if not form.is_valid():
            raise DatasetError("Choose the Label Studio whose project is to be imported.")
        return redirect(services.start_import(actor=request.user, dataset=dataset, server=form.cleaned_data["server"]))
    except DatasetError as error:
        messages.error(request, str(error))
        return redirect("import_examples", pk)


@require_http_methods(["GET", "POST"])
def label_studio_import(request: SignedInRequest, pk: int) -> HttpResponse:
    """Once the tasks are known: posting previews, with `confirm` it imports."""
    entry = access.get_label_studio_import(request.user, pk)
    if entry.batch:
        return redirect(entry.batch)
    form = LabelStudioMappingForm(request.POST or None, entry=entry) if entry.first_tasks else None
    if form and form.is_valid() and "confirm" in request.POST:
        try:
            return redirect(services.import_project(actor=request.user, entry=entry, mapping=form.cleaned_data))
        except DatasetError as error:
            form.add_error(None, str(error))
    chosen = form.cleaned_data if form and form.is_valid() else None
    context = _context(entry) | {"mapping_form": form, "preview": _preview(entry, chosen) if chosen else []}
    return render(request, "datasets/label_studio_import.html", context)


@require_GET
def label_studio_import_body(request: SignedInRequest, pk: int) -> HttpResponse:
    entry = access.get_label_studio_import(request.user, pk)
    form = LabelStudioMappingForm(entry=entry) if entry.first_tasks else None
    return render(request, "datasets/label_studio_import.html#body", _context(entry) | {"mapping_form": form})


@require_POST
def label_studio_import_choose(request: SignedInRequest, pk: int) -> HttpResponse:
    entry = access.get_label_studio_import(request.user, pk)
    form = LabelStudioProjectForm(request.POST, entry=entry)
    try:
        if not form.is_valid():
            raise DatasetError("Choose one of the projects, and what its tasks hold.")
        services.choose_project(actor=request.user, entry=entry, **form.cleaned_data)
    except DatasetError as error:
        messages.error(request, str(error))
    return redirect(entry)


@require_POST
def label_studio_import_look(request: SignedInRequest, pk: int) -> HttpResponse:
    """Ask the server once more."""
    entry = access.get_label_studio_import(request.user, pk)
    try:
        services.look_again(actor=request.user, entry=entry)
    except DatasetError as error:
        messages.error(request, str(error))
    return redirect(entry)


def _preview(entry: LabelStudioImport, mapping: dict[str, str]) -> list[Row | RowError]:
    layout = LAYOUTS[entry.layout]
    return [to_row(layout, mapping, texts, number) for number, texts in enumerate(entry.first_tasks, start=1)]


def _context(entry: LabelStudioImport) -> dict[str, object]:
    initial = {"remote_id": entry.remote_id, "layout": entry.layout or "single"}
    return {
        "entry": entry,
        "dataset": entry.dataset,
        "project": entry.dataset.project,
        "section": "datasets",
        "project_form": LabelStudioProjectForm(entry=entry, initial=initial) if entry.found else None,
    }
