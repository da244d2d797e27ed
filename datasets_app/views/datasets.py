"""Datasets: list, overview, generate, import, write, seal, download."""

import io
from collections.abc import Callable, Generator
from dataclasses import asdict
from itertools import islice
from typing import Any

import pyarrow.parquet
from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Count, Q
from django.http import Http404, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from datasets_app import access
from datasets_app.engine import exporting, formats
from datasets_app.engine.spec import AGAIN
from datasets_app.forms import (
    ConversationForm,
    DatasetForm,
    GenerateForm,
    ImportForm,
    LabelStudioServerChoiceForm,
    PreferenceForm,
    SealForm,
    TextForm,
)
from datasets_app.models import Dataset, DatasetVersion, LabelStudioLink, LabelStudioServer, State, Tally
from datasets_app.models.examples import Kind
from datasets_app.services import datasets as services
from datasets_app.services import examples as example_services
from datasets_app.services import quality, sealing, trials
from datasets_app.services.errors import DatasetError
from finetune_site import bucket
from finetune_site.downloads import send_file, send_pieces
from finetune_site.jobs.models import JobState
from finetune_site.projects.access import SignedInRequest, get_project, has_role
from finetune_site.projects.models import Role

PREVIEW_ROWS = 10
JOINED_AT_ONCE = 5000  # rows of which alike ones are found within half a second
WRITTEN: dict[str, type[ConversationForm | PreferenceForm | TextForm]] = {
    "chat": ConversationForm,
    "preference": PreferenceForm,
    "text": TextForm,
}
PREVIEW_CHARACTERS = 2_000_000


@require_GET
def dataset_list(request: SignedInRequest, project: int) -> HttpResponse:
    of = get_project(request.user, project)
    datasets = Dataset.objects.filter(project=of).annotate(
        sealed=Count("versions", Q(versions__sealed_at__isnull=False))
    )
    datasets = datasets.order_by("-created_at", "-pk")  # the model's own order is dropped where rows are counted
    counts = Tally.objects.counts(found.pk for found in datasets)
    rows = [(found, counts[found.pk]) for found in datasets]
    may = has_role(request.user, of, Role.TRAINER)
    has_label_studio = LabelStudioLink.objects.filter(dataset__project=of).exists()
    context = {"project": of, "section": "datasets", "rows": rows, "may_create": may}
    return render(request, "datasets/dataset_list.html", context | {"has_label_studio": has_label_studio})


@require_http_methods(["GET", "POST"])
def dataset_create(request: SignedInRequest, project: int) -> HttpResponse:
    of = get_project(request.user, project, role=Role.TRAINER)
    form = DatasetForm(request.POST or None)
    if form.is_valid():
        try:
            return redirect(services.create_dataset(actor=request.user, project=of, **form.cleaned_data))
        except DatasetError as error:
            form.add_error("name", str(error))
    return render(request, "datasets/dataset_form.html", {"form": form, "project": of, "section": "datasets"})


@require_GET
def dataset(request: SignedInRequest, pk: int) -> HttpResponse:
    found = access.get_dataset(request.user, pk)
    counts = Tally.objects.counts_of(found)
    context = _context(found) | {
        "counts": asdict(counts),
        "total": counts.total,
        "generations": found.generations.select_related("job", "created_by")[:10],
        "imports": found.imports.select_related("job", "created_by")[:10],
        "versions": found.versions.select_related("job", "created_by"),
        "may_fill": has_role(request.user, found.project, Role.TRAINER),
        "may_review": has_role(request.user, found.project, Role.REVIEWER),
        "may_delete": has_role(request.user, found.project, Role.OWNER),
    }
    return render(request, "datasets/dataset.html", context)


@require_POST
def dataset_delete(request: SignedInRequest, pk: int) -> HttpResponse:
    found = access.get_dataset(request.user, pk, role=Role.OWNER)
    try:
        services.delete_dataset(actor=request.user, dataset=found)
    except DatasetError as error:
        messages.error(request, str(error))
        return redirect(found)
    messages.success(request, f"The dataset {found.name} is deleted.")
    return redirect("dataset_list", found.project_id)


