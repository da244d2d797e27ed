"""Publishing to Ollama: begin, watch each step, decide at the gate, switch versions, withdraw."""

from itertools import takewhile
from typing import Any

from django.contrib import messages
from django.db.models import Count
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from datasets_app.access import get_document
from datasets_app.models import Dataset, DatasetVersion, Example
from finetune_site.projects.access import SignedInRequest, get_project, has_role
from finetune_site.projects.models import Role
from training_app.access import get_publication, get_published_model, get_run
from training_app.forms.publishing import GateForm, PublicationForm
from training_app.models import Gate, Publication, PublishedModel, Run
from training_app.services import publishing as services
from training_app.services.runs import TrainingError

LISTED = 100
PIECES = ("pieces_trained", "pieces_served")
Piece = tuple[str, bool]


@require_http_methods(["GET", "POST"])
def publication_create(request: SignedInRequest, pk: int) -> HttpResponse:
    """What is published how; the gate is shown before anybody presses the button."""
    run = get_run(request.user, pk, role=Role.TRAINER)
    form = PublicationForm(request.POST or None, run=run)
    if form.is_valid():
        try:
            return redirect(services.start_publication(actor=request.user, run=run, **form.arguments))
        except TrainingError as error:
            form.add_error(None, str(error))
    context = {"form": form, "run": run, "project": run.project, "section": "models"}
    return render(request, "training/publication_form.html", context | {"gate": services.look_at_gate(run)})


@require_GET
def publication(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/publication.html", _context(request, get_publication(request.user, pk)))


@require_GET
def publication_body(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/publication.html#body", _context(request, get_publication(request.user, pk)))


@require_GET
def publication_card(request: SignedInRequest, pk: int) -> HttpResponse:
    """The model card as it travels with the model."""
    found = get_publication(request.user, pk)
    response = HttpResponse(found.card, content_type="text/markdown; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="publication-{found.pk}.md"'
    return response


@require_POST
def publication_override(request: SignedInRequest, pk: int) -> HttpResponse:
    """Only owners promote what the gate holds, and they say why."""
    found = get_publication(request.user, pk, role=Role.OWNER)
    reason = request.POST.get("reason", "")
    return _act(request, found, lambda: services.override_gate(actor=request.user, publication=found, reason=reason))


@require_POST
def publication_act(request: SignedInRequest, pk: int, act: str) -> HttpResponse:
    """Look at the gate again, give up, switch to it, withdraw it."""
    found = get_publication(request.user, pk, role=Role.TRAINER)
    acts = {
        "again": lambda: services.try_gate_again(actor=request.user, publication=found),
        "discard": lambda: services.discard(actor=request.user, publication=found),
        "switch": lambda: services.switch(actor=request.user, publication=found, reason=request.POST.get("reason", "")),
        "withdraw": lambda: services.withdraw(actor=request.user, publication=found),
    }
    return _act(request, found, acts[act])


@require_GET
def published_model_list(request: SignedInRequest, project: int) -> HttpResponse:
    """The project's names in Ollama, and its gate."""
    found = get_project(request.user, project)
    context = {
        "project": found,
        "section": "models",
        "models": PublishedModel.objects.filter(project=found).select_related("server", "current__run"),
        "form": GateForm(instance=Gate.objects.filter(project=found).first()),
        "may_set_gate": has_role(request.user, found, Role.OWNER),
    }
    return render(request, "training/published_model_list.html", context)


@require_POST
def gate_edit(request: SignedInRequest, project: int) -> HttpResponse:
    found = get_project(request.user, project, role=Role.OWNER)
    form = GateForm(request.POST)
    if form.is_valid():
        services.set_gate(actor=request.user, project=found, **form.cleaned_data)
        messages.success(request, "The gate is set. It counts from the next publication on.")
    else:
        messages.error(request, "Enter shares: the gain between -1 and 1, what is kept between 0 and 1.")
    return redirect("published_model_list", project)


@require_GET
def published_model(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/published_model.html", _model_context(request, pk))


@require_GET
def published_model_body(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/published_model.html#body", _model_context(request, pk))


@require_GET
def document_models(request: SignedInRequest, pk: int) -> HttpResponse:
    """Everything that was made from a document: passages, examples, versions, runs, published models."""
    document = get_document(request.user, pk)
    versions = DatasetVersion.objects.filter(entries__example__document=document).distinct()
    examples = Example.objects.filter(document=document)
    context = {
        "document": document,
        "project": document.project,
        "section": "documents",
        "passages": document.chunks.count(),
        "states": examples.values_list("state").annotate(count=Count("pk")).order_by("state"),
        "datasets": Dataset.objects.filter(examples__in=examples).distinct(),
        "versions": versions.select_related("dataset")[:LISTED],
        "runs": Run.objects.filter(version__in=versions).order_by("-pk")[:LISTED],
        "models": PublishedModel.objects.filter(project=document.project)
        .learned_from(document)
        .select_related("server")[:LISTED],
        "may_withdraw": has_role(request.user, document.project, Role.OWNER),
    }
    return render(request, "training/document_models.html", context)


def _act(request: SignedInRequest, found: Publication, act: object) -> HttpResponse:
    try:
        act()  # type: ignore[operator]
    except TrainingError as error:
        messages.error(request, str(error))
    return redirect(found.model if "from_model" in request.POST else found)


def _context(request: SignedInRequest, found: Publication) -> dict[str, object]:
    project = found.model.project
    return {
        "publication": found,
        "steps": [(name, title, state, _shown(evidence)) for name, title, state, evidence in found.steps],
        "model": found.model,
        "project": project,
        "section": "models",
        "may_publish": has_role(request.user, project, Role.TRAINER),
        "may_override": has_role(request.user, project, Role.OWNER),
    }


def _shown(evidence: dict[str, Any] | None) -> dict[str, Any] | None:
    """The evidence as the page shows it: of two prompts what only one of them has is marked."""
    if not evidence or "pairs" not in evidence:
        return evidence
    pairs = [
        pair if "refusal" in pair else {**pair, **dict(zip(PIECES, _marked(pair), strict=True))}
        for pair in evidence["pairs"]
    ]
    return {**evidence, "pairs": pairs}


def _marked(pair: dict[str, Any]) -> tuple[list[Piece], list[Piece]]:
    """Both prompts in pieces: what lies between their common beginning and end is marked. Line ends are visible."""
    texts = [str(pair[name]).replace("\n", "⏎\n") for name in ("trained", "served")]
    if texts[0] == texts[1]:
        return [(texts[0], False)], [(texts[1], False)]
    start = _shared(*texts)
    end = _shared(*(text[start:][::-1] for text in texts))
    ours, theirs = ([(t[:start], False), (t[start : len(t) - end], True), (t[len(t) - end :], False)] for t in texts)
    return ours, theirs


def _shared(first: str, second: str) -> int:
    """How many letters both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _model_context(request: SignedInRequest, pk: int) -> dict[str, object]:
    model = get_published_model(request.user, pk)
    return {
        "model": model,
        "project": model.project,
        "section": "models",
        "publications": model.publications.select_related("run__version", "run__base", "created_by", "job"),
        "switches": model.switches.select_related("before", "after", "by"),
        "documents": model.current.documents() if model.current else [],
        "withdrawn": model.current.run.version.withdrawn_documents() if model.current else [],
        "may_publish": has_role(request.user, model.project, Role.TRAINER),
    }
