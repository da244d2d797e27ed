"""What can be done to datasets: make, fill, seal."""

from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Max
from django.urls import reverse

from datasets_app.engine.recipes import SHIPPED, Recipe
from datasets_app.engine.spec import AGAIN, OUTCOMES
from datasets_app.models import (
    Chunk,
    Dataset,
    DatasetVersion,
    Document,
    Generation,
    ImportBatch,
    ModelServer,
    RecipeVersion,
    State,
    Tally,
)
from datasets_app.services import quality
from datasets_app.services.errors import DatasetError
from datasets_app.services.storage import Arrival, TooLargeError, arriving
from finetune_site.bucket import BucketError
from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import UNFINISHED
from finetune_site.lib.channel import InputError, read_spec
from finetune_site.projects.models import Project
from finetune_site.projects.quotas import QuotaError, disk_refusal, take_disk
from finetune_site.projects.services import audit

TRIAL_PASSAGES = 5


@transaction.atomic
def create_dataset(*, actor: User, project: Project, name: str, description: str = "") -> Dataset:
    if Dataset.objects.filter(project=project, name=name).exists():
        raise DatasetError(f"The project already has a dataset named “{name}”. Choose another name.")
    dataset = Dataset.objects.create(project=project, name=name, description=description, created_by=actor)
    audit(project, actor, "created the dataset", dataset)
    return dataset


@transaction.atomic
def delete_dataset(*, actor: User, dataset: Dataset) -> None:
    """Remove a dataset with its examples; one that has a version stays, since runs may stand on it."""
    if dataset.versions.exists():
        raise DatasetError("The dataset has versions, on which runs may stand; it cannot be deleted.")
    audit(
        dataset.project,
        actor,
        "deleted the dataset",
        dataset,
        before={"examples": Tally.objects.counts_of(dataset).total},
    )
    dataset.delete()


@transaction.atomic
def start_generation(
    *,
    actor: User,
    dataset: Dataset,
    documents: Iterable[Document],
    generator: str = "extractive",
    server: ModelServer | None = None,
    options: dict[str, Any] | None = None,
    recipe: RecipeVersion | None = None,
    is_trial: bool = False,
) -> Generation:
    """Make examples from parsed documents, in the background. A trial asks a model about some passages alone, and keeps
    what it answers beside the dataset. `options` of a model: `model`, and without the project's `recipe` fields of one.
    """
    chosen = list(documents)
    if not chosen:
        raise DatasetError("Choose at least one document that is parsed.")
    if gone := [document.name for document in chosen if document.withdrawn_at]:
        raise DatasetError(f"“{gone[0]}” is withdrawn: nothing more is made from it. Leave it out.")
    if unready := [document.name for document in chosen if not document.parsed_at]:
        raise DatasetError(f"“{unready[0]}” is not parsed yet. Wait for it, or leave it out.")
    if generator == "llm" and server is None:
        raise DatasetError("Choose a model server, or generate without a model.")
    told = dict(options or {})
    if generator == "llm":
        told["recipe"] = recipe.fields if recipe else told.get("recipe", {"kind": "qa"})
        check_recipe(told["recipe"])
    elif is_trial:
        raise DatasetError("Without a model there is nothing to try: it takes seconds to make them all.")
    generation = Generation.objects.create(
        dataset=dataset,
        generator=generator,
        server=server,
        recipe=recipe,
        options=told,
        is_trial=is_trial,
        created_by=actor,
    )
    generation.documents.set(chosen)
    _enqueue_generation(actor, generation)
    after = {"documents": [str(d) for d in chosen], "generator": generator, **_short(told)}
    audit(dataset.project, actor, "tried a recipe for" if is_trial else "generated examples for", dataset, after=after)
    return generation


def _short(options: dict[str, Any]) -> dict[str, Any]:
    """What of them the trail keeps: a recipe by its name."""
    recipe = options.get("recipe")
    return {**options, "recipe": Recipe(**recipe).version} if recipe else options


def check_recipe(fields: dict[str, Any]) -> Recipe:
    """The recipe of these fields; `DatasetError` says what is wrong with it."""
    try:
        return read_spec(Recipe, fields)
    except InputError as error:
        raise DatasetError(str(error)) from error


def recipe_of(generation: Generation) -> dict[str, Any]:
    """The fields of the recipe that a model was asked by."""
    usual = {"kind": "qa", "settings": {"wordings": generation.options.get("wordings", 3)}}
    found: dict[str, Any] = generation.options.get("recipe", usual)
    return found


