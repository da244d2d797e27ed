"""The pages of the programmer's door: a person's tokens, and the list of operations; and its OpenAPI document."""

import json
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from finetune_site.api import services
from finetune_site.api.door import api
from finetune_site.api.errors import answer
from finetune_site.api.forms import TokenForm
from finetune_site.api.models import Token
from finetune_site.projects.access import SignedInRequest


@require_http_methods(["GET", "POST"])
def token_list(request: SignedInRequest) -> HttpResponse:
    """One's tokens; making one shows its secret, once."""
    form, secret = TokenForm(request.POST or None, user=request.user), ""
    if form.is_valid():
        _, secret = services.make_token(actor=request.user, **form.arguments)
        form = TokenForm(user=request.user)
    tokens = Token.objects.of(request.user).select_related("project")
    response = render(request, "api/token_list.html", {"form": form, "tokens": tokens, "secret": secret})
    response["Cache-Control"] = "no-store"
    return response


@require_POST
def token_revoke(request: SignedInRequest, pk: int) -> HttpResponse:
    if not services.revoke_token(actor=request.user, pk=pk):
        raise Http404
    messages.success(request, "The token is revoked. Programs that use it are refused from now on.")
    return redirect("token_list")


@login_not_required
@require_GET
def openapi(request: HttpRequest) -> JsonResponse:
    return JsonResponse(api.get_openapi_schema(path_prefix="/api/v1/"))


@require_GET
def api_docs(request: SignedInRequest) -> HttpResponse:
    """Every operation with its address, by room."""
    schema: dict[str, Any] = api.get_openapi_schema(path_prefix="/api/v1/")
    rooms: dict[str, list[dict[str, Any]]] = {}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            entry = {"method": method.upper(), "path": path, "example": _example(schema, operation), **operation}
            rooms.setdefault(operation["tags"][0], []).append(entry)
    return render(request, "api/docs.html", {"rooms": rooms})


def _example(schema: dict[str, Any], operation: dict[str, Any]) -> str:
    """A body as one would send it, as JSON; empty where the operation takes none."""
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    named = schema["components"]["schemas"].get(body.get("$ref", "").rpartition("/")[2], {})
    return json.dumps(named["examples"][0], ensure_ascii=False) if "examples" in named else ""


@csrf_exempt
@login_not_required
def api_nowhere(request: HttpRequest, rest: str) -> HttpResponse:
    return answer(404, "There is no such address. The list of them is at /api/.")
