from collections.abc import Callable
from functools import wraps

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, include, path

from finetune_site.api import views
from finetune_site.api.door import api
from finetune_site.api.errors import answer


def _opened(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """An operation as Django serves it: whoever comes is asked for a token, not for a login."""

    @login_not_required
    @wraps(view)
    def opened(request: HttpRequest, **arguments: object) -> HttpResponseBase:
        response = view(request, **arguments)
        if response.status_code != 405:
            return response
        told = answer(405, f"This address does not take {request.method}.")
        told["Allow"] = response["Allow"]
        return told

    return opened


operations: list[URLPattern] = [
    entry for entry in api.urls[0] if isinstance(entry, URLPattern) and entry.name != "api-root"
]
for operation in operations:
    operation.callback = _opened(operation.callback)

urlpatterns = [
    path("account/tokens/", views.token_list, name="token_list"),
    path("account/tokens/<int:pk>/revoke", views.token_revoke, name="token_revoke"),
    path("api/", views.api_docs, name="api_docs"),
    path("api/v1/openapi.json", views.openapi, name="openapi"),
    path("api/v1/", include((operations, "api"), namespace="api")),
    path("api/<path:rest>", views.api_nowhere, name="api_nowhere"),
]
