"""The work of chats: answers that wait, from models of runs and from published ones."""

import shutil
from functools import partial

from django.conf import settings

from finetune_site.jobs.handle import Handle
from finetune_site.jobs.kinds import job_kind
from finetune_site.lib.channel import write_json
from training_app import chatting, serving
from training_app.jobs.runs import ENGINE, preload, prepare_base, threads, work_folder
from training_app.models import Run
from training_app.services import artefacts


@job_kind("training.chat", title="Chat", queue="chat", max_attempts=3)
def chat(handle: Handle) -> None:
    """Keep models of runs in memory and answer until nobody asks any more, or a training needs the device."""
    folder = work_folder(handle)
    spec_path = folder / "chat.json"  # a base that is made ready on the way has a spec of its own there
    write_json(spec_path, {"task": "chat", "keep": settings.CHAT_MODELS, **threads()})
    chatting.serve_runs(handle, partial(_prepare, handle), ENGINE, spec_path, preload())
    shutil.rmtree(folder, ignore_errors=True)


def _prepare(handle: Handle, run: Run) -> None:
    prepare_base(handle, run.base)
    artefacts.bring_run(run)


@job_kind("training.chat_ollama", title="Chat by Ollama", queue="ollama", max_attempts=3)
def chat_ollama(handle: Handle) -> None:
    """Pass on what published models answer until nobody asks any more."""
    chatting.serve_published(handle, serving.client_of)
