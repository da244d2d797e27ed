"""The app of the operators: health, figures, the system page, backups and checks of the whole site."""

from django.apps import AppConfig
from django.core.checks import register

from finetune_site.operations.checks import TAG, check_site


class OperationsConfig(AppConfig):
    name = "finetune_site.operations"
    label = "operations"

    def ready(self) -> None:
        register(check_site, TAG)
