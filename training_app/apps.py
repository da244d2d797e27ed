"""The app's registration."""

from django.apps import AppConfig

from datasets_app import measures


class TrainingConfig(AppConfig):
    name = "training_app"
    verbose_name = "Base models and runs"

    def ready(self) -> None:
        from training_app.tokenizers import BaseTokenizers

        measures.offer(BaseTokenizers())
