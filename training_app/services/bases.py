"""The base models of the site: what its Ollama servers hold, joined with the catalogue and what operators added."""

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from datasets_app.models import ModelServer
from finetune_site import bucket
from finetune_site.jobs import services as jobs
from finetune_site.projects.services import audit, operators_desk
from training_app.engine import catalogue
from training_app.engine.catalogue import Entry, How, Resolution, Told
from training_app.engine.dequantise import READABLE
from training_app.engine.shapes import Line
from training_app.models import BaseModel, OllamaState
from training_app.services import servers
from training_app.services.publishing import NAMESPACE
from training_app.services.runs import TrainingError, memory_bytes

NAME = re.compile(r"(?:\w[\w.-]*/){0,2}\w[\w.-]{0,79}(?::\w[\w.-]{0,79})?", re.ASCII)


@dataclass(frozen=True)
class Holding:
    """A server that holds a model, and which file that is there."""

    server: ModelServer
    digest: str
    size: int
    parameters: str
    is_remote: bool
    told: Told


@dataclass(frozen=True)
class Offer:
    """One name as Ollama writes it: who holds it, what is known of its weights, and whether it can be trained here."""

    name: str
    holdings: tuple[Holding, ...]
    base: BaseModel | None
    resolution: Resolution | None
    hindrance: str

    @property
    def entry(self) -> Entry | None:
        return self.base.entry if self.base else self.resolution.entry if self.resolution else None

    @property
    def repository(self) -> str:
        return self.base.weights if self.base else self.resolution.repository if self.resolution else ""

    @property
    def how(self) -> str:
        """How the weights were found, in words."""
        found = self.base.how if self.base else self.resolution.how if self.resolution else ""
        return catalogue.IN_WORDS.get(found, "")

    @property
    def licence(self) -> str:
        return self.base.licence if self.base else self.entry.licence if self.entry else ""

    @property
    def gate(self) -> str:
        return self.entry.gate if self.entry and (self.base is None or self.base.source == BaseModel.HUB) else ""

    @property
    def parameters(self) -> int:
        if self.base:
            return self.base.parameters
        return self.entry.parameters if self.entry else max((held.told.parameters for held in self.holdings), default=0)

    @property
    def can_be_added(self) -> bool:
        return not self.base and bool(self.resolution) and not self.hindrance

    @property
    def quantised(self) -> Holding | None:
        """A server whose file could be read back into weights, where this site shares its store."""
        readable = (held for held in self.holdings if held.told.blob and held.told.architecture in READABLE)
        return next(readable, None) if settings.OLLAMA_MODELS else None


def offers(*, words: str = "", is_whole: bool = False) -> list[Offer]:
    """Every name that a server holds or an operator added, and with `is_whole` the catalogue's too; what was published
    from here is left out."""
    bases = {base.name: base for base in BaseModel.objects.select_related("server__ollama_state", "job")}
    held = _held(servers.states())
    named = {*bases, *held, *(entry.tag for entry in catalogue.ENTRIES if is_whole)}
    known, memory = _by_digest(bases.values(), held), memory_bytes()
    found = [_offer(name, bases.get(name), held.get(name, ()), known, memory) for name in sorted(named)]
    wanted = words.lower().split()
    return [offer for offer in found if all(word in f"{offer.name} {offer.repository}".lower() for word in wanted)]


def is_moving(offers: Iterable[Offer]) -> bool:
    """Whether more is on its way: a server that was never met, or a base that is being made ready."""
    bases = (offer.base for offer in offers if offer.base)
    is_worked_on = any(base.job and not base.job.is_finished for base in bases)
    return is_worked_on or OllamaState.objects.filter(seen_at=None).exists()


def find_offer(name: str) -> Offer:
    """The offer of one name; of a name that nobody holds or knows an empty one."""
    found = [offer for offer in offers() if offer.name == name]
    return found[0] if found else _offer(name, None, (), {}, memory_bytes())


def _held(states: Iterable[OllamaState]) -> dict[str, tuple[Holding, ...]]:
    held: dict[str, tuple[Holding, ...]] = {}
    for state in states:
        for model in state.held:
            name, digest = model["name"], model["digest"]
            if not name.startswith(f"{NAMESPACE}/"):
                told = Told(**state.told.get(digest, {}))
                found = Holding(state.server, digest, model["size"], model["parameters"], model["is_remote"], told)
                held[name] = (*held.get(name, ()), found)
    return held


def _by_digest(bases: Iterable[BaseModel], held: Mapping[str, tuple[Holding, ...]]) -> dict[str, Resolution]:
    """Which weights a file holds, from names of it that are known, and over them from what was verified here."""
    named = {
        holding.digest: Resolution(entry.repository, How.DIGEST, entry)
        for name, holdings in held.items()
        if (entry := catalogue.find(name))
        for holding in holdings
    }
    verified = {
        base.digest: Resolution(base.location, How.DIGEST, base.entry)
        for base in bases
        if base.source == BaseModel.HUB and base.standing == BaseModel.Standing.VERIFIED
    }
    return {**named, **verified}