@require_http_methods(["GET", "POST"])
def generate(request: SignedInRequest, pk: int) -> HttpResponse:
    found = access.get_dataset(request.user, pk, role=Role.TRAINER)
    form = GenerateForm(request.POST or None, project=found.project, initial={"only_gaps": "gaps" in request.GET})
    if form.is_valid():
        is_trial = request.POST.get("act") == "try"
        try:
            made = services.start_generation(actor=request.user, dataset=found, is_trial=is_trial, **form.arguments)
            return redirect(made)
        except DatasetError as error:
            form.add_error(None, str(error))
    has_documents = form.fields["documents"].queryset.exists()  # type: ignore[attr-defined]  # a model field
    return render(request, "datasets/generate.html", _context(found) | {"form": form, "has_documents": has_documents})


@require_GET
def generation(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "datasets/generation.html", _generation_context(request, pk))


@require_GET
def generation_body(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "datasets/generation.html#body", _generation_context(request, pk))


@require_POST
def generation_again(request: SignedInRequest, pk: int) -> HttpResponse:
    """The passages that ended as `outcome` says are tried again."""
    found = access.get_generation(request.user, pk, role=Role.TRAINER)
    try:
        services.generate_again(actor=request.user, generation=found, outcome=request.POST.get("outcome", ""))
    except DatasetError as error:
        messages.error(request, str(error))
    return redirect(found)


@require_POST
def generation_go_on(request: SignedInRequest, pk: int) -> HttpResponse:
    """From all passages what a trial made from some."""
    found = access.get_generation(request.user, pk, role=Role.TRAINER)
    try:
        return redirect(services.go_on(actor=request.user, trial=found))
    except DatasetError as error:
        messages.error(request, str(error))
    return redirect(found)


@require_http_methods(["GET", "POST"])
def import_examples(request: SignedInRequest, pk: int) -> HttpResponse:
    """Preview first; with `confirm` the file is kept and read in the background."""
    found = access.get_dataset(request.user, pk, role=Role.TRAINER)
    form = ImportForm(request.POST or None, request.FILES or None)
    preview: list[formats.Row | formats.RowError] = []
    if form.is_valid():
        if "confirm" in request.POST:
            file, text = form.cleaned_data["file"], form.cleaned_data["text"]
            try:
                return redirect(
                    services.import_examples(
                        actor=request.user,
                        dataset=found,
                        name=file.name if file else "pasted text",
                        format=form.cleaned_data["format"],
                        blocks=file.chunks() if file else [text.encode()],
                    )
                )
            except DatasetError as error:
                form.add_error(None, str(error))
        preview = list(islice(formats.read_rows(_head(form), form.cleaned_data["format"]), PREVIEW_ROWS))
    context = {"form": form, "preview": preview, "server_form": _server_form()}
    return render(request, "datasets/import.html", _context(found) | context)


def _server_form() -> LabelStudioServerChoiceForm | None:
    return LabelStudioServerChoiceForm() if LabelStudioServer.objects.filter(allows_import=True).exists() else None


@require_GET
def import_batch(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "datasets/import_batch.html", _import_context(request, pk))


@require_GET
def import_batch_body(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "datasets/import_batch.html#body", _import_context(request, pk))


@require_POST
def import_good(request: SignedInRequest, pk: int) -> HttpResponse:
    """Take the good lines of a file that was kept out for others."""
    found = access.get_import(request.user, pk, role=Role.TRAINER)
    try:
        services.import_good_rows(actor=request.user, batch=found)
    except DatasetError as error:
        messages.error(request, str(error))
    return redirect(found)


