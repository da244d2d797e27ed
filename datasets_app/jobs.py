"""The long work of this app: parse, generate, import, seal, review in Label Studio. Each may run again without harm."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from datasets_app.engine import formats, mapping
from datasets_app.engine.labelling import LAYOUTS
from datasets_app.labelstudio import Client, LabelStudioError, RemoteProject, RemoteTask, Trouble
from datasets_app.measures import measure_of
from datasets_app.models import (
    Dataset,
    DatasetVersion,
    Document,
    Generation,
    GenerationOutcome,
    ImportBatch,
    LabelStudioImport,
    LabelStudioLink,
    LabelStudioSending,
    LabelStudioServer,
    QualityRules,
)
from datasets_app.pulling import pull
from datasets_app.sending import Paused, is_ours, send, tell_decided
from datasets_app.servers import engine_environment
from datasets_app.services import datasets as dataset_services
from datasets_app.services import intake, quality, readings, sealing
from datasets_app.services import labelstudio as services
from finetune_site import bucket
from finetune_site.jobs.handle import EngineFailed, Handle, JobCancelled, JobInputError
from finetune_site.jobs.kinds import job_kind
from finetune_site.lib.channel import read_journal, write_json
from finetune_site.lib.files import write_whole
from finetune_site.lib.kernel import Limits
from finetune_site.lib.sealing import UnsealError

ENGINE = "datasets_app.engine"
PRELOAD = f"{ENGINE}.preload"  # of parsing: the other tasks import little
ROWS_AT_ONCE = 200
KEPT_ERRORS = 100
NAMED_ERRORS = 3
FIRST_TASKS = 10
TAKE_OVER_SECONDS = 1.0
SERVERS_TROUBLES = (Trouble.UNREACHABLE, Trouble.ADDRESS, Trouble.TOKEN)


@job_kind("datasets.parse", title="Parse document", max_attempts=2)
def parse(handle: Handle) -> None:
    """Run the parser in its limits, then replace what was parsed before. What an earlier attempt read stays read."""
    document = Document.objects.get(job=handle.job)
    folder = _folder(handle)
    spec = {
        "input_path": str(bucket.fetch(document.path, document.sha256)),
        "filename": document.name,
        "out_dir": str(folder),
        "reading": document.reading,
        "layout_model": settings.LAYOUT_MODEL,
    }
    limits = Limits(
        memory_bytes=settings.PARSE_MEMORY_BYTES,
        cpu_seconds=settings.PARSE_CPU_SECONDS,
        file_bytes=settings.PARSE_OUTPUT_BYTES,
        wall_seconds=settings.PARSE_WALL_SECONDS,
        open_files=512,
    )

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            handle.progress(event["done"], event["total"], unit=event["unit"])

    # What was forked from a process without layout models has none.
    preload = None if document.reading_settings.strategy == "layout" else PRELOAD
    _run(handle, "parse", spec, folder, on_event, limits, preload=preload)
    result = json.loads((folder / "result.json").read_text())
    measure_of(document.reading_settings)  # its tokenizer is fetched before the transaction
    handle.write(lambda: readings.store(document, folder, result))
    shutil.rmtree(folder, ignore_errors=True)


@job_kind("datasets.cut", title="Cut into passages", max_attempts=3)
def cut(handle: Handle) -> None:
    """Cut a document that people corrected into passages again."""
    for document in Document.objects.filter(job=handle.job):  # none: a later job does it
        measure_of(document.reading_settings)
        handle.write(partial(readings.recut, document))


@job_kind("datasets.generate", title="Generate examples", max_attempts=3)
def generate(handle: Handle) -> None:
    """Run the generator; each passage's examples, requests and outcome become rows as soon as it is done."""
    generation = Generation.objects.select_related("dataset", "server").get(job=handle.job)
    folder = _folder(handle)
    known: set[tuple[int, int]] = set()
    if generation.generator == "llm":  # a model is not asked again for what has its outcome from an earlier job
        known = set(generation.outcomes.values_list("document_id", "chunk_index"))
    if generation.options.get("only_gaps"):
        known |= dataset_services.covered_passages(generation)
    chosen = dataset_services.trial_passages(generation, known) if generation.is_trial else None
    sources = {document.pk: _write_source(document, folder, known, chosen) for document in generation.documents.all()}
    spec, env = _generate_spec(generation, list(sources.values()), folder)
    taken_at, done = 0.0, 0

    def on_event(event: dict[str, Any]) -> None:
        nonlocal taken_at, done
        if event["event"] == "started":
            done = event["done"]
            handle.progress(done, event["total"], unit="passages")
            Generation.objects.filter(pk=generation.pk).update(digest=event["digest"][:80])
        elif event["event"] == "chunk":
            done += 1
            if time.monotonic() - taken_at > TAKE_OVER_SECONDS:
                _take_over(handle, generation, folder)
                told = "" if generation.is_trial else f"{generation.examples.count()} examples so far"
                handle.progress(done, unit="passages", message=told)
                taken_at = time.monotonic()

    _run(handle, "generate", spec, folder, on_event, env=env)
    _take_over(handle, generation, folder)
    handle.write(lambda: dataset_services.note_counts(generation))
    if not generation.is_trial:
        quality.start_check(actor=generation.created_by, dataset=generation.dataset)
    shutil.rmtree(folder, ignore_errors=True)