def covered_passages(generation: Generation) -> set[tuple[int, int]]:
    """The passages of which the dataset has an example that nobody rejected, made by another generation."""
    kept = generation.dataset.examples.filter(document__in=generation.documents.all(), chunk__isnull=False)
    kept = kept.exclude(state=State.REJECTED).exclude(generation=generation)
    places = kept.order_by().values_list("document_id", "chunk_index").distinct()
    return {(key, index) for key, index in places if index is not None}


def recipe_name(generation: Generation) -> str:
    """What the recipe is called that a model was asked by; empty where none was asked."""
    if generation.generator != "llm":
        return ""
    fields = recipe_of(generation)
    return f"{fields['name']} {fields['number']}" if fields.get("number") else f"{fields['kind']} {SHIPPED}"


def trial_passages(generation: Generation, known: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """The passages that a trial asks about: some of all that are not `known`, evenly over the documents."""
    chunks = Chunk.objects.filter(document__in=generation.documents.all())
    places = chunks.order_by("document", "index").values_list("document_id", "index")
    every = [place for place in places if place not in known]
    step = len(every) / min(TRIAL_PASSAGES, len(every) or 1)
    return {every[int((number + 0.5) * step)] for number in range(min(TRIAL_PASSAGES, len(every)))}


def go_on(*, actor: User, trial: Generation) -> Generation:
    """Make examples from all passages, as a trial did from some."""
    if not trial.is_trial:
        raise DatasetError("This is no trial.")
    return start_generation(
        actor=actor,
        dataset=trial.dataset,
        documents=trial.documents.all(),
        generator=trial.generator,
        server=trial.server,
        options=trial.options,
        recipe=trial.recipe,
    )


@transaction.atomic
def generate_again(*, actor: User, generation: Generation, outcome: str) -> None:
    """Ask the model anew for the passages that ended so, and for those without an outcome; the others stay."""
    locked = Generation.objects.select_for_update().get(pk=generation.pk)
    if locked.is_trial:
        raise DatasetError("A trial is not gone on with: start another one, or make examples from all passages.")
    if locked.generator != "llm":
        raise DatasetError("Without a model the same passages give the same. Generate anew with other settings.")
    if outcome and outcome not in AGAIN:
        raise DatasetError(f"Passages that ended as {', '.join(AGAIN)} can be tried again.")
    if locked.job and not locked.job.is_finished:
        raise DatasetError("The generation is at work. Wait for it, or stop it first.")
    for document in locked.documents.select_related("job"):
        if document.withdrawn_at:
            raise DatasetError(f"“{document}” is withdrawn: nothing more is made from it.")
        cut_at = document.job and document.job.finished_at
        if document.is_busy or (cut_at and cut_at > locked.created_at):
            raise DatasetError(f"“{document}” was cut into other passages since. Generate anew from it.")
    again, _ = locked.outcomes.filter(outcome=outcome).delete()
    if not again and outcome:
        raise DatasetError("No passage ended so any more. Look again.")
    _enqueue_generation(actor, locked)
    after = {"outcome": outcome, "passages": again}
    audit(locked.dataset.project, actor, "generated again for", locked.dataset, after=after)


def note_counts(generation: Generation) -> None:
    """Its outcomes and examples, counted anew."""
    outcomes = {**dict.fromkeys(OUTCOMES, 0), **generation.outcome_counts}
    examples = len(generation.sample) if generation.is_trial else generation.examples.count()
    counts = {"chunks": sum(outcomes.values()), **outcomes, "examples": examples}
    Generation.objects.filter(pk=generation.pk).update(counts=counts)


def _enqueue_generation(actor: User, generation: Generation) -> None:
    names = [document.name for document in generation.documents.all()]
    generation.job = jobs.enqueue(
        project=generation.dataset.project,
        owner=actor,
        kind="datasets.generate",
        label=f"{generation.dataset}: {names[0] if len(names) == 1 else f'{len(names)} documents'}",
        url=reverse("generation", args=[generation.pk]),
    )
    generation.save(update_fields=["job"])


def import_examples(
    *,
    actor: User,
    dataset: Dataset,
    name: str,
    format: str,
    blocks: Iterable[bytes],
    takes_good_rows: bool = False,
) -> ImportBatch:
    """Keep a file of examples and read it in the background. A line that cannot be used keeps all of it out, unless its
    good lines are taken."""
    if told := disk_refusal(dataset.project):
        raise DatasetError(told)
    try:
        with arriving("imports", name, blocks) as arrival:
            return _keep_import(actor, dataset, name, format, arrival, takes_good_rows)
    except (TooLargeError, QuotaError, BucketError) as error:
        raise DatasetError(str(error)) from error


@transaction.atomic
def _keep_import(
    actor: User, dataset: Dataset, name: str, format: str, arrival: Arrival, takes_good_rows: bool
) -> ImportBatch:
    """The file under the name of its content, and its row."""
    take_disk(dataset.project, arrival.size)
    batch = ImportBatch(
        dataset=dataset,
        name=name[:255],
        sha256=arrival.sha256,
        size=arrival.size,
        format=format,
        takes_good_rows=takes_good_rows,
        created_by=actor,
    )
    arrival.keep(batch.path)
    batch.save()
    _enqueue_import(actor, batch)
    audit(dataset.project, actor, "imported examples into", dataset, after={"file": name, "sha256": arrival.sha256})
    return batch


def one_alone(dataset: Dataset, sealer: User) -> str:
    """Why `sealer` may not seal, where the project asks for two people; empty when they may."""
    if not dataset.project.needs_two or not (count := dataset.examples.by_one_alone(sealer).count()):
        return ""
    which = "1 of its examples was" if count == 1 else f"{count} of its examples were"
    return (
        f"{which} made and approved by you alone, and this project asks for two people. Let somebody else judge them, "
        "or seal the version."
    )


@transaction.atomic
def seal_version(
    *, actor: User, dataset: Dataset, validation_share: float = 0.1, recall_share: float = 1.0, note: str = ""
) -> DatasetVersion:
    """Seal the approved examples as the dataset's next version, in the background."""
    Dataset.objects.select_for_update().get(pk=dataset.pk)
    if not dataset.examples.filter(state=State.APPROVED).exists():
        raise DatasetError("The dataset has no approved example. Approve some in review, then seal.")
    if dataset.versions.filter(sealed_at=None, job__state__in=UNFINISHED).exists():
        raise DatasetError("A version of this dataset is being sealed already.")
    if told := one_alone(dataset, actor) or quality.refusal(dataset) or disk_refusal(dataset.project):
        raise DatasetError(told)
    number = (dataset.versions.aggregate(last=Max("number"))["last"] or 0) + 1
    version = DatasetVersion.objects.create(
        dataset=dataset,
        number=number,
        parent=dataset.versions.sealed().first(),
        note=note,
        validation_share=validation_share,
        recall_share=recall_share,
        created_by=actor,
    )
    version.job = jobs.enqueue(
        project=dataset.project,
        owner=actor,
        kind="datasets.seal",
        label=str(version),
        url=reverse("version", args=[version.pk]),
    )
    version.save(update_fields=["job"])
    audit(dataset.project, actor, "sealed", version, after={"validation": validation_share, "recall": recall_share})
    return version


@transaction.atomic
def import_good_rows(*, actor: User, batch: ImportBatch) -> None:
    """Of a file that was kept out for some of its lines, import the others."""
    locked = ImportBatch.objects.select_for_update().get(pk=batch.pk)
    if not locked.wrong or not locked.good or locked.takes_good_rows or not (locked.job and locked.job.is_finished):
        raise DatasetError("There is nothing to take from this file: look at its lines.")
    locked.takes_good_rows = True
    locked.save(update_fields=["takes_good_rows"])
    _enqueue_import(actor, locked)
    after = {"file": locked.name, "good lines": locked.good, "left out": locked.wrong}
    audit(locked.dataset.project, actor, "imported the good lines into", locked.dataset, after=after)


def _enqueue_import(actor: User, batch: ImportBatch) -> None:
    batch.job = jobs.enqueue(
        project=batch.dataset.project,
        owner=actor,
        kind="datasets.import",
        label=f"{batch.dataset}: {batch.name}"[:200],
        url=reverse("import_batch", args=[batch.pk]),
    )
    batch.save(update_fields=["job"])


def settle_tally() -> None:
    """Add the changes up that were counted since the last time, and drop those of datasets that are gone. Readers see
    the sum at every moment; writers are not waited for."""
    with connection.cursor() as cursor:
        cursor.execute(
            "with gone as (delete from datasets_app_tally returning dataset_id, state, change) "
            "insert into datasets_app_tally (dataset_id, state, change) "
            "select dataset_id, state, sum(change) from gone join datasets_app_dataset on id = dataset_id "
            "group by dataset_id, state having sum(change) <> 0"
        )
