"""What people do with a finished run's model: take it away as a file, publish it, switch versions, withdraw them."""

import re
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from datasets_app.models import DatasetVersion, Document, Example, ModelServer
from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import FINISHED, Job, JobState
from finetune_site.lib.files import folder_bytes
from finetune_site.projects.models import Project
from finetune_site.projects.quotas import disk_refusal
from finetune_site.projects.services import audit
from training_app.engine.spec import FORMATS
from training_app.models import BaseModel, Evaluation, Export, Gate, Publication, PublishedModel, Run, Switch
from training_app.services.runs import TrainingError

NAMESPACE = "ft"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
Outcome = Publication.Outcome
# What goes with a model by its licence: the part of a name that tells it, and what a publisher has to do.
DUTIES = {
    "llama": "Llama's licence asks that the model's name begins with “Llama” and that its notice goes with it.",
    "gemma": "Gemma's terms have to go with the model, and bind whoever uses it.",
    "research": "This licence allows research only, no commercial use.",
    "openrail": "This licence limits what the model may be used for; its limits have to go with it.",
}


@transaction.atomic
def start_export(*, actor: User, run: Run, format: str) -> Export:
    """Make the file of a format in the background; one that is there or being made stays as it is."""
    if format not in FORMATS:
        raise TrainingError("Choose one of the formats.")
    if told := refusal(run, format) or disk_refusal(run.project):
        raise TrainingError(told)
    Run.objects.select_for_update().get(pk=run.pk)  # two people, one file
    export, _ = Export.objects.get_or_create(run=run, format=format, defaults={"created_by": actor})
    if export.is_ready or (export.job and not export.job.is_finished):
        return export
    export.job = jobs.enqueue(
        project=run.project,
        owner=actor,
        kind="training.export",
        label=f"{run.name} as {FORMATS[format].title}",
        url=export.get_absolute_url(),
    )
    export.save(update_fields=["job"])
    audit(run.project, actor, "exported", run, after={"format": format})
    return export


def refusal(run: Run, format: str) -> str:
    """Why a run cannot be had in a format; empty when it can."""
    if not run.is_done:
        return "Only a finished run has a model. Let it end first."
    if format == "adapter" and run.method == "full":
        return "A full training has no adapter: its result is a whole model. Export it merged."
    if FORMATS[format].is_quantised_after and not settings.CAN_QUANTISE:
        return (
            f"{FORMATS[format].title} needs llama.cpp's program llama-quantize. An operator installs it and names its "
            "folder in FINETUNE_LLAMA_CPP_DIR."
        )
    return ""


def foretold_bytes(run: Run, format: str) -> int:
    """About how large the file will be; 0 when that cannot be known."""
    kind, parameters = FORMATS[format], run.base.parameters
    if kind.is_gguf:
        return round(parameters * kind.bits / 8)
    if format == "adapter" and run.method != "full":
        return folder_bytes(run.folder / "adapter")
    return folder_bytes(run.base.folder) if run.base.is_ready else 0


@transaction.atomic
def start_publication(
    *,
    actor: User,
    run: Run,
    server: ModelServer,
    name: str,
    format: str,
    system: str = "",
    parameters: dict[str, Any] | None = None,
    licence: str = "",
    note: str = "",
) -> Publication:
    """Publish a run's model as the next version of a name; nothing is promoted before it is proved."""
    if format not in FORMATS or not FORMATS[format].is_gguf:
        raise TrainingError("Ollama takes GGUF files only. Choose one of those formats.")
    if told := refusal(run, format) or disk_refusal(run.project):
        raise TrainingError(told)
    require_another(run, actor)
    check_server(server)
    if not NAME.fullmatch(name):
        raise TrainingError("The name may hold small letters, digits, - and _, and begins with a letter or a digit.")
    model = _model(actor, run.project, server, f"{NAMESPACE}/{name}")
    if model.publications.exclude(job__state__in=FINISHED).exclude(job=None).exists():
        raise TrainingError(f"A version of {model} is on its way already. Wait for it, or stop it.")
    number = (model.publications.aggregate(last=Max("number"))["last"] or 0) + 1
    publication = Publication.objects.create(
        model=model,
        number=number,
        run=run,
        format=format,
        system=system.strip(),
        parameters=parameters or {},
        licence=licence.strip(),
        note=note.strip(),
        created_by=actor,
    )
    _queue(actor, publication)
    audit(run.project, actor, "began to publish", publication, after={"run": run.name, "server": str(server)})
    return publication


