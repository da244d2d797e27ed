"""The long work of this app: look at a run, train, evaluate. Each may run again from the start without doing harm."""

import fcntl
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from datasets_app.servers import engine_environment
from finetune_site.jobs.handle import Handle, JobInputError
from finetune_site.jobs.kinds import job_kind
from finetune_site.lib.channel import load_json, read_journal, write_json
from finetune_site.lib.process import HUB_TOKENS
from training_app.engine.spec import BenchmarkSpec, EvaluateSpec, PrepareSpec
from training_app.models import BaseModel, Benchmark, Evaluation, EvaluationRow, Grade, Judgement, Run
from training_app.series import Series
from training_app.services import artefacts, housekeeping, sweeps
from training_app.services import runs as services
from training_app.serving import compare_base

ENGINE = "training_app.engine"
PRELOAD = f"{ENGINE}.preload"
# What alone carries a model server's key into an engine.
TAKE_OVER_SECONDS = 1.0


@job_kind("training.preview", title="Look at run", max_attempts=2)
def preview(handle: Handle) -> None:
    """Tokenize and estimate; the result stands on the run's page before it starts."""
    run = Run.objects.select_related("version", "base", "start").get(preview_job=handle.job)
    settle_base(handle, run)
    artefacts.bring_run(run)
    out = work_folder(handle)
    handle.progress(0, message="Reading the version and measuring this machine; some seconds")
    result = run_engine(handle, {"task": "preview", **run.spec, **threads(), "out_dir": str(out)}, out)
    handle.write(lambda: Run.objects.filter(pk=run.pk).update(preview=result))
    shutil.rmtree(out, ignore_errors=True)


@job_kind("training.train", title="Fine-tune", queue="gpu", max_attempts=10, takes_disk=True)
def train(handle: Handle) -> None:
    """Train, or go on from the newest checkpoint; every step's numbers become rows and reach the pages."""
    chosen = Run.objects.select_related("project", "version", "base", "start", "created_by")
    run = chosen.get(job=handle.job)
    keeper = artefacts.Keeper(run, lambda: handle.write(lambda: None))
    series = Series(handle, run)
    spec = {"task": "train", **run.spec, **threads(), "run_dir": str(run.folder), "ray_address": settings.RAY_ADDRESS}
    run.folder.mkdir(parents=True, exist_ok=True)

    def on_event(event: dict[str, Any]) -> None:
        series.take(event)
        if event["event"] == "checkpoint":
            keeper.checkpoint()

    try:
        settle_base(handle, run)
        artefacts.bring_run(run, to_train=True)
        handle.progress(0, message="Reading the rows and loading the model")
        with keeper.at_work():
            result = run_engine(handle, spec, run.folder, on_event=on_event)
    except JobInputError:
        handle.write(lambda: sweeps.advance(run))
        raise
    finally:
        series.flush_quietly()
        housekeeping.measure_disk(run)
        keeper.keep_quietly()
    keeper.make_sure()  # before a row says that it is done
    handle.write(lambda: Run.objects.filter(pk=run.pk).update(result=result))
    handle.write(lambda: _evaluate_after(run))
    handle.write(lambda: sweeps.advance(run))


@job_kind("training.evaluate", title="Evaluate", queue="gpu", max_attempts=3)
def evaluate(handle: Handle) -> None:
    """Ask both models; one row a question, then the sums."""
    evaluation = Evaluation.objects.select_related("run__version", "run__base", "run__start").get(job=handle.job)
    run, out, rows = evaluation.run, work_folder(handle), []
    prepare_base(handle, run.base)
    artefacts.bring_run(run)
    shared = {name: value for name, value in run.spec.items() if name in EvaluateSpec.__dataclass_fields__}
    del shared["batch_rows"]  # the training's, not ours
    spec = {"task": "evaluate", **shared, **threads(), "run_dir": str(run.folder), "out_dir": str(out)}

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            handle.progress(event["done"], event["total"], unit="answers")
        elif event["event"] == "row":
            rows.append({name: event[name] for name in _ROW_FIELDS if name in event})

    result = run_engine(handle, spec, out, on_event=on_event)

    def keep() -> None:
        evaluation.rows.all().delete()
        EvaluationRow.objects.bulk_create([EvaluationRow(evaluation=evaluation, **row) for row in rows], batch_size=500)
        Evaluation.objects.filter(pk=evaluation.pk).update(summary=result)

    handle.write(keep)
    shutil.rmtree(out, ignore_errors=True)


