"""What people correct in a document: a piece, or a page, at a time."""

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST
from django.views.decorators.vary import vary_on_headers

from datasets_app.access import get_document
from datasets_app.forms import ElementForm
from datasets_app.models import Document, Element
from datasets_app.services import corrections as services
from datasets_app.services.documents import DocumentError
from datasets_app.views.documents import shown
from finetune_site.projects.access import SignedInRequest
from finetune_site.projects.models import Role

MAX_NUMBER = 2**31 - 1  # what the database takes


@require_GET
@vary_on_headers("HX-Request")
def element(request: SignedInRequest, pk: int, index: int) -> HttpResponse:
    """The form that corrects one piece; a part of the page where its script asks."""
    document = get_document(request.user, pk, role=Role.TRAINER)
    found = _piece(document, index)
    return _form(request, document, found, ElementForm(initial=ElementForm.initial_of(found)))


@require_POST
def element_act(request: SignedInRequest, pk: str, index: str, act: str) -> HttpResponse:
    """`correct`, `leave-out`, `take-in` or `restore` one piece."""
    document = get_document(request.user, int(pk), role=Role.TRAINER)
    found = _piece(document, int(index))
    try:
        if act == "correct":
            form = ElementForm(request.POST)
            if not form.is_valid():
                return _form(request, document, found, form, status=422)
            found = services.correct_element(
                actor=request.user, document=document, index=found.index, **form.cleaned_data
            )
        elif act == "restore":
            found = services.restore_element(actor=request.user, document=document, index=found.index)
        else:
            is_out = act == "leave-out"
            found = services.leave_element_out(actor=request.user, document=document, index=found.index, is_out=is_out)
    except DocumentError as error:
        messages.error(request, str(error))
    if request.htmx:
        context = {"document": document, "element": shown(found, document), "may_parse": True}
        return render(request, "datasets/element.html", context)
    return redirect(_place(document, found))


@require_POST
def page_act(request: SignedInRequest, pk: str, number: str, act: str) -> HttpResponse:
    """`leave-out` or `take-in` a whole page."""
    document = get_document(request.user, int(pk), role=Role.TRAINER)
    try:
        services.leave_page_out(actor=request.user, document=document, page=int(number), is_out=act == "leave-out")
    except DocumentError as error:
        messages.error(request, str(error))
    return redirect(f"{document.get_absolute_url()}?only={number}")


@require_POST
def document_mask(request: SignedInRequest, pk: int) -> HttpResponse:
    document = get_document(request.user, pk, role=Role.TRAINER)
    names = request.POST.getlist("name") if "names" in request.POST else None
    count = services.mask_personal(actor=request.user, document=document, names=names)
    if count:
        messages.success(request, f"Personal data is masked in {count} piece{'s' if count > 1 else ''}.")
    elif names == []:
        messages.info(request, "Tick the names to mask first.")
    else:
        messages.info(request, "None of it stands in the document any more.")
    return redirect(document)


@require_POST
def correction_forget(request: SignedInRequest, pk: int, key: int) -> HttpResponse:
    document = get_document(request.user, pk, role=Role.TRAINER)
    services.forget_correction(actor=request.user, document=document, key=key)
    return redirect(document)


def _piece(document: Document, index: int) -> Element:
    if index > MAX_NUMBER:
        raise Http404
    return get_object_or_404(document.elements.all(), index=index)


def _place(document: Document, found: Element) -> str:
    return f"{reverse('document', args=[document.pk])}?only={found.page or ''}#e{found.index}"


def _form(
    request: SignedInRequest, document: Document, found: Element, form: ElementForm, status: int = 200
) -> HttpResponse:
    context = {
        "document": document,
        "project": document.project,
        "section": "documents",
        "element": found,
        "form": form,
    }
    part = "#form" if request.htmx else ""
    return render(request, f"datasets/element_form.html{part}", context, status=status)