def check_server(server: ModelServer) -> None:
    """Raise `TrainingError` where operators do not let people publish (any more)."""
    if server.provider != ModelServer.OLLAMA or not server.takes_models:
        raise TrainingError(f"Models may not be published to {server}. An operator can allow it in the administration.")


def require_another(run: Run, publisher: User) -> None:
    """Raise `TrainingError` where the project asks for two people and `publisher` planned or started the run."""
    trainers = {run.created_by, run.job.owner if run.job else run.created_by}
    if run.project.needs_two and publisher in trainers:
        raise TrainingError(
            "You trained this model, and this project asks for two people: somebody else has to publish it."
        )


def take_turn(model: PublishedModel, job: Job) -> bool:
    """Whether it is this job's turn to move the names of a model; the others wait until it has ended."""
    locked = PublishedModel.objects.select_for_update().get(pk=model.pk)
    holder = locked.turn_job
    if holder and holder.pk != job.pk and holder.state == JobState.RUNNING:
        return False
    PublishedModel.objects.filter(pk=model.pk).update(turn_job=job)
    return True


def _model(actor: User, project: Project, server: ModelServer, name: str) -> PublishedModel:
    """The model of that name; a name that another project holds is refused without telling whose it is."""
    model, _ = PublishedModel.objects.get_or_create(
        server=server, name=name, defaults={"project": project, "created_by": actor}
    )
    if model.project_id != project.pk:
        raise TrainingError(f"The name {name} is taken on {server}. Choose another.")
    return PublishedModel.objects.select_for_update().get(pk=model.pk)


@transaction.atomic
def override_gate(*, actor: User, publication: Publication, reason: str) -> None:
    """Promote a version that the gate holds, for a reason that is kept."""
    if not reason.strip():
        raise TrainingError("Say why it is published although the gate holds it.")
    require_another(publication.run, actor)
    check_server(publication.model.server)
    moved = Publication.objects.filter(pk=publication.pk, outcome=Outcome.HELD).update(
        override_by=actor, override_reason=reason.strip(), outcome=Outcome.WORKING
    )
    if not moved:
        raise TrainingError("The gate does not hold this version any more.")
    publication.refresh_from_db()
    _queue(actor, publication)
    audit(publication.run.project, actor, "overrode the gate for", publication, after={"reason": reason.strip()})


@transaction.atomic
def try_gate_again(*, actor: User, publication: Publication) -> None:
    """Look at the gate anew, after another evaluation or with other thresholds."""
    check_server(publication.model.server)
    moved = Publication.objects.filter(pk=publication.pk, outcome=Outcome.HELD).update(outcome=Outcome.WORKING)
    if not moved:
        raise TrainingError("The gate does not hold this version any more.")
    publication.refresh_from_db()
    _queue(actor, publication)
    audit(publication.model.project, actor, "asked the gate again about", publication)


@transaction.atomic
def discard(*, actor: User, publication: Publication) -> None:
    """Give up a version that the gate holds, or that was lost on its way: its candidate is removed."""
    publication = Publication.objects.select_for_update().get(pk=publication.pk)
    if publication.outcome != Outcome.HELD and publication.standing != Outcome.FAILED:
        raise TrainingError("Only a version that is held or was not published can be discarded.")
    Publication.objects.filter(pk=publication.pk).update(outcome=Outcome.FAILED, problem=f"Discarded by {actor}.")
    _change(actor, publication.model, f"discard {publication.candidate}", publication, "discarded")