@job_kind("training.judge", title="Judge answers", max_attempts=3)
def judge(handle: Handle) -> None:
    """Have a model score answers; each score becomes a row as soon as it is there, and a later attempt goes on."""
    judgement = Judgement.objects.select_related("server", "rubric").get(job=handle.job)
    out, server, taken_at = work_folder(handle), judgement.server, 0.0
    _write_answers(judgement, out / "rows.jsonl")
    llm = {"provider": server.provider, "base_url": server.base_url, "context_window": server.context_window}
    spec = {
        "task": "judge",
        "rows_path": str(out / "rows.jsonl"),
        "out_dir": str(out),
        "rubric": judgement.rubric.text,
        "llm": {**llm, "model": judgement.model},
    }
    env = engine_environment(server)

    def on_event(event: dict[str, Any]) -> None:
        nonlocal taken_at
        if event["event"] == "started":
            handle.write(lambda: Judgement.objects.filter(pk=judgement.pk).update(digest=event["digest"]))
        if event["event"] in ("started", "grade"):
            handle.progress(event["done"], event["total"], unit="answers")
        if event["event"] == "grade" and time.monotonic() - taken_at > TAKE_OVER_SECONDS:
            _take_over_grades(handle, judgement, out)
            taken_at = time.monotonic()

    try:
        result = run_engine(handle, spec, out, on_event=on_event, env=env)
    except JobInputError:
        _take_over_grades(handle, judgement, out)
        raise
    _take_over_grades(handle, judgement, out)
    handle.write(lambda: Judgement.objects.filter(pk=judgement.pk).update(summary=result, digest=result["digest"]))
    shutil.rmtree(out, ignore_errors=True)


@job_kind("training.benchmark", title="Run benchmarks", queue="gpu", max_attempts=3)
def benchmark(handle: Handle) -> None:
    """Tasks of lm-eval on both models; a later attempt goes on with the next task."""
    found = Benchmark.objects.select_related("run__version", "run__base", "run__start").get(job=handle.job)
    run, out = found.run, work_folder(handle)
    prepare_base(handle, run.base)
    artefacts.bring_run(run)
    shared = {name: value for name, value in run.spec.items() if name in BenchmarkSpec.__dataclass_fields__}
    del shared["batch_rows"]  # the training's, not ours
    spec = {
        "task": "benchmark",
        **shared,
        **threads(),
        "run_dir": str(run.folder),
        "out_dir": str(out),
        "tasks": found.tasks,
        "tasks_dir": settings.LM_EVAL_TASKS,
        "limit": found.limit,
    }

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] in ("started", "figures"):
            handle.progress(event["done"], event["total"], unit="measurements")

    handle.progress(0, message="Reading the tasks and loading the base model")
    result = run_engine(handle, spec, out, on_event=on_event, env=_hub_token())
    handle.write(lambda: Benchmark.objects.filter(pk=found.pk).update(summary=result))
    shutil.rmtree(out, ignore_errors=True)


_ROW_FIELDS = [field.name for field in EvaluationRow._meta.fields if field.name not in {"id", "evaluation"}]


def settle_base(handle: Handle, run: Run) -> None:
    """Make a run's base ready and, before the run starts, hold it against Ollama and keep with the run what it is."""
    prepare_base(handle, run.base)
    if run.started:
        return
    compare_base(run.base)
    run.base = BaseModel.objects.select_related("server__ollama_state").get(pk=run.base_id)
    if told := run.base.contradiction:
        raise JobInputError(told)
    handle.write(lambda: services.note_identity(run))