def _offer(
    name: str,
    base: BaseModel | None,
    holdings: tuple[Holding, ...],
    known: Mapping[str, Resolution],
    memory: int,
) -> Offer:
    if base:
        too_large = catalogue.too_large(base.parameters, memory)
        return Offer(name, holdings, base, None, base.contradiction or too_large)
    told = holdings[0].told if holdings else Told()
    twin = next((known[held.digest] for held in holdings if held.digest in known), None)
    found = catalogue.resolve(name, told)
    if twin and (found is None or found.repository != twin.repository):
        found = twin
    if holdings and all(held.is_remote for held in holdings):
        return Offer(name, holdings, None, None, "it runs elsewhere: a cloud model has no weights here")
    entry = found.entry if found else None
    parameters = entry.parameters if entry else told.parameters
    return Offer(name, holdings, None, found, catalogue.hindrance(told, entry, parameters, memory))


def server_of(base: BaseModel) -> ModelServer | None:
    """The server to compare a base with: the one it was compared with while that holds its name, else the first."""
    holders = [state.server for state in OllamaState.objects.select_related("server") if state.digest_of(base.name)]
    return base.server if base.server in holders else next(iter(holders), None)


@transaction.atomic
def add_base(*, actor: User, name: str) -> BaseModel:
    """Add a model with the weights that were found for its name."""
    offer = find_offer(name)
    if offer.hindrance:
        raise TrainingError(f"{name} cannot be trained here, because {offer.hindrance}.")
    if offer.base or not offer.resolution:
        raise TrainingError(f"Say where the weights of {name} lie: nothing here knows.")
    found, entry = offer.resolution, offer.entry
    base = BaseModel(name=name, source=BaseModel.HUB, location=found.repository, how=found.how)
    base.licence = entry.licence if entry else ""
    return _keep(actor, base)


@transaction.atomic
def point_base(*, actor: User, name: str, source: str, location: str, licence: str) -> BaseModel:
    """Say by hand where the weights of a name lie; an entry that no run stands on yet is replaced."""
    if not NAME.fullmatch(name):
        raise TrainingError("Enter the name as Ollama writes it, such as llama3.2:3b.")
    name = name if ":" in name else f"{name}:latest"
    base = BaseModel(name=name, source=source, location=location, licence=licence)
    if source == BaseModel.GGUF:
        holding = find_offer(name).quantised
        if holding is None:
            raise TrainingError(
                f"The quantised file of {name} cannot be read back here: the site must share the folder of an Ollama "
                f"that holds it (FINETUNE_OLLAMA_MODELS), and its architecture must be one of {', '.join(READABLE)}."
            )
        base.location, base.server = holding.told.blob, holding.server
    former = BaseModel.objects.select_for_update().filter(name=name).first()
    if former:
        if former.source == BaseModel.BUNDLED:
            raise TrainingError(f"{name} comes with the site and stays as it is.")
        if former.job and not former.job.is_finished:
            raise TrainingError(f"{name} is being made ready. Wait for it, or stop it on the page Jobs.")
        if runs := former.runs.exclude(job=None).count():
            raise TrainingError(
                f"{runs} run{'s stand' if runs > 1 else ' stands'} on {name} as it is, so its weights stay. Add the "
                "others under another name."
            )
        base.pk, base._state.adding = former.pk, False  # the same row: runs that are planned go on to these weights
        transaction.on_commit(lambda: _remove_folder(former))
    return _keep(actor, base)


def _keep(actor: User, base: BaseModel) -> BaseModel:
    base.title = (base.location.partition("/")[2] if base.source == BaseModel.HUB else "") or base.name
    try:
        base.full_clean()
    except ValidationError as error:
        raise TrainingError(" ".join(error.messages)) from error
    base.save()
    audit(operators_desk(actor=actor), actor, "added the base model", base, after={"weights": base.weights})
    return base


@transaction.atomic
def make_ready(*, actor: User, base: BaseModel) -> None:
    """Fetch or convert its weights and hold them against Ollama in the background."""
    locked = BaseModel.objects.select_for_update().get(pk=base.pk)
    if locked.job and not locked.job.is_finished:
        raise TrainingError(f"{base} is being made ready already.")
    desk = operators_desk(actor=actor)
    url = reverse("base_models")
    locked.job = jobs.enqueue(project=desk, owner=actor, kind="training.make_ready", label=base.name, url=url)
    locked.save(update_fields=["job"])
    audit(desk, actor, "had made ready", base)


def note_comparison(base: BaseModel, server: ModelServer, digest: str, lines: list[Line]) -> None:
    """Keep what came of holding a base against what a server holds under its name."""
    base.server, base.digest, base.compared_at = server, digest, timezone.now()
    base.shapes = [asdict(line) for line in lines]
    base.save(update_fields=["server", "digest", "compared_at", "shapes"])


def _remove_folder(base: BaseModel) -> None:
    shutil.rmtree(base.folder, ignore_errors=True)
    bucket.remove_below(base.folder)