@transaction.atomic
def switch(*, actor: User, publication: Publication, reason: str = "") -> None:
    """Make a published version the stable one: a roll back, or forward again."""
    if publication.outcome != Outcome.PUBLISHED:
        raise TrainingError("Only a published version can be the stable one.")
    if publication.model.current_id == publication.pk:
        raise TrainingError("This version is the stable one already.")
    check_server(publication.model.server)
    _change(actor, publication.model, f"switch to v{publication.number}", publication, "switched", reason)


@transaction.atomic
def withdraw(*, actor: User, publication: Publication) -> None:
    """Remove a version from Ollama. The stable one goes together with the stable name, when it is the last."""
    model = publication.model
    others = model.publications.filter(outcome=Outcome.PUBLISHED).exclude(pk=publication.pk)
    if publication.outcome != Outcome.PUBLISHED:
        raise TrainingError("Only a published version can be withdrawn.")
    if model.current_id == publication.pk and others.exists():
        raise TrainingError("This version is the stable one. Switch to another first, then withdraw it.")
    _change(actor, model, f"withdraw v{publication.number}", publication, "withdrew")


def _change(
    actor: User, model: PublishedModel, label: str, publication: Publication, verb: str, reason: str = ""
) -> None:
    locked = PublishedModel.objects.select_for_update().get(pk=model.pk)
    if locked.switch_job and not locked.switch_job.is_finished:
        raise TrainingError(f"{model} is being changed at this moment. Wait some seconds.")
    locked.switch_job = jobs.enqueue(
        project=model.project,
        owner=actor,
        kind="training.change_published",
        label=f"{model.name}: {label}",
        url=model.get_absolute_url(),
    )
    locked.save(update_fields=["switch_job"])
    wish = {"what": verb, "publication": publication.pk, "reason": reason.strip()[:300], "by": actor.pk}
    PublishedModel.objects.filter(pk=model.pk).update(wish=wish)
    audit(model.project, actor, verb, publication, after={"reason": reason} if reason else None)


def note_step(publication: Publication, step: str, found: dict[str, Any]) -> None:
    """Keep what a step found; `ok` says whether it passed."""
    with transaction.atomic():
        locked = Publication.objects.select_for_update().get(pk=publication.pk)
        locked.evidence[step] = found
        locked.save(update_fields=["evidence"])
    publication.evidence[step] = found


def note_end(publication: Publication, outcome: str, problem: str = "") -> None:
    Publication.objects.filter(pk=publication.pk).update(outcome=outcome, problem=problem)


@transaction.atomic
def note_promoted(publication: Publication, digest: str) -> None:
    """The stable name means this version now. Written twice, it is there once."""
    model = PublishedModel.objects.select_for_update().get(pk=publication.model_id)
    moved = Publication.objects.filter(pk=publication.pk).exclude(outcome=Outcome.PUBLISHED).update(
        outcome=Outcome.PUBLISHED, digest=digest, published_at=timezone.now(), problem=""
    )  # fmt: skip
    if not moved:
        return
    by = publication.override_by or publication.created_by
    _note_switch(model, publication, by, publication.override_reason[:300])
    audit(model.project, by, "published", publication, after={"digest": digest})


@transaction.atomic
def note_switched(publication: Publication, by: User, reason: str) -> None:
    model = PublishedModel.objects.select_for_update().get(pk=publication.model_id)
    _note_switch(model, publication, by, reason)


@transaction.atomic
def note_withdrawn(publication: Publication, by: User) -> None:
    model = PublishedModel.objects.select_for_update().get(pk=publication.model_id)
    Publication.objects.filter(pk=publication.pk).update(outcome=Outcome.WITHDRAWN)
    if model.current_id == publication.pk:
        _note_switch(model, None, by, "withdrawn")