@job_kind("training.make_ready", title="Make base model ready", max_attempts=2)
def make_ready(handle: Handle) -> None:
    """Before any run needs it: fetch or convert the weights, and hold them against Ollama."""
    base = BaseModel.objects.select_related("server").get(job=handle.job)
    prepare_base(handle, base)
    compare_base(base)


def prepare_base(handle: Handle, base: BaseModel) -> None:
    """Make a base model ready once per machine, however many jobs need it at the same time."""
    base.folder.parent.mkdir(parents=True, exist_ok=True)
    with base.folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        artefacts.bring_base(base)
        if not (base.folder / "result.json").exists():
            handle.progress(0, message=f"Making {base} ready for training; once, about a minute")
            spec = PrepareSpec(base.source, str(base.folder), base.location, settings.OLLAMA_MODELS)
            work = work_folder(handle)
            run_engine(handle, {"task": "prepare", **vars(spec)}, work, result=base.folder, env=_hub_token())
        artefacts.keep_base(base)
        facts = load_json(base.folder / "result.json")
    if base.facts != facts:
        handle.write(lambda: BaseModel.objects.filter(pk=base.pk).update(facts=facts, ready_at=timezone.now()))


def run_engine(
    handle: Handle,
    spec: dict[str, Any],
    folder: Path,
    *,
    on_event: Any = None,
    result: Path | None = None,
    env: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Run the engine on a spec kept in `folder`, its log beside it; returns its result."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "spec.json"
    write_json(path, spec)
    on_event = on_event or (lambda event: None)
    handle.run_engine(ENGINE, [str(path)], log_path=folder / "log.txt", on_event=on_event, env=env, preload=preload())
    return load_json((result or folder) / "result.json")


def _write_answers(judgement: Judgement, path: Path) -> None:
    """The questions that were chosen when the judgement was started, with both answers."""
    rows = EvaluationRow.objects.filter(grades__judgement=judgement).distinct().order_by("index")
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            fields = {
                "row": row.pk,
                "set": row.set,
                "question": row.question,
                # The general questions have no sentence for a reference: any of these is right.
                "reference": row.answer_key.replace(" | ", " or ") if row.set == "general" else row.reference,
                "base_answer": row.base_answer,
                "tuned_answer": row.tuned_answer,
            }
            stream.write(json.dumps(fields, ensure_ascii=False) + "\n")


def _take_over_grades(handle: Handle, judgement: Judgement, folder: Path) -> None:
    """Rows for what the judge has said since the last time; said again, the later word stands."""
    said = {(line["row"], line["side"]): line for line in read_journal(folder / "grades.jsonl")}
    stored = {(grade.row_id, grade.side): grade for grade in judgement.grades.all()}
    fresh = []
    for key, line in said.items():
        grade, values = stored[key], (line["outcome"], line["score"], line["reason"])
        if (grade.outcome, grade.score, grade.reason) != values:
            grade.outcome, grade.score, grade.reason = values
            fresh.append(grade)
    if fresh:
        handle.write(lambda: Grade.objects.bulk_update(fresh, ["outcome", "score", "reason"], batch_size=200))


def work_folder(handle: Handle) -> Path:
    """The job's own folder."""
    folder: Path = settings.DATA_DIR / "work" / f"job-{handle.job.pk}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def preload() -> str | None:
    """What a process that forks engines imports, where operators want one."""
    return PRELOAD if settings.WARM_TRAINING else None


def threads() -> dict[str, int]:
    """The operator's number of threads, where there is one, wins over the run's."""
    return {"threads": settings.ENGINE_THREADS} if settings.ENGINE_THREADS else {}


def _hub_token() -> dict[str, str]:
    """What opens gated models and tasks on Hugging Face; other engines are not given it."""
    return {name: os.environ[name] for name in HUB_TOKENS if name in os.environ}


def _evaluate_after(run: Run) -> None:
    if run.is_evaluated_after and not run.evaluations.exists():
        services.queue_evaluation(actor=run.created_by, run=run)
