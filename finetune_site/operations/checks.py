"""Django's system checks for what can be known of the settings only on the machine that runs with them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

TAG = "operations"


def check_site(**_: Any) -> list[CheckMessage]:
    return [*_check_folders(), *_check_encryption()]


def _check_folders() -> Iterator[CheckMessage]:
    if not os.access(settings.DATA_DIR, os.W_OK):
        text = f"FINETUNE_DATA_DIR {settings.DATA_DIR} cannot be written."
        yield Error(text, hint="Give it to the account that runs the site.", id="operations.E001")
    named = {
        "FINETUNE_BACKUP_DIR": settings.BACKUP_DIR,
        "FINETUNE_LLAMA_CPP_DIR": settings.LLAMA_CPP_DIR,
        "FINETUNE_LM_EVAL_TASKS": settings.LM_EVAL_TASKS,
        "FINETUNE_OLLAMA_MODELS": settings.OLLAMA_MODELS,
    }
    for name, folder in named.items():
        if folder and not Path(folder).is_dir():
            hint = "Correct the path, or leave the setting out on this machine."
            yield Warning(f"{name} names {folder}, and there is no such folder.", hint=hint, id="operations.W001")


def _check_encryption() -> Iterator[CheckMessage]:
    public = [host for host in settings.ALLOWED_HOSTS if "." in host.strip(".") and not host.startswith("127.")]
    if public and not settings.HTTPS:
        yield Warning(
            f"The site answers to {public[0]} without encryption: passwords and documents can be read on their way.",
            hint="Let a proxy end TLS, and set FINETUNE_HTTPS and FINETUNE_BEHIND_PROXY.",
            id="operations.W002",
        )
    if settings.DEBUG and public:
        text = f"FINETUNE_DEBUG shows settings and code to everybody who reaches {public[0]}."
        yield Warning(text, hint="Turn it off.", id="operations.W003")
