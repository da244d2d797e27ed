"""The base models of the site; operators add them, say where their weights lie, and have them made ready."""

from collections.abc import Callable

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from finetune_site.projects.access import SignedInRequest, require_operator
from finetune_site.projects.models import Project
from training_app.forms.bases import BaseFilterForm, PointForm
from training_app.models import BaseModel
from training_app.services import bases as services
from training_app.services.runs import TrainingError


@require_GET
def base_models(request: SignedInRequest) -> HttpResponse:
    """What the servers hold, joined with what is known of it: what can be fine-tuned here, and what cannot."""
    return render(request, "training/base_models.html", _context(request))


@require_GET
def base_models_body(request: SignedInRequest) -> HttpResponse:
    return render(request, "training/base_models.html#body", _context(request))


@require_POST
def base_add(request: SignedInRequest) -> HttpResponse:
    _check_operator(request)
    name = request.POST.get("name", "").strip()
    return _act(request, lambda: services.add_base(actor=request.user, name=name))


@require_http_methods(["GET", "POST"])
def base_point(request: SignedInRequest) -> HttpResponse:
    """Say by hand where the weights of a name lie."""
    _check_operator(request)
    name = (request.POST.get("name") or request.GET.get("name") or "").strip()
    offer = services.find_offer(name)
    initial = {"location": offer.entry.repository if offer.entry else "", "licence": offer.licence}
    form = PointForm(request.POST or None, offer=offer, initial=initial)
    if form.is_valid():
        try:
            return redirect(services.point_base(actor=request.user, name=name, **form.cleaned_data))
        except TrainingError as error:
            form.add_error(None, str(error))
    return render(request, "training/base_point.html", {"form": form, "offer": offer, "section": "bases"})


@require_POST
def base_make_ready(request: SignedInRequest, pk: int) -> HttpResponse:
    _check_operator(request)
    base = get_object_or_404(BaseModel, pk=pk)
    return _act(request, lambda: services.make_ready(actor=request.user, base=base))


def _act(request: SignedInRequest, act: Callable[[], object]) -> HttpResponse:
    try:
        act()
    except TrainingError as error:
        messages.error(request, str(error))
    return redirect("base_models")


def _check_operator(request: SignedInRequest) -> None:
    require_operator(request.user, "add base models")


def _context(request: SignedInRequest) -> dict[str, object]:
    form = BaseFilterForm(request.GET)
    offers = services.offers(**form.cleaned_data) if form.is_valid() else []
    return {
        "filter_form": form,
        "offers": offers,
        "is_moving": services.is_moving(offers),
        "section": "bases",
        "live_project": Project.objects.filter(is_desk=True).first() if request.user.is_superuser else None,
    }
