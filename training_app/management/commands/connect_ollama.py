"""`manage.py connect_ollama URL`: register an Ollama as a model server, without a hand; once, however often it runs."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from datasets_app.models import ModelServer
from training_app.ollama import OllamaError
from training_app.serving import client_of


class Command(BaseCommand):
    help = "Register an Ollama. People may choose the models that it holds now; the administration names others."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("url", help="where this machine reaches it: http://ollama:11434")
        parser.add_argument("--name", default="Ollama")
        parser.add_argument("--takes-models", action="store_true", help="trainers may publish models to it")

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        server = ModelServer.objects.filter(name=options["name"]).first() or ModelServer(name=options["name"])
        server.provider, server.base_url = ModelServer.OLLAMA, options["url"]
        server.takes_models = server.takes_models or options["takes_models"]
        try:
            with client_of(server) as client:
                held = [model.name for model in client.look().models]
        except OllamaError as error:
            raise CommandError(str(error)) from None
        server.offered = "\n".join(dict.fromkeys([*server.model_names, *held]))
        try:
            server.full_clean()
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from None
        server.save()
        offers = ", ".join(server.model_names) or "no model yet: fetch one, and run this again"
        self.stdout.write(f"{server} at {server.base_url} is registered; it offers {offers}.")
