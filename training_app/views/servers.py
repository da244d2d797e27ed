"""The Ollama servers, for operators: version, models, what is loaded, disk; fetch and unload."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from datasets_app.models import ModelServer
from finetune_site.projects.access import SignedInRequest, require_operator
from finetune_site.projects.models import Project
from training_app.models import OllamaPull
from training_app.services import servers as services
from training_app.services.runs import TrainingError

SHOWN_PULLS = 5


@require_GET
def ollama_list(request: SignedInRequest) -> HttpResponse:
    return render(request, "training/ollama_list.html", _context(request))


@require_GET
def ollama_list_body(request: SignedInRequest) -> HttpResponse:
    return render(request, "training/ollama_list.html#body", _context(request))


@require_POST
def ollama_pull(request: SignedInRequest, pk: int) -> HttpResponse:
    server = _server(request, pk)
    try:
        services.start_pull(actor=request.user, server=server, name=request.POST.get("name", ""))
    except TrainingError as error:
        messages.error(request, str(error))
    return redirect("ollama_list")


@require_POST
def ollama_unload(request: SignedInRequest, pk: int) -> HttpResponse:
    services.unload(actor=request.user, server=_server(request, pk), name=request.POST.get("name", ""))
    return redirect("ollama_list")


def _server(request: SignedInRequest, pk: int) -> ModelServer:
    _check_operator(request)
    return get_object_or_404(ModelServer, pk=pk, provider=ModelServer.OLLAMA)


def _check_operator(request: SignedInRequest) -> None:
    require_operator(request.user, "see the servers that models run on")


def _context(request: SignedInRequest) -> dict[str, object]:
    _check_operator(request)
    pulls = OllamaPull.objects.select_related("job", "server", "created_by")
    rows = [
        {"state": state, "server": state.server, "pulls": pulls.filter(server=state.server)[:SHOWN_PULLS]}
        for state in services.states()
    ]
    return {"rows": rows, "section": "ollama", "live_project": Project.objects.filter(is_desk=True).first()}
