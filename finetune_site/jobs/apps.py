"""The app of long work. At start it loads every app's `jobs` module, where the kinds register themselves."""

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class JobsConfig(AppConfig):
    name = "finetune_site.jobs"
    label = "jobs"

    def ready(self) -> None:
        autodiscover_modules("jobs")
