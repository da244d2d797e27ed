"""What operators do with Ollama servers: look, pull a model, unload one. Who talks to them are workers alone."""

import re
from dataclasses import asdict
from datetime import timedelta

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django_q.tasks import async_task

from datasets_app.models import ModelServer
from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import FINISHED
from finetune_site.projects.services import audit, operators_desk
from training_app.models import OllamaPull, OllamaState
from training_app.ollama import Look
from training_app.services.runs import TrainingError

FRESH, PATIENCE = timedelta(seconds=20), timedelta(seconds=60)
# Without a host: a name with one would have the server ask an address of somebody's choice.
PULLED = re.compile(r"(?:[a-z0-9][\w-]{0,79}/)?[a-z0-9][\w.-]{0,79}(?::[a-z0-9][\w.-]{0,79})?", re.IGNORECASE)


def states() -> list[OllamaState]:
    """Every Ollama server as it was last met; those not met lately are asked anew, in the background."""
    servers = ModelServer.objects.filter(provider=ModelServer.OLLAMA)
    found = [OllamaState.objects.get_or_create(server=server)[0] for server in servers]
    for state in found:
        now = timezone.now()
        asked_lately = Q(asked_at__gt=now - PATIENCE) | Q(seen_at__gt=now - FRESH)
        # Many pages ask, and a server may hang: one question at a time.
        if OllamaState.objects.filter(pk=state.pk).exclude(asked_lately).update(asked_at=now):
            look(state.server)
    return found


def look(server: ModelServer) -> None:
    async_task("training_app.serving.look", server.pk, cluster="default")


@transaction.atomic
def unload(*, actor: User, server: ModelServer, name: str) -> None:
    """Take a model out of the server's memory."""
    async_task("training_app.serving.unload", server.pk, name, cluster="default")
    audit(operators_desk(actor=actor), actor, "unloaded", name, after={"server": str(server)})


@transaction.atomic
def start_pull(*, actor: User, server: ModelServer, name: str) -> OllamaPull:
    """Have a server fetch a model from its registry."""
    name = name.strip()
    if not PULLED.fullmatch(name):
        raise TrainingError("Enter a model as Ollama names it, such as llama3.2:1b, without the name of a host.")
    if server.pulls.filter(name=name).exclude(job__state__in=FINISHED).exclude(job=None).exists():
        raise TrainingError(f"{name} is being fetched already.")
    desk = operators_desk(actor=actor)
    pull = OllamaPull.objects.create(server=server, name=name, created_by=actor)
    pull.job = jobs.enqueue(project=desk, owner=actor, kind="training.pull", label=str(pull), url="/ollama/")
    pull.save(update_fields=["job"])
    audit(desk, actor, "had fetched", pull)
    return pull


def note_look(server: ModelServer, found: Look | None, problem: str = "") -> None:
    """Keep what was seen, or why nothing could be."""
    fields = {"problem": problem, "seen_at": timezone.now(), "asked_at": None}
    if found:
        told = {
            "version": found.version,
            "held": [asdict(model) for model in found.models],
            "loaded": [asdict(entry) for entry in found.loaded],
        }
        OllamaState.objects.update_or_create(server=server, defaults={**fields, **told})
    else:
        OllamaState.objects.update_or_create(server=server, defaults=fields)