@job_kind("datasets.check", title="Check quality", max_attempts=2)
def check(handle: Handle) -> None:
    """Look at every example of a dataset, and keep what is found with each."""
    dataset = Dataset.objects.select_related("project").filter(check_job=handle.job).first()
    if dataset is None:  # a later look was asked for, which does it
        return
    folder, rules = _folder(handle), QualityRules.of(dataset.project)
    quality.write_examples(dataset, folder / "examples.jsonl")
    spec = {
        "examples_path": str(folder / "examples.jsonl"),
        "out_dir": str(folder),
        "max_tokens": rules.max_tokens,
        "finds_names": rules.finds_names,
    }

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            handle.progress(event["done"], event["total"], unit="examples")

    _run(handle, "check", spec, folder, on_event)
    for block in quality.blocks(read_journal(folder / "findings.jsonl")):
        handle.check()
        if not Dataset.objects.filter(pk=dataset.pk, check_job=handle.job).exists():
            break  # a later look was asked for, which knows more
        handle.write(partial(quality.keep, dataset, block))
    else:
        handle.write(lambda: quality.count(dataset))
    shutil.rmtree(folder, ignore_errors=True)


@job_kind("datasets.import", title="Import examples", max_attempts=3)
def import_examples(handle: Handle) -> None:
    """Read a file of examples twice: first whether all of it can be used, then into the dataset. A file with a line
    that cannot be used imports nothing, unless its good lines were asked for."""
    batch = ImportBatch.objects.select_related("dataset", "created_by").get(job=handle.job)
    path = bucket.fetch(batch.path, batch.sha256)
    errors: list[dict[str, Any]] = []
    good = wrong = 0
    for item in _import_items(handle, path, batch.format):
        good += isinstance(item, formats.Row)
        if isinstance(item, formats.RowError):
            wrong += 1
            if len(errors) < KEPT_ERRORS:
                errors.append({"line": item.line, "message": item.message})
    found = {"errors": errors, "wrong": wrong, "good": good}
    handle.write(lambda: ImportBatch.objects.filter(pk=batch.pk).update(**found))
    if wrong and good and not batch.takes_good_rows:
        raise JobInputError(_wrong_lines(errors, wrong, good + wrong))
    handle.progress(0, good, unit="examples", message="")
    try:
        rows: list[formats.Row] = []
        for item in _import_items(handle, path, batch.format) if good else ():
            if isinstance(item, formats.Row):
                rows.append(item)
            if len(rows) >= ROWS_AT_ONCE:
                _import_rows(handle, batch, rows)
                rows = []
        _import_rows(handle, batch, rows)
    except JobCancelled:  # nothing is half imported; what somebody has judged or edited already is theirs
        handle.write(lambda: batch.examples.filter(decisions=None, text__number=1).delete())
        raise
    _end_import(handle, batch, errors, "Line", "No line of the file could be used.")


