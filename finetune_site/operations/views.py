"""Health and figures for machines, the operators' page of the system, and the page of an error of ours."""

import secrets

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST

from finetune_site.lib.logs import facts
from finetune_site.operations.health import readiness
from finetune_site.operations.inspection import inspect
from finetune_site.operations.metrics import exposition
from finetune_site.projects.access import SignedInRequest, require_operator


@login_not_required
@never_cache
@require_safe
def health_live(request: HttpRequest) -> JsonResponse:
    """This process answers; nothing else is asked."""
    return JsonResponse({"status": "live"})


@login_not_required
@never_cache
@require_safe
def health_ready(request: HttpRequest) -> JsonResponse:
    """Whether requests may be sent here: 200, or 503 with a sentence for each check that fails."""
    checks = readiness()
    is_ready = not any(checks.values())
    told = {name: sentence or "ok" for name, sentence in checks.items()}
    return JsonResponse(
        {"status": "ready" if is_ready else "not ready", "checks": told}, status=200 if is_ready else 503
    )


@login_not_required
@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """For a scraper that knows FINETUNE_METRICS_TOKEN, and for operators."""
    if not _is_scraper(request):
        if not request.user.is_authenticated:
            raise Http404
        require_operator(request.user, "see the figures of the site")
    return HttpResponse(exposition(), content_type=CONTENT_TYPE_LATEST)


@require_safe
def system(request: SignedInRequest) -> HttpResponse:
    """How the whole site does: every line is fine or says what to do. For operators."""
    _require_operator(request)
    return render(request, "operations/system.html", {"section": "system", "sections": inspect()})


@require_safe
def system_body(request: SignedInRequest) -> HttpResponse:
    _require_operator(request)
    return render(request, "operations/system.html#body", {"sections": inspect()})


def server_error(request: HttpRequest) -> HttpResponse:
    """The page of an error of ours, with the id under which the log tells what it was."""
    return HttpResponse(render_to_string("500.html", {"reference": facts().get("request_id", "")}), status=500)


def _require_operator(request: SignedInRequest) -> None:
    require_operator(request.user, "see how the site does")


def _is_scraper(request: HttpRequest) -> bool:
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    wanted = settings.METRICS_TOKEN
    return bool(wanted) and kind == "Bearer" and secrets.compare_digest(token.encode(), wanted.encode())
