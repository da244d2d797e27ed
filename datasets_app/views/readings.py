"""How a document is read and cut: its settings with a preview, and two readings side by side."""

from collections import Counter
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from datasets_app.access import get_document
from datasets_app.engine.chunks import estimate
from datasets_app.engine.elements import NAMES, Element
from datasets_app.engine.spec import Reading
from datasets_app.forms import ReadingForm
from datasets_app.measures import measure_of
from datasets_app.models import Document, Parsing
from datasets_app.services import documents as services
from datasets_app.services import readings
from finetune_site.projects.access import SignedInRequest
from finetune_site.projects.models import Role

PREVIEWED = 20
COMPARED_LINES, SHOWN_DIFFERENCES = 20_000, 200


@require_http_methods(["GET", "POST"])
def document_reading(request: SignedInRequest, pk: int) -> HttpResponse:
    """`preview` shows the passages, `cut` cuts them, `read` reads the file anew; each with what the form says."""
    document = get_document(request.user, pk, role=Role.TRAINER)
    form = ReadingForm(request.POST or None, initial=ReadingForm.initial_of(document.reading_settings))
    context: dict[str, Any] = {"document": document, "project": document.project, "section": "documents", "form": form}
    if form.is_valid() and (told := services.reading_refusal(document, form.reading)):
        form.add_error(None, told)
    if request.method == "POST" and form.is_valid():
        reading = form.reading
        act = request.POST.get("act")
        if act != "preview" and form.cleaned_data["is_default"]:
            services.set_reading_default(actor=request.user, project=document.project, reading=reading)
            messages.success(request, "New documents of the project are read like this from now on.")
        if act != "preview":
            try:
                if act == "read":
                    services.parse_again(actor=request.user, document=document, reading=reading)
                else:
                    services.cut_again(actor=request.user, document=document, reading=reading)
            except services.DocumentError as error:
                messages.error(request, str(error))
            return redirect(document)
    reading = form.reading if form.is_bound and form.is_valid() else document.reading_settings
    context |= _preview(document, reading)
    if request.method == "POST" and request.htmx:
        return render(request, "datasets/reading.html#preview", context)
    return render(request, "datasets/reading.html", context, status=422 if form.is_bound and form.errors else 200)


@require_GET
def document_compare(request: SignedInRequest, pk: int) -> HttpResponse:
    """Two kept readings: their settings and figures, and where their words differ."""
    document = get_document(request.user, pk)
    kept = list(document.parsings.all())
    context: dict[str, Any] = {"document": document, "project": document.project, "section": "documents", "kept": kept}
    by_key = {str(parsing.pk): parsing for parsing in kept}
    newer = by_key.get(request.GET.get("newer", ""), kept[0] if kept else None)
    older = by_key.get(request.GET.get("older", ""), kept[1] if len(kept) > 1 else None)
    if newer and older:
        differences = list(islice(_differences(older, newer), SHOWN_DIFFERENCES + 1))
        context |= {
            "newer": newer,
            "older": older,
            "figures": _figures(older, newer),
            "differences": differences[:SHOWN_DIFFERENCES],
            "has_more": len(differences) > SHOWN_DIFFERENCES,
        }
    return render(request, "datasets/readings.html", context)


def _preview(document: Document, reading: Reading) -> dict[str, Any]:
    """The first passages, and what can be said of them all."""
    made = list(readings.preview(document, reading))
    measure = measure_of(reading)
    guess = estimate(reading)
    lengths = [measure(chunk.text) if number < PREVIEWED else guess(chunk.text) for number, chunk in enumerate(made)]
    sizes = sorted(lengths)
    return {
        "chunks": list(zip(made, lengths, strict=True))[:PREVIEWED],
        "unit": reading.unit,
        "count": len(made),
        "median": sizes[len(sizes) // 2] if sizes else 0,
        "longest": sizes[-1] if sizes else 0,
        "beyond": sum(size > reading.passage_size for size in sizes),
        "now": document.chunks.count(),
        "reads_otherwise": any(
            value != getattr(document.reading_settings, name)
            for name, value in vars(reading).items()
            if name not in services.CUTTING
        ),
    }


def _figures(older: Parsing, newer: Parsing) -> list[tuple[str, object, object]]:
    """Name, before, after: the settings and the figures that differ, and the sizes in any case."""
    usual = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(Reading()).items()}
    before, after = ({**usual, **parsing.reading} for parsing in (older, newer))
    rows: list[tuple[str, object, object]] = [
        (name.replace("_", " "), before[name], after[name]) for name in usual if before[name] != after[name]
    ]
    rows += [("characters", older.characters, newer.characters), ("parser", older.parser, newer.parser)]
    kinds = [Counter(parsing.health.get("kinds", {})) for parsing in (older, newer)]
    rows += [(f"pieces: {kind}", kinds[0][kind], kinds[1][kind]) for kind in sorted(kinds[0] | kinds[1])]
    return rows


def _differences(older: Parsing, newer: Parsing) -> Any:
    """Runs of pieces that one reading has and the other has not: (page, before, after)."""
    one, two = (readings.unpacked(parsing)[:COMPARED_LINES] for parsing in (older, newer))
    pages = sorted({element.page or 0 for element in [*one, *two]})
    for page in pages:
        here = [[_line(element) for element in side if (element.page or 0) == page] for side in (one, two)]
        for tag, a, b, c, d in SequenceMatcher(None, here[0], here[1], autojunk=False).get_opcodes():
            if tag != "equal":
                yield page or None, here[0][a:b], here[1][c:d]


def _line(element: Element) -> tuple[str, str]:
    return NAMES[element.kind], element.text