def _import_items(handle: Handle, path: Path, format: str) -> Iterator[formats.Row | formats.RowError]:
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        for number, item in enumerate(formats.read_rows(stream, format)):
            if number % ROWS_AT_ONCE == 0:
                handle.check()
            yield item


def _wrong_lines(errors: list[dict[str, Any]], wrong: int, every: int) -> str:
    """Which lines of a file keep it out, the first ones with their reasons."""
    told = " ".join(f"Line {error['line']}: {error['message']}" for error in errors[:NAMED_ERRORS])
    more = f" And {wrong - NAMED_ERRORS} more." if wrong > NAMED_ERRORS else ""
    return (
        f"{wrong} of {every:,} lines cannot be used, so nothing was imported. {told}{more} Mend them and import the "
        "file again, or import the good lines alone."
    )


def _end_import(handle: Handle, batch: ImportBatch, errors: list[dict[str, Any]], called: str, when_none: str) -> None:
    """Note what came of it. `called`: what an error's number counts."""
    added = batch.examples.count()
    handle.write(lambda: ImportBatch.objects.filter(pk=batch.pk).update(added=added, errors=errors))
    if added:
        quality.start_check(actor=batch.created_by, dataset=batch.dataset)
    if not added:
        first = f" {called} {errors[0]['line']}: {errors[0]['message']}" if errors else ""
        raise JobInputError(f"{when_none}{first}")


@job_kind("datasets.seal", title="Seal version", max_attempts=3, takes_disk=True)
def seal(handle: Handle) -> None:
    """Write the approved examples to Parquet, then the version's row: from then on neither changes."""
    version = DatasetVersion.objects.select_related("dataset__project", "created_by").get(job=handle.job)
    if version.is_sealed:
        return
    sealed = sealing.write_file(version)
    alone = dataset_services.one_alone(version.dataset, version.created_by)
    if told := alone or quality.refusal(version.dataset):  # approved since sealing was asked for
        raise JobInputError(told)
    handle.check()
    handle.write(lambda: sealing.keep(version, sealed, timezone.now()))


@job_kind("datasets.label_studio_send", title="Send to Label Studio", max_attempts=5)
def label_studio_send(handle: Handle) -> None:
    """Push examples; a later attempt finds what an earlier one sent."""
    chosen = LabelStudioSending.objects.select_related("link__server", "link__dataset__project")
    sending = chosen.filter(job=handle.job).first()
    if sending is None:  # parted from Label Studio meanwhile
        return
    handle.progress(0, sending.examples.count(), unit="examples")
    try:
        with _label_studio(handle, sending.link.server, sending.link) as client:
            send(handle, sending, client)
    except EngineFailed:
        handle.write(lambda: LabelStudioSending.objects.filter(pk=sending.pk).update(waits=True))
        raise
    handle.write(lambda: services.hint(sending.link))


@job_kind("datasets.label_studio_sync", title="Bring decisions back from Label Studio", max_attempts=3)
def label_studio_sync(handle: Handle) -> None:
    """Pull what changed, again while hints come in. Label Studio away: the next round of the schedule goes on."""
    links = LabelStudioLink.objects.select_related("server", "dataset__project")
    link = links.filter(sync_job=handle.job).first()
    while link is not None:
        _sync_once(handle, link)
        if handle.write(lambda link=link: services.end_sync(link)):  # type: ignore[misc]
            return
        link = links.filter(pk=link.pk).first()


def _sync_once(handle: Handle, link: LabelStudioLink) -> None:
    """One round; what goes wrong stands with the link."""
    round_ = handle.write(lambda: services.begin_round(link))
    try:
        with _label_studio(handle, link.server, link) as client:
            pull(handle, link, client, round_)
            tell_decided(handle, client, link)
            handle.write(lambda: services.note_in_step(link))
            handle.write(lambda: services.send_on(link))
    except EngineFailed:
        handle.write(lambda: services.put_back(link, round_))
        handle.log("Stopped for now; the page of the dataset says why")
    except JobInputError:
        handle.log("Stopped; the page of the dataset says what to do")