def _note_switch(model: PublishedModel, after: Publication | None, by: User, reason: str) -> None:
    if model.current_id == (after.pk if after else None):
        return
    Switch.objects.create(model=model, before=model.current, after=after, by=by, reason=reason)
    PublishedModel.objects.filter(pk=model.pk).update(current=after)


def _queue(actor: User, publication: Publication) -> None:
    publication.job = jobs.enqueue(
        project=publication.run.project,
        owner=actor,
        kind="training.publish",
        label=str(publication),
        url=publication.get_absolute_url(),
    )
    publication.save(update_fields=["job"])


@dataclass(frozen=True)
class GateFinding:
    """What the gate makes of a run's newest evaluation: a line for each threshold."""

    lines: tuple[tuple[str, str, bool], ...]  # what, how it stands, passed
    problem: str
    evaluation: int | None = None

    @property
    def passes(self) -> bool:
        return not self.problem


def look_at_gate(run: Run) -> GateFinding:
    """Hold the newest evaluation of a run against its project's thresholds."""
    gate = Gate.objects.filter(project=run.project).first() or Gate(project=run.project)
    newest = Evaluation.objects.filter(run=run).exclude(summary={}).first()
    if newest is None:
        return GateFinding((), "The run has not been evaluated against its base. Evaluate it, then look again.")
    asked = [found for name, found in newest.sets.items() if name != "general"]
    lines = []
    if rows := sum(found["rows"] for found in asked):
        base, tuned = (sum(found[f"{who}_right"] for found in asked) / rows for who in ("base", "tuned"))
        told = f"{base:.0%} of the base, {tuned:.0%} of the tuned model; a gain of {gate.min_gain:.0%} is asked for"
        lines.append(("right answers to the version's questions", told, tuned - base >= gate.min_gain))
    general = newest.sets.get("general")
    if general and general["base_right"]:
        kept = general["kept_right"] / general["base_right"]
        told = f"{kept:.0%} of the {general['base_right']:.0f} that the base knows; {gate.min_kept:.0%} are asked for"
        lines.append(("general answers kept", told, kept >= gate.min_kept))
    failed = [what for what, _, passed in lines if not passed]
    problem = f"The gate holds it: {', '.join(failed)}." if failed else ""
    if not lines:
        problem = "The evaluation asked nothing that could tell. Seal a version with recall or validation questions."
    return GateFinding(tuple(lines), problem, newest.pk)


@dataclass(frozen=True)
class CardFacts:
    """What a model card says that is not the publication's own."""

    version: DatasetVersion
    rows: int
    trained: int
    reviewed: int
    reviewers: int
    documents: list[Document]
    result: dict[str, Any]
    gate: GateFinding
    duties: list[str]


def card_facts(publication: Publication) -> CardFacts:
    """Counted from the sealed version, its decisions and the run's evaluation."""
    run = publication.run
    version = run.version
    examples = Example.objects.filter(entries__version=version)
    people = set(examples.values_list("decided_by", "decided_name").distinct())
    return CardFacts(
        version=version,
        rows=version.entries.count(),
        trained=int(version.counts.get("train", 0)),
        reviewed=examples.exclude(decided_by=None, decided_name="").distinct().count(),
        reviewers=len(people - {(None, "")}),
        documents=list(publication.documents()),
        result=run.result,
        gate=look_at_gate(run),
        duties=licence_duties(run.base),
    )


def licence_duties(base: BaseModel) -> list[str]:
    """What the licence of a base asks of those who publish a model made from it."""
    told = f"{base} {base.licence} {base.location}".lower()
    return [sentence for word, sentence in DUTIES.items() if word in told]


@transaction.atomic
def set_gate(*, actor: User, project: Project, min_gain: float, min_kept: float) -> None:
    before = Gate.objects.filter(project=project).values("min_gain", "min_kept").first()
    Gate.objects.update_or_create(project=project, defaults={"min_gain": min_gain, "min_kept": min_kept})
    audit(project, actor, "set the gate", project, before=before, after={"min_gain": min_gain, "min_kept": min_kept})
