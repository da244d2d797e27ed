"""Keys of model servers: sealed in the database, or in the environment of the workers alone."""

from datasets_app.engine.spec import KEY_VARIABLE
from datasets_app.models import ModelServer
from finetune_site.jobs.handle import JobInputError
from finetune_site.lib.sealing import UnsealError

KEY_LOST = "The key of {} cannot be read: the site's own has changed. An operator enters it again."


def engine_environment(server: ModelServer) -> dict[str, str]:
    """What an engine that asks this server gets beside its spec. `JobInputError` where this machine lacks the key."""
    try:
        key = server.key
    except UnsealError as error:
        raise JobInputError(KEY_LOST.format(server)) from error
    if server.key_variable and not key:
        raise JobInputError(
            f"{server.key_variable}, the key of {server}, is not set on this worker. Ask the operator to set it."
        )
    return {KEY_VARIABLE: key} if key else {}