@job_kind("datasets.label_studio_look", title="Look into Label Studio", max_attempts=2)
def label_studio_look(handle: Handle) -> None:
    """Which projects a server has; once one is chosen, what its first tasks hold."""
    entry = LabelStudioImport.objects.select_related("server").get(job=handle.job)
    with _label_studio(handle, entry.server) as client:
        if entry.remote_id is None:
            seen: dict[str, Any] = {"found": [_told(project) for project in client.projects() if not is_ours(project)]}
        else:
            seen = {"first_tasks": [_texts(task) for task in client.first_tasks(entry.remote_id, FIRST_TASKS)]}
    handle.write(lambda: LabelStudioImport.objects.filter(pk=entry.pk).update(**seen))
    if not any(seen.values()):
        raise JobInputError(
            "There is no project but those that this site made."
            if entry.remote_id is None
            else "The project holds no task yet."
        )


@job_kind("datasets.label_studio_import", title="Import from Label Studio", max_attempts=3)
def label_studio_import(handle: Handle) -> None:
    """Every task of a project as an example; a later attempt adds what is missing."""
    entry = LabelStudioImport.objects.select_related("server", "batch").get(batch__job=handle.job)
    batch, layout = entry.batch, LAYOUTS[entry.layout]
    assert batch is not None and entry.remote_id is not None
    errors: list[dict[str, Any]] = []
    rows: list[formats.Row] = []
    with _label_studio(handle, entry.server) as client:
        handle.progress(0, client.project(entry.remote_id).tasks, unit="tasks")
        for count, task in enumerate(client.all_tasks(entry.remote_id), start=1):
            row = mapping.to_row(layout, entry.mapping, _texts(task), task.id)
            if isinstance(row, formats.Row):
                rows.append(row)
            elif len(errors) < KEPT_ERRORS:
                errors.append({"line": row.line, "message": row.message})
            if count % ROWS_AT_ONCE == 0:
                handle.check()
                handle.write(lambda taken=rows: intake.add_imported(batch, taken))  # type: ignore[misc]
                handle.progress(count, unit="tasks")
                rows = []
    handle.write(lambda: intake.add_imported(batch, rows))
    _end_import(handle, batch, errors, "Task", "No task of the project could be used.")


def _told(project: RemoteProject) -> dict[str, Any]:
    return {"id": project.id, "title": project.title or f"project {project.id}", "tasks": project.tasks}


def _texts(task: RemoteTask) -> dict[str, str]:
    return mapping.texts_of(task.data, task.newest.result if task.newest else [])


@contextlib.contextmanager
def _label_studio(handle: Handle, server: LabelStudioServer, link: LabelStudioLink | None = None) -> Iterator[Client]:
    """A client of a server. What goes wrong there is kept with server and link, and ends the job: by a sentence where
    a person is needed, else by trying again."""
    try:
        with Client(server.url, server.token) as client:
            yield client
    except UnsealError:
        problem = "The token cannot be read: the site's key has changed. An operator enters the token again."
        handle.write(lambda: services.note_trouble(server, link, problem, is_servers=True))
        raise JobInputError(problem) from None
    except Paused as error:
        assert link is not None  # only what is in step can fall out of it
        problem = str(error)
        handle.write(lambda: services.note_pause(link, problem))
        raise JobInputError(problem) from None
    except LabelStudioError as error:
        problem, is_servers = str(error), error.trouble in SERVERS_TROUBLES
        handle.write(lambda: services.note_trouble(server, link, problem, is_servers=is_servers))
        if is_servers or error.trouble == Trouble.UNCERTAIN:
            raise EngineFailed(problem) from None
        raise JobInputError(problem) from None


def _run(
    handle: Handle,
    task: str,
    spec: dict[str, Any],
    folder: Path,
    on_event: Any,
    limits: Limits | None = None,
    env: dict[str, str] | None = None,
    preload: str | None = None,
) -> None:
    write_json(folder / "spec.json", spec)
    handle.run_engine(
        ENGINE,
        [task, str(folder / "spec.json")],
        log_path=settings.DATA_DIR / "log" / f"{task}.log",
        on_event=on_event,
        limits=limits,
        env={"TMPDIR": str(folder), **(env or {})},
        preload=preload,
    )