@require_http_methods(["GET", "POST"])
def example_write(request: SignedInRequest, pk: int) -> HttpResponse:
    """Write one by hand: a conversation, or with `?kind=` a preference pair or a text."""
    found = access.get_dataset(request.user, pk, role=Role.TRAINER)
    wanted = request.GET.get("kind", "chat")
    kind = wanted if wanted in WRITTEN else "chat"
    form = WRITTEN[kind](request.POST or None)
    if form.is_valid():
        try:
            made = example_services.write_example(actor=request.user, dataset=found, content=form.content)
            messages.success(request, "The example is kept. It waits for review like every other.")
            return redirect(made)
        except DatasetError as error:
            form.add_error(None, str(error))
    return render(request, "datasets/example_form.html", _context(found) | {"form": form, "kind": kind})


@require_http_methods(["GET", "POST"])
def seal(request: SignedInRequest, pk: int) -> HttpResponse:
    """What a version would be, then seal it."""
    found = access.get_dataset(request.user, pk, role=Role.TRAINER)
    form = SealForm(request.POST or None)
    if form.is_valid() and "confirm" in request.POST:
        try:
            return redirect(services.seal_version(actor=request.user, dataset=found, **form.cleaned_data))
        except DatasetError as error:
            form.add_error(None, str(error))
    shares = form.cleaned_data if form.is_valid() else {"validation_share": 0.1, "recall_share": 1.0}
    rows = sealing.approved_rows(found)
    split = sealing.split_rows(
        rows, shares["validation_share"], shares["recall_share"], joins=len(rows) <= JOINED_AT_ONCE
    )
    withdrawn = found.examples.filter(state=State.APPROVED, document__withdrawn_at__isnull=False).count()
    context = _context(found) | {"form": form, "counts": sealing.count_rows(split), "withdrawn": withdrawn}
    context["refusal"] = quality.refusal(found)
    return render(request, "datasets/seal.html", context)


@require_GET
def version(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "datasets/version.html", _version_context(request, pk))


@require_GET
def version_body(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "datasets/version.html#body", _version_context(request, pk))


@require_GET
def version_download(request: SignedInRequest, pk: int, format: str) -> HttpResponseBase:
    """The sealed file as Parquet; its trained rows (`?split=`: others, or all) as JSON Lines, as they are kept or in
    another program's format (`?provenance=1`: with where each comes from); or LLaMA-Factory's description of them."""
    found = access.get_version(request.user, pk)
    if format not in ("parquet", "jsonl", "dataset_info", *exporting.EXPORTS):
        raise Http404
    if not found.is_sealed:
        messages.error(request, sealing.NOT_SEALED)
        return redirect(found)
    if format == "parquet":
        return send_file(found.file_path, f"{found.filename}.parquet", size=found.size, sha256=found.sha256)
    split = request.GET.get("split", "train")
    stem = f"{found.filename}-{split if split.isalpha() else 'all'}"
    if format == "dataset_info":
        files = {key: f"{stem}.{key}.jsonl" for key in exporting.EXPORTS}
        return _as_file(exporting.dataset_info(found.filename, files), "dataset_info.json")
    write = _written(format, has_provenance="provenance" in request.GET)
    filename = f"{stem}.jsonl" if format == "jsonl" else f"{stem}.{format}.jsonl"
    return send_pieces(_lines(found, split, write), filename, content_type="application/jsonl")


def _as_file(text: str, filename: str) -> HttpResponse:
    response = HttpResponse(text, content_type="application/json")
    response["Content-Disposition"] = content_disposition_header(as_attachment=True, filename=filename)
    return response


def _written(format: str, *, has_provenance: bool) -> Callable[[list[dict[str, Any]]], str]:
    """How rows become lines."""
    if format == "jsonl":
        return lambda rows: "".join(map(_line, rows))
    return lambda rows: "".join(exporting.lines(format, rows, has_provenance=has_provenance))


