"""The long work of a model on its way to its users: export, publish, switch and withdraw, look at servers, pull."""

from functools import partial
from typing import Any

from django.contrib.auth.models import User

from finetune_site import bucket
from finetune_site.jobs.handle import EngineFailed, Handle, JobInputError
from finetune_site.jobs.kinds import job_kind
from finetune_site.jobs.models import Job
from training_app import serving
from training_app.jobs.runs import prepare_base, run_engine, work_folder
from training_app.models import Export, OllamaPull, Publication, PublishedModel
from training_app.ollama import PASSING, Client, OllamaError
from training_app.publishing import Publishing, Refused, export_spec, one_at_a_time, remove_leftovers, wait_for_turn
from training_app.services import artefacts, housekeeping
from training_app.services import publishing as services
from training_app.services.runs import TrainingError
from training_app.serving import client_of

STAGES = {
    "merge": "Merging the adapter into its base",
    "convert": "Writing the GGUF",
    "quantise": "Quantising",
    "check": "Reading the GGUF back",
    "compare": "Comparing log-probabilities with the merged model",
    "pack": "Packing the files",
}


@job_kind("training.export", title="Export", max_attempts=3, takes_disk=True)
def export(handle: Handle) -> None:
    """Write a run's model as one file and prove it."""
    entry = _of(Export.objects.select_related("run__base", "run__version"), job=handle.job)
    make_export(handle, entry)
    if entry.result["problem"]:
        raise JobInputError(entry.result["problem"])


@job_kind("training.publish", title="Publish to Ollama", max_attempts=5, takes_disk=True)
def publish(handle: Handle) -> None:
    """Bring a model into Ollama, step by step; a later attempt goes on after the last step that passed."""
    found = Publication.objects.select_related("model__server", "model__project", "run__base", "run__version")
    publication = _of(found, job=handle.job)
    if publication.outcome == Publication.Outcome.PUBLISHED:
        return  # the attempt before was lost right behind it
    entry, _ = Export.objects.get_or_create(
        run=publication.run, format=publication.format, defaults={"created_by": publication.created_by}
    )
    handle.write(lambda: services.note_end(publication, Publication.Outcome.WORKING))
    with client_of(publication.model.server) as client:
        try:
            services.check_server(publication.model.server)
            client.look()  # a wrong key is said now, not after an hour of merging
            remove_leftovers(client, publication)
            make_export(handle, entry)
        except (TrainingError, OllamaError, JobInputError) as error:
            problem, is_passing = str(error), isinstance(error, OllamaError) and error.trouble in PASSING
            if is_passing and handle.job.attempt < handle.job.max_attempts:
                raise EngineFailed(problem) from None
            handle.write(lambda: services.note_end(publication, Publication.Outcome.FAILED, problem))
            raise JobInputError(problem) from None
        Publishing(handle, publication, client, partial(_engine, handle)).run()


@job_kind("training.change_published", title="Change a published model", max_attempts=3)
def change_published(handle: Handle) -> None:
    """Switch the stable name, withdraw a version, or remove a candidate that was given up."""
    model = _of(PublishedModel.objects.select_related("server"), switch_job=handle.job)
    wait_for_turn(handle, model)
    publication = model.publications.get(pk=model.wish["publication"])
    by = User.objects.get(pk=model.wish["by"])
    try:
        with client_of(model.server) as client:
            _change(handle, client, publication, by, model.wish)
    except Refused as error:
        raise JobInputError(str(error)) from None
    except OllamaError as error:
        if error.trouble in PASSING:
            raise EngineFailed(str(error)) from None
        raise JobInputError(str(error)) from None


@job_kind("training.pull", title="Fetch a model into Ollama", max_attempts=3)
def pull(handle: Handle) -> None:
    """Have an Ollama fetch a model; a later attempt goes on where its registry's layers are."""
    wanted = OllamaPull.objects.select_related("server").get(job=handle.job)

    def progress(status: str, done: int, total: int) -> None:
        handle.check()
        handle.progress(done, total or None, unit="bytes", message=status.capitalize())

    try:
        with client_of(wanted.server) as client:
            client.pull(wanted.name, progress)
    except OllamaError as error:
        if error.trouble in PASSING:
            raise EngineFailed(str(error)) from None
        raise JobInputError(str(error)) from None
    serving.look(wanted.server_id)


def _change(handle: Handle, client: Client, publication: Publication, by: User, wish: dict[str, Any]) -> None:
    model = publication.model
    if wish["what"] == "switched":
        there = client.find(publication.tag)
        if there is None or there.digest != publication.digest:
            raise Refused(
                f"{publication.tag} is not in Ollama any more as it was published, so nothing was switched. Publish it "
                "again."
            )
        client.copy(publication.tag, model.stable_tag)
        handle.write(lambda: services.note_switched(publication, by, wish["reason"]))
    elif wish["what"] == "withdrew":
        if model.current_id == publication.pk:
            client.delete(model.stable_tag)
        client.delete(publication.tag)
        handle.write(lambda: services.note_withdrawn(publication, by))
    else:
        client.delete(publication.candidate)


def make_export(handle: Handle, entry: Export) -> None:
    """See that an export's file is there, made and proved by the engine; what was found stands with the export."""
    prepare_base(handle, entry.run.base)
    artefacts.bring_run(entry.run)
    with one_at_a_time(handle, entry):
        entry.refresh_from_db(fields=["result"])
        if entry.is_ready:
            bucket.fetch(entry.path, entry.result["sha256"])
            return

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "stage":
                handle.progress(0, message=STAGES[event["name"]])

        result = run_engine(handle, export_spec(entry), entry.folder, on_event=on_event)
        entry.result = result
        if not result["problem"]:
            bucket.put(entry.path)
        handle.write(lambda: Export.objects.filter(pk=entry.pk).update(result=result))
    housekeeping.measure_disk(entry.run)


def _of(rows: Any, **of: Job) -> Any:
    """The row that a job works for; a job that was replaced meanwhile has none, and says so."""
    found = rows.filter(**of).first()
    if found is None:
        raise JobInputError("Another job has taken this one's place. Look at the page of what it worked on.")
    return found


def _engine(handle: Handle, spec: dict[str, Any]) -> dict[str, Any]:
    folder = work_folder(handle)
    return run_engine(handle, {**spec, "out_dir": str(folder)}, folder)
