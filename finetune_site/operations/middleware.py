"""The outermost middleware: gives each request an id that its log lines and its answer carry, and measures its time."""

import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import cast

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils.decorators import sync_and_async_middleware
from django.utils.deprecation import MiddlewareMixin

from finetune_site.bucket import BucketError
from finetune_site.downloads import FileAwayError
from finetune_site.lib.logs import bound
from finetune_site.operations.metrics import note_request

logger = logging.getLogger("finetune_site.requests")
HEADER = "X-Request-ID"
# The site asks a browser for none of these, so nothing that got into a page may.
NOTHING_ASKED = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"
GIVEN = re.compile(r"[A-Za-z0-9._-]{8,64}")
QUIET = ("health_live", "health_ready", "metrics")  # asked every few seconds by machines

Sync = Callable[[HttpRequest], HttpResponseBase]
Async = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


@sync_and_async_middleware
def request_context(get_response: Sync | Async) -> Sync | Async:
    """Works under both kinds of handler, as a stream must not be moved to a thread for the sake of an id."""
    if iscoroutinefunction(get_response):
        ask = cast(Async, get_response)

        async def later(request: HttpRequest) -> HttpResponseBase:
            started, request_id = time.perf_counter(), _request_id(request)
            with bound(request_id=request_id, user=lambda: _user_id(request)):
                return _finish(request, await ask(request), request_id, time.perf_counter() - started)

        return later
    answer = cast(Sync, get_response)

    def now(request: HttpRequest) -> HttpResponseBase:
        started, request_id = time.perf_counter(), _request_id(request)
        with bound(request_id=request_id, user=lambda: _user_id(request)):
            return _finish(request, answer(request), request_id, time.perf_counter() - started)

    return now


class FilesAwayMiddleware(MiddlewareMixin):
    """Where a file cannot be had, a page that says what to do."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, FileAwayError | BucketError):
            return None
        return render(request, "503.html", {"told": str(exception)}, status=503)


def _finish(request: HttpRequest, response: HttpResponseBase, request_id: str, seconds: float) -> HttpResponseBase:
    response[HEADER] = request_id
    response["Permissions-Policy"] = NOTHING_ASKED
    match = request.resolver_match
    note_request(match.view_name if match else "", request.method or "", response.status_code, seconds)
    # The pattern, never the address: a query may hold what a person searched for, a path an invitation's token.
    route = f"/{match.route}" if match else "no such address"
    level = logging.DEBUG if match is None or match.view_name in QUIET else logging.INFO
    logger.log(level, "%s %s %s in %.0f ms", request.method, route, response.status_code, 1000 * seconds)
    return response


def _request_id(request: HttpRequest) -> str:
    """The proxy's, where there is one that the operator trusts and it gave a sensible one; else a new one."""
    given = request.headers.get(HEADER, "") if settings.BEHIND_PROXY else ""
    return given if GIVEN.fullmatch(given) else uuid.uuid4().hex


def _user_id(request: HttpRequest) -> int | None:
    # Django's own cache of `request.user`: a log line never asks the database who it is about.
    user = getattr(request, "_cached_user", None)
    return user.pk if user is not None else None