def _lines(found: DatasetVersion, split: str, write: Callable[[list[dict[str, Any]]], str]) -> Generator[bytes]:
    with pyarrow.parquet.ParquetFile(bucket.fetch(found.file_path, found.sha256)) as file:
        for batch in file.iter_batches(1000):
            yield write([row for row in batch.to_pylist() if split in ("all", row["split"])]).encode()


def _line(row: dict[str, Any]) -> str:
    if row["kind"] == "chat":
        return formats.to_messages_line(row["messages"])
    if row["kind"] == "text":
        return formats.to_text_line(row["text"])
    return formats.to_preference_line(row["prompt"], row["chosen"], row["rejected"])


def _head(form: ImportForm) -> io.StringIO:
    """The beginning of what is to be imported, enough for a preview."""
    file = form.cleaned_data["file"]
    if not file:
        return io.StringIO(form.cleaned_data["text"])
    head = file.read(PREVIEW_CHARACTERS).decode("utf-8-sig", errors="replace")
    file.seek(0)
    is_cut = file.size > PREVIEW_CHARACTERS and not head.lstrip().startswith("[")
    return io.StringIO(head.rpartition("\n")[0] if is_cut else head)


def _context(found: Dataset) -> dict[str, object]:
    return {"dataset": found, "project": found.project, "section": "datasets"}


def _generation_context(request: SignedInRequest, pk: int) -> dict[str, object]:
    found = access.get_generation(request.user, pk)
    outcomes = found.outcomes.select_related("document")
    chosen = request.GET.get("outcome", "")
    may = has_role(request.user, found.dataset.project, Role.TRAINER)
    context = _context(found.dataset) | {
        "generation": found,
        "recipe": services.recipe_name(found),
        "documents": found.documents.all(),
    }
    if found.is_trial:
        is_done = bool(found.job and found.job.state == JobState.SUCCEEDED)
        return context | {
            "passages": trials.passages(found),
            "forecast": trials.forecast(found) if is_done else None,
            "may_go_on": may and is_done,
        }
    return context | {
        "made": found.examples.count(),
        "sums": found.outcome_counts,
        "may_again": found.generator == "llm" and bool(found.job and found.job.is_finished) and may,
        "again": AGAIN,
        "outcome": chosen,
        "page": Paginator(outcomes.filter(outcome=chosen) if chosen else outcomes, 100).get_page(
            request.GET.get("page")
        ),
    }


def _import_context(request: SignedInRequest, pk: int) -> dict[str, object]:
    found = access.get_import(request.user, pk)
    may = has_role(request.user, found.dataset.project, Role.TRAINER)
    is_kept_out = bool(found.wrong and found.good and not found.takes_good_rows and found.job and found.job.is_finished)
    return _context(found.dataset) | {"batch": found, "may_take_good": may and is_kept_out}


def _version_context(request: SignedInRequest, pk: int) -> dict[str, object]:
    found = access.get_version(request.user, pk)
    split = request.GET.get("split", "")
    entries = found.entries.select_related("example", "text")
    reviewers = found.entries.values("example__decided_by", "example__decided_name").distinct().count()
    return _context(found.dataset) | {
        "version": found,
        "split": split,
        "reviewers": reviewers,
        "withdrawn": found.withdrawn_documents(),
        "page": Paginator(entries.filter(split=split) if split else entries, 50).get_page(request.GET.get("page")),
        "may_train": has_role(request.user, found.dataset.project, Role.TRAINER),
        "exports": _exports(found),
    }


def _exports(version: DatasetVersion) -> list[tuple[exporting.Export, str]]:
    """The formats that hold something of it, each with what of it stays behind."""
    kinds = version.counts.get("kinds", {})
    found = []
    for export in exporting.EXPORTS.values():
        if any(kinds.get(kind) for kind in export.kinds):
            left = exporting.left_behind(export.key, kinds)
            told = ", ".join(f"{count} {Kind(kind).label}{'s' if count > 1 else ''}" for kind, count in left.items())
            found.append((export, f"Leaves out {told}." if told else ""))
    return found
