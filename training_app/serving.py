"""Short tasks that talk to an Ollama server: what it holds, and taking a model out of its memory."""

import os

from datasets_app.models import ModelServer
from training_app.ollama import ANSWER_SECONDS, Client, OllamaError
from training_app.services import servers as services

LOOK_SECONDS = 5.0  # the short tasks of the site wait for one another


def client_of(server: ModelServer, *, seconds: float = ANSWER_SECONDS) -> Client:
    """A client with the key that this machine's environment holds for the server."""
    key = os.environ.get(server.key_variable, "") if server.key_variable else ""
    return Client(server.base_url, key, seconds=seconds)


def look(pk: int) -> None:
    """Keep what a server holds, or in words why it does not answer."""
    server = ModelServer.objects.filter(pk=pk).first()
    if server is None:
        return
    try:
        with client_of(server, seconds=LOOK_SECONDS) as client:
            services.note_look(server, client.look())
    except OllamaError as error:
        services.note_look(server, None, str(error))


def unload(pk: int, name: str) -> None:
    server = ModelServer.objects.filter(pk=pk).first()
    if server is None:
        return
    try:
        with client_of(server) as client:
            client.unload(name)
    except OllamaError as error:
        services.note_look(server, None, str(error))
    else:
        look(pk)
