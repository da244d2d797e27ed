"""What holds for a person on every page: their time zone, and a second factor where the site asks for one."""

import logging
from collections.abc import Callable
from typing import Any

from allauth.mfa.utils import is_mfa_enabled
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.deprecation import MiddlewareMixin
from django_htmx.http import HttpResponseClientRedirect
from requests import RequestException

from finetune_site.accounts.models import Profile

logger = logging.getLogger(__name__)
# Where one gets in, out, and a second factor.
OPEN = ("account_", "mfa_", "socialaccount_", "openid_connect_", "health_")


class PersonMiddleware(MiddlewareMixin):
    """Stands behind authentication, messages and htmx."""

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: Any, kwargs: Any
    ) -> HttpResponseBase | None:
        if not request.user.is_authenticated:
            timezone.deactivate()
            return None
        timezone.activate(Profile.of(request.user).zone)
        if not _lacks_second_factor(request):
            return None
        messages.warning(request, "This site asks for a second factor. Set it up to go on.")
        url = reverse("mfa_activate_totp")
        return HttpResponseClientRedirect(url) if request.headers.get("HX-Request") else redirect(url)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        """django-allauth lets through what happens on the way to the organisation's provider."""
        if not isinstance(exception, RequestException):
            return None
        logger.warning("the OpenID Connect provider cannot be asked: %s", type(exception).__name__)
        told = f"{settings.OIDC_NAME} cannot be reached now. Try again in a minute, or log in with your password here."
        messages.error(request, told)
        return redirect("account_login")


def _lacks_second_factor(request: HttpRequest) -> bool:
    is_operator = request.user.is_staff or request.user.is_superuser
    wanted = settings.TWO_FACTOR == "everybody" or (settings.TWO_FACTOR == "operators" and is_operator)
    name = (request.resolver_match.url_name or "") if request.resolver_match else ""
    return wanted and not name.startswith(OPEN) and not is_mfa_enabled(request.user)
