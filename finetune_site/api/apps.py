"""The app of the programmer's door: tokens, the JSON API put together, idempotency."""

from django.apps import AppConfig


class ApiConfig(AppConfig):
    name = "finetune_site.api"
    label = "api"
