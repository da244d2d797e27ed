"""Short tasks that talk to an Ollama server: what it holds, whether a base model is what it serves under that name, and
taking a model out of its memory."""

from dataclasses import asdict

from datasets_app.models import ModelServer
from datasets_app.servers import KEY_LOST
from finetune_site.lib.channel import load_json
from finetune_site.lib.sealing import UnsealError
from training_app.engine.catalogue import Told
from training_app.engine.shapes import compare
from training_app.models import BaseModel, OllamaState
from training_app.ollama import ANSWER_SECONDS, PASSING, Client, OllamaError, Shown, Trouble
from training_app.services import bases
from training_app.services import servers as services

LOOK_SECONDS = 5.0  # the short tasks of the site wait for one another
SHOWN_AT_ONCE = 8
# What a file says of where it comes from.
SOURCES = ("general.source.", "general.base_model.0.", "general.organization", "general.basename")
PARTS = ("general.finetune", "general.size_label")


def client_of(server: ModelServer, *, seconds: float = ANSWER_SECONDS) -> Client:
    """A client with the key of the server."""
    try:
        return Client(server.base_url, server.key, seconds=seconds)
    except UnsealError as error:
        raise OllamaError(Trouble.TOKEN, KEY_LOST.format(server)) from error


def look(pk: int) -> None:
    """Keep what a server holds, or in words why it does not answer."""
    server = ModelServer.objects.filter(pk=pk).first()
    if server is None:
        return
    try:
        with client_of(server, seconds=LOOK_SECONDS) as client:
            services.note_look(server, client.look())
            _ask_what_they_are(client, OllamaState.objects.get(server=server))
    except OllamaError as error:
        services.note_look(server, None, str(error))


def _ask_what_they_are(client: Client, state: OllamaState) -> None:
    """Keep what the server says of models that it was not asked about yet, some at a time."""
    names = {entry["digest"]: entry["name"] for entry in state.held if not entry["is_remote"]}
    told = {digest: found for digest, found in state.told.items() if digest in names}
    for digest in [digest for digest in names if digest not in told][:SHOWN_AT_ONCE]:
        try:
            told[digest] = asdict(_told(client.show(names[digest])))
        except OllamaError as error:
            if error.trouble in PASSING:
                break
            told[digest] = asdict(Told())
    if told != state.told:
        OllamaState.objects.filter(pk=state.pk).update(told=told)


def _told(shown: Shown) -> Told:
    keys = {name: value for name, value in shown.facts.items() if name.startswith((*SOURCES, *PARTS))}
    return Told(
        architecture=shown.architecture,
        capabilities=shown.capabilities,
        parameters=int(shown.facts.get("general.parameter_count") or 0),
        blob=shown.blob,
        keys={name: value for name, value in keys.items() if isinstance(value, str)},
    )


def compare_base(base: BaseModel) -> None:
    """Hold a base that is ready against what an Ollama serves under its name now; nothing where none serves it.

    What was compared before is kept while the server cannot be reached.
    """
    server = bases.server_of(base)
    if server is None:
        return
    try:
        with client_of(server) as client:
            found = client.find(base.name)
            if found is None or (base.shapes and (base.server_id, base.digest) == (server.pk, found.digest)):
                return
            shown = client.show(base.name, is_whole=True)
    except OllamaError:
        return
    lines = compare(load_json(base.folder / "config.json"), shown.facts)
    bases.note_comparison(base, server, found.digest, lines)


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
