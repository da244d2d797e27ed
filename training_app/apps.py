"""The app's registration."""

from django.apps import AppConfig


class TrainingConfig(AppConfig):
    name = "training_app"
