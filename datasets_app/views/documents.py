"""Documents: upload, list, read, parse again, delete."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Count
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from datasets_app.access import get_document
from datasets_app.engine import media_type
from datasets_app.engine.tables import cells
from datasets_app.forms import DocumentFilterForm
from datasets_app.models import Document, Element, Example
from datasets_app.services import documents as services
from datasets_app.services import pages, uploads
from datasets_app.services.coverage import CHUNKS_PER_PAGE
from finetune_site.bucket import BucketError
from finetune_site.lib.numbers import whole_number
from finetune_site.projects.access import SignedInRequest, get_project, has_role
from finetune_site.projects.models import Role

ELEMENTS_PER_PAGE = 150


@require_GET
def document_list(request: SignedInRequest, project: int) -> HttpResponse:
    of = get_project(request.user, project)
    every = Document.objects.filter(project=of)
    form = DocumentFilterForm(request.GET)
    documents = every.matching(**form.cleaned_data) if form.is_valid() else every
    documents = documents.select_related("job", "uploaded_by")
    context = {
        "filter_form": form,
        "is_filtered": any(request.GET.get(name) for name in form.fields),
        "project": of,
        "section": "documents",
        "page": Paginator(documents, 50).get_page(request.GET.get("page")),
        "may_upload": has_role(request.user, of, Role.TRAINER),
        "max_mb": settings.UPLOAD_MAX_BYTES // 2**20,
        "max_characters": media_type.MAX_CHARACTERS // 10**6,
        "max_files": settings.UPLOAD_MAX_FILES,
        "part_bytes": uploads.PART_BYTES,
    }
    return render(request, "datasets/document_list.html", context)


@require_POST
def document_upload(request: SignedInRequest, project: int) -> HttpResponse:
    """Several files as a form, or one at a time from the page's script, which wants the new row back."""
    of = get_project(request.user, project, role=Role.TRAINER)
    files = request.FILES.getlist("files")
    if len(files) > settings.UPLOAD_MAX_FILES:
        messages.error(request, f"At most {settings.UPLOAD_MAX_FILES} files at once. Upload the rest afterwards.")
        return redirect("document_list", project)
    results = [
        received
        for file in files
        for received in services.upload(actor=request.user, project=of, name=file.name or "", blocks=file.chunks(2**20))
    ]
    if request.headers.get("X-Requested-With") == "fetch":
        return render(request, "datasets/upload_result.html", {"results": results})
    for result in results:
        _tell(request, result)
    return redirect("document_list", project)


@require_GET
def document(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "datasets/document.html", _context(request, pk))


@require_GET
def document_body(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "datasets/document.html#body", _context(request, pk))


@require_GET
def document_row(request: SignedInRequest, pk: int) -> HttpResponse:
    """Of the list, when its job has come to another state."""
    return render(request, "datasets/document_row.html", {"document": get_document(request.user, pk)})


@require_GET
def document_picture(request: SignedInRequest, pk: int, number: int) -> HttpResponse:
    """A page as it looks."""
    found = get_document(request.user, pk)
    try:
        path = pages.page_picture(found, number)
    except (BucketError, FileNotFoundError) as error:
        raise Http404(str(error)) from error
    if path is None:
        raise Http404("There is no picture of this page.")
    # The content of a document never changes, and what is kept in a browser is its person's alone.
    return HttpResponse(
        path.read_bytes(), content_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"}
    )


