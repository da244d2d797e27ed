"""What was found in the examples of a dataset, the project's rules for it, and what its documents still lack."""

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from datasets_app.access import get_dataset
from datasets_app.forms import QualityRulesForm
from datasets_app.models import Document, QualityRules
from datasets_app.services import coverage
from datasets_app.services import quality as services
from finetune_site.projects.access import SignedInRequest, has_role
from finetune_site.projects.models import Role

DOCUMENTS = 20


@require_GET
def quality(request: SignedInRequest, pk: int) -> HttpResponse:
    """Findings with their counts, each a way to its examples; and the rules."""
    return render(request, "datasets/quality.html", _context(request, pk))


@require_GET
def quality_body(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "datasets/quality.html#body", _context(request, pk))


@require_POST
def quality_check(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_dataset(request.user, pk, role=Role.TRAINER)
    services.start_check(actor=request.user, dataset=found)
    return redirect("quality", pk)


@require_POST
def quality_rules(request: SignedInRequest, pk: int) -> HttpResponse:
    """What the project lets into a version."""
    found = get_dataset(request.user, pk, role=Role.OWNER)
    form = QualityRulesForm(request.POST)
    if not form.is_valid():
        return render(request, "datasets/quality.html", _context(request, pk) | {"form": form}, status=422)
    services.set_rules(actor=request.user, project=found.project, **form.cleaned_data)
    messages.success(request, "Kept. Versions that are sealed from now on keep to it.")
    return redirect("quality", pk)


@require_GET
def dataset_coverage(request: SignedInRequest, pk: int) -> HttpResponse:
    """Documents with how much of them has examples, and tags."""
    found = get_dataset(request.user, pk)
    documents = Document.objects.filter(project=found.project).usable()
    page = Paginator(documents, DOCUMENTS).get_page(request.GET.get("page"))
    context = {
        "dataset": found,
        "project": found.project,
        "section": "datasets",
        "page": page,
        "covered": coverage.by_document(found, list(page.object_list)),
        "tags": coverage.by_tag(found),
        "may_fill": has_role(request.user, found.project, Role.TRAINER),
    }
    return render(request, "datasets/coverage.html", context)


def _context(request: SignedInRequest, pk: int) -> dict[str, Any]:
    found = get_dataset(request.user, pk)
    rules = QualityRules.of(found.project)
    names = ("blocking", "max_tokens", "finds_names")
    return {
        "dataset": found,
        "project": found.project,
        "section": "datasets",
        "figures": services.figures(found),
        "unchecked": services.unchecked(found.examples.all()).count(),
        "form": QualityRulesForm(initial={name: getattr(rules, name) for name in names}),
        "may_check": has_role(request.user, found.project, Role.TRAINER),
        "may_rule": has_role(request.user, found.project, Role.OWNER),
    }
