"""Keys of model servers: the environment of the workers alone holds them."""

import os

from datasets_app.engine.spec import KEY_VARIABLE
from datasets_app.models import ModelServer
from finetune_site.jobs.handle import JobInputError


def engine_environment(server: ModelServer) -> dict[str, str]:
    """What an engine that asks this server gets beside its spec. `JobInputError` where this machine lacks the key."""
    if not server.key_variable:
        return {}
    if not (key := os.environ.get(server.key_variable, "")):
        raise JobInputError(
            f"{server.key_variable}, the key of {server}, is not set on this worker. Ask the operator to set it."
        )
    return {KEY_VARIABLE: key}