@require_GET
def document_chunks(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_document(request.user, pk)
    page = Paginator(found.chunks.all(), CHUNKS_PER_PAGE).get_page(request.GET.get("page"))
    context = {"document": found, "project": found.project, "section": "documents", "page": page}
    return render(request, "datasets/document_chunks.html", context)


@require_POST
def document_parse(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_document(request.user, pk, role=Role.TRAINER)
    try:
        services.parse_again(actor=request.user, document=found)
    except services.DocumentError as error:
        messages.error(request, str(error))
    return redirect(found)


@require_POST
def document_withdraw(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_document(request.user, pk, role=Role.OWNER)
    try:
        services.withdraw_document(actor=request.user, document=found, reason=request.POST.get("reason", ""))
    except services.DocumentError as error:
        messages.error(request, str(error))
    return redirect("document_models", found.pk)


@require_POST
def document_readmit(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_document(request.user, pk, role=Role.OWNER)
    services.readmit_document(actor=request.user, document=found)
    return redirect("document_models", found.pk)


@require_POST
def document_delete(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_document(request.user, pk, role=Role.OWNER)
    try:
        services.delete_document(actor=request.user, document=found)
    except services.DocumentError as error:
        messages.error(request, str(error))
        return redirect(found)
    messages.success(request, f"{found.name} is deleted.")
    return redirect("document_list", found.project_id)


def shown(element: Element, document: Document, *, is_corrected: bool | None = None) -> Element:
    """A piece with what its template needs."""
    # The table is drawn from its cells: a document's own markup never reaches the page.
    element.rows = cells(element.html) if element.html else None  # type: ignore[attr-defined]
    element.place = _place(element.box)  # type: ignore[attr-defined]
    if is_corrected is None:
        is_corrected = document.corrections.filter(element_index=element.index).exists()
    element.is_corrected = is_corrected  # type: ignore[attr-defined]
    return element


def _tell(request: SignedInRequest, result: services.Received) -> None:
    if result.error:
        messages.error(request, result.error)
    elif result.is_new:
        messages.success(request, f"{result.name} is uploaded and being parsed.")
    else:
        messages.info(request, f"The project already has this content as “{result.document}”.")


def _place(box: list[float] | None) -> dict[str, str] | None:
    """A box in hundredths of the page, as a drawing takes it."""
    if box is None:
        return None
    left, top, right, bottom = (100 * share for share in box)
    return {"x": f"{left:.2f}", "y": f"{top:.2f}", "width": f"{right - left:.2f}", "height": f"{bottom - top:.2f}"}


def _first_pieces(document: Document, page: int | None) -> dict[int, int]:
    """The passages that begin on a page (or anywhere), by the piece that they begin with."""
    chunks = document.chunks.filter(page_start=page) if page else document.chunks.all()
    return {spans[0][0]: index for index, spans in chunks.values_list("index", "spans") if spans}


def _made_here(document: Document, number: int | None) -> Any:
    """How many examples of which dataset rest on a page, or on any of them."""
    chosen = Example.objects.filter(document=document).chosen_by(on_page=str(number or ""))
    return chosen.order_by("dataset").values("dataset", "dataset__name").annotate(count=Count("pk"))


def _context(request: SignedInRequest, pk: int) -> dict[str, object]:
    found = get_document(request.user, pk)
    kept = found.elements.all()
    # A document whose pages can be shown is read page by page; ?only= with nothing is all of its text.
    chosen = request.GET.get("only", "1" if found.has_pictures else "")
    asked = whole_number(chosen, -1)
    number = None if asked < 0 else min(max(asked, 1), found.pages or 1)
    if number:
        kept = kept.filter(page=number)
    page = Paginator(kept, ELEMENTS_PER_PAGE).get_page(request.GET.get("page"))
    corrected = set(found.corrections.filter(element_index__isnull=False).values_list("element_index", flat=True))
    begun = _first_pieces(found, number)
    for element in page.object_list:
        shown(element, found, is_corrected=element.index in corrected)
        element.begins = passage = begun.get(element.index)  # type: ignore[attr-defined]
        element.passages_page = (passage or 0) // CHUNKS_PER_PAGE + 1  # type: ignore[attr-defined]
    return {
        "lost": found.corrections.filter(element_index=None),
        "is_page_out": number in found.excluded_pages,
        "has_parsings": found.parsings.count() > 1,
        "number": number,
        "has_picture": bool(number and found.has_pictures and found.parsed_at),
        "document": found,
        "project": found.project,
        "section": "documents",
        "page": page,
        "headings": found.elements.filter(kind="title").values("index", "text", "depth", "page")[:200],
        "made_here": _made_here(found, number),
        "may_parse": has_role(request.user, found.project, Role.TRAINER),
        "may_delete": has_role(request.user, found.project, Role.OWNER),
    }
