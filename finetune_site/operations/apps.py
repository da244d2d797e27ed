"""The app of the operators: health, figures, the system page, backups and checks of the whole site."""

from django.apps import AppConfig


class OperationsConfig(AppConfig):
    name = "finetune_site.operations"
    label = "operations"
