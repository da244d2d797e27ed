"""What the entrance pages say of the ways in."""

from django.conf import settings
from django.http import HttpRequest


def ways_in(request: HttpRequest) -> dict[str, object]:
    domains = settings.SIGN_UP_DOMAINS if settings.CAN_MAIL else []
    return {"can_mail": settings.CAN_MAIL, "sign_up_domains": domains, "oidc_name": settings.OIDC_NAME}