def _folder(handle: Handle) -> Path:
    """The job's own folder; a later attempt finds what an earlier one left."""
    folder: Path = settings.DATA_DIR / "work" / f"job-{handle.job.pk}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_source(
    document: Document, folder: Path, known: set[tuple[int, int]], chosen: set[tuple[int, int]] | None
) -> dict[str, Any]:
    """The parsed document as the files that the generator reads: of its passages those that are not `known`, and of
    these only the `chosen`."""
    paths = {name: folder / f"{name}-{document.pk}.jsonl" for name in ("elements", "chunks")}
    fields = {
        "elements": ("index", "kind", "text", "page", "depth", "section", "html", "is_left_out"),
        "chunks": ("index", "text", "page_start", "page_end", "section", "section_key", "spans"),
    }
    for name, path in paths.items():
        if path.exists():  # an earlier attempt of this job has begun on it
            continue
        rows: Iterator[dict[str, Any]] = getattr(document, name).values(*fields[name]).iterator(chunk_size=1000)
        if name == "chunks":
            wanted = (row for row in rows if (document.pk, row["index"]) not in known)
            rows = (row for row in wanted if chosen is None or (document.pk, row["index"]) in chosen)
        write_whole(path, (f"{json.dumps(row, ensure_ascii=False)}\n".encode() for row in rows))
    return {
        "id": document.pk,
        "name": document.name,
        "elements_path": str(paths["elements"]),
        "chunks_path": str(paths["chunks"]),
    }


def _generate_spec(
    generation: Generation, sources: list[dict[str, Any]], folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """The spec, and the environment that alone carries the key of a model server."""
    options = generation.options
    spec: dict[str, Any] = {"documents": sources, "out_dir": str(folder), "generator": generation.generator}
    env: dict[str, str] = {}
    if generation.generator == "extractive":
        spec["wordings_per_fact"] = options.get("wordings_per_fact", 6)
    elif generation.generator == "llm":
        server = generation.server
        if server is None:
            raise JobInputError("The model server of this generation was removed. Start a new one.")
        spec["llm"] = {
            "provider": server.provider,
            "base_url": server.base_url,
            "context_window": server.context_window,
            "parallel": server.parallel,
            "model": options["model"],
        }
        spec["recipe"] = dataset_services.recipe_of(generation)
        env = engine_environment(server)
    return spec, env


def _take_over(handle: Handle, generation: Generation, folder: Path) -> None:
    """Rows for what the generator has written since the last time. Written twice, they are there once."""
    known = set(generation.outcomes.values_list("document_id", "chunk_index"))
    outcomes = [
        entry for entry in read_journal(folder / "outcomes.jsonl") if (entry["document"], entry["chunk"]) not in known
    ]
    if not outcomes:
        return
    fresh = {(entry["document"], entry["chunk"]) for entry in outcomes}
    rows, calls = (
        [row for row in read_journal(folder / f"{name}.jsonl") if (row["document"], row["chunk"]) in fresh]
        for name in ("examples", "calls")
    )

    sample = [*generation.sample, *rows]

    def write() -> None:
        intake.add_calls(generation, handle.job.pk, calls)
        if generation.is_trial:
            Generation.objects.filter(pk=generation.pk).update(sample=sample)
        else:
            intake.add_generated(generation, rows, handle.job.pk)
        GenerationOutcome.objects.bulk_create(
            [
                GenerationOutcome(
                    generation=generation,
                    document_id=entry["document"],
                    chunk_index=entry["chunk"],
                    outcome=entry["outcome"],
                    made=entry["made"],
                    reason=entry["reason"][:300],
                )
                for entry in outcomes
            ],
            ignore_conflicts=True,
        )

    handle.write(write)
    if generation.is_trial:
        generation.sample = sample


def _import_rows(handle: Handle, batch: ImportBatch, rows: list[formats.Row]) -> None:
    handle.check()
    if rows:
        handle.write(lambda: intake.add_imported(batch, rows))
        handle.progress(batch.examples.count(), unit="examples")
