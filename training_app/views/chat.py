"""Chat with a run's model beside its base."""

from django.http import HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from finetune_site.projects.access import SignedInRequest
from training_app.access import get_run, get_turn
from training_app.models import Run
from training_app.services import runs as services

SHOWN = 40
LIVE_FIELDS = ("state", "tuned_answer", "base_answer", "tuned_seconds", "base_seconds")


@require_GET
def chat(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/chat.html", _context(request, get_run(request.user, pk)))


@require_POST
def chat_ask(request: SignedInRequest, pk: int) -> HttpResponse:
    """Keep the question; the answers stream into the page, and are there after a reload too."""
    run = get_run(request.user, pk)
    problem = ""
    try:
        services.ask(actor=request.user, run=run, prompt=request.POST.get("prompt", ""))
    except services.TrainingError as error:
        problem = str(error)
    if not request.headers.get("HX-Request") and not problem:
        return redirect("chat", pk)
    template = "training/chat.html#turns" if request.headers.get("HX-Request") else "training/chat.html"
    return render(request, template, {**_context(request, get_run(request.user, pk)), "problem": problem})


@require_GET
def chat_turn(request: SignedInRequest, pk: int) -> HttpResponse:
    """A turn as it stands: what the page reads when it hears that the answers have grown."""
    turn = get_turn(request.user, pk)
    return JsonResponse({name: getattr(turn, name) for name in LIVE_FIELDS})


def _context(request: SignedInRequest, run: Run) -> dict[str, object]:
    """One's own turns: what others ask is theirs."""
    turns = run.turns.filter(user=request.user).order_by("-pk")[:SHOWN]
    return {"run": run, "project": run.project, "section": "runs", "turns": reversed(turns), "chat_job": run.chat_job}
