"""Addresses of servers as operators enter them: within a private network their hosts are often single names."""

from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.db import models


def validate_address(value: str) -> None:
    """Refuse what is no plain address of a web server. Django's own check refuses `http://label-studio:8080`."""
    try:
        parts = urlsplit(value)
        is_plain = bool(parts.hostname) and (parts.port or 1) > 0 and not any(c.isspace() for c in value)
    except ValueError:
        is_plain = False
    if not is_plain or parts.scheme not in ("http", "https"):
        raise ValidationError("Enter an address such as https://host.example.org or http://host:8080.")
    if parts.username or parts.query or parts.fragment:
        raise ValidationError("Enter the address alone, without a name, a password or anything behind ? or #.")


class AddressField(models.CharField):
    """The address of a web server."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"max_length": 200, "validators": [validate_address], **kwargs})
