"""The long work of this app: look at a run, train, evaluate. Each may run again from the start without doing harm."""

import fcntl
import shutil
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from finetune_site.jobs.handle import Handle, JobInputError
from finetune_site.jobs.kinds import job_kind
from finetune_site.lib.channel import load_json, write_json
from training_app import chatting
from training_app.engine.spec import EvaluateSpec, PrepareSpec
from training_app.models import BaseModel, Evaluation, EvaluationRow, Run
from training_app.series import Series
from training_app.services import housekeeping, sweeps
from training_app.services import runs as services

ENGINE = "training_app.engine"


@job_kind("training.preview", title="Look at run", max_attempts=2)
def preview(handle: Handle) -> None:
    """Tokenize and estimate; the result stands on the run's page before it starts."""
    run = Run.objects.select_related("version", "base").get(preview_job=handle.job)
    prepare_base(handle, run.base)
    out = _work_folder(handle)
    handle.progress(0, message="Reading the version and measuring this machine; some seconds")
    result = run_engine(handle, {"task": "preview", **run.spec, **_threads(), "out_dir": str(out)}, out)
    handle.write(lambda: Run.objects.filter(pk=run.pk).update(preview=result))
    shutil.rmtree(out, ignore_errors=True)


@job_kind("training.train", title="Fine-tune", queue="gpu", max_attempts=10)
def train(handle: Handle) -> None:
    """Train, or go on from the newest checkpoint; every step's numbers become rows and reach the pages."""
    run = Run.objects.select_related("project", "version", "base", "created_by").get(job=handle.job)
    prepare_base(handle, run.base)
    series = Series(handle, run)
    spec = {"task": "train", **run.spec, **_threads(), "run_dir": str(run.folder), "ray_address": settings.RAY_ADDRESS}
    run.folder.mkdir(parents=True, exist_ok=True)
    handle.progress(0, message="Reading the rows and loading the model")
    try:
        result = run_engine(handle, spec, run.folder, on_event=series.take)
    except JobInputError:
        handle.write(lambda: sweeps.advance(run))
        raise
    finally:
        series.flush_quietly()
        housekeeping.measure_disk(run)
    handle.write(lambda: Run.objects.filter(pk=run.pk).update(result=result))
    handle.write(lambda: _evaluate_after(run))
    handle.write(lambda: sweeps.advance(run))
    housekeeping.clean_up_by_itself()


@job_kind("training.evaluate", title="Evaluate", queue="gpu", max_attempts=3)
def evaluate(handle: Handle) -> None:
    """Ask both models; one row a question, then the sums."""
    evaluation = Evaluation.objects.select_related("run__version", "run__base").get(job=handle.job)
    run, out, rows = evaluation.run, _work_folder(handle), []
    prepare_base(handle, run.base)
    shared = {name: value for name, value in run.spec.items() if name in EvaluateSpec.__dataclass_fields__}
    del shared["batch_rows"]  # the training's, not ours
    spec = {"task": "evaluate", **shared, **_threads(), "run_dir": str(run.folder), "out_dir": str(out)}

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


@job_kind("training.chat", title="Chat", queue="chat", max_attempts=3)
def chat(handle: Handle) -> None:
    """Keep a run's model and its base in memory and answer until nobody asks any more."""
    run = Run.objects.select_related("base").get(chat_job=handle.job)
    prepare_base(handle, run.base)
    spec = {
        "task": "chat",
        "base_dir": str(run.base.folder),
        "run_dir": str(run.folder),
        "method": run.method,
        **_threads(),
    }
    folder = _work_folder(handle)
    write_json(folder / "spec.json", spec)
    chatting.serve(handle, run, ENGINE, folder / "spec.json", run.folder / "chat.log")
    shutil.rmtree(folder, ignore_errors=True)


_ROW_FIELDS = [field.name for field in EvaluationRow._meta.fields if field.name not in {"id", "evaluation"}]


def prepare_base(handle: Handle, base: BaseModel) -> None:
    """Make a base model ready once per machine, however many jobs need it at the same time."""
    base.folder.parent.mkdir(parents=True, exist_ok=True)
    with base.folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base.folder / "result.json").exists():
            handle.progress(0, message=f"Making {base} ready for training; once, about a minute")
            spec = PrepareSpec(source=base.source, location=base.location, out_dir=str(base.folder))
            work = _work_folder(handle)
            run_engine(handle, {"task": "prepare", **vars(spec)}, work, result=base.folder)
        facts = load_json(base.folder / "result.json")
    if base.facts != facts:
        handle.write(lambda: BaseModel.objects.filter(pk=base.pk).update(facts=facts, ready_at=timezone.now()))


def run_engine(
    handle: Handle, spec: dict[str, Any], folder: Path, *, on_event: Any = None, result: Path | None = None
) -> dict[str, Any]:
    """Run the engine on a spec kept in `folder`, its log beside it; returns its result."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "spec.json"
    write_json(path, spec)
    handle.run_engine(ENGINE, [str(path)], log_path=folder / "log.txt", on_event=on_event or (lambda event: None))
    return load_json((result or folder) / "result.json")


def _work_folder(handle: Handle) -> Path:
    folder: Path = settings.DATA_DIR / "work" / f"job-{handle.job.pk}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _threads() -> dict[str, int]:
    """The operator's number of threads, where there is one, wins over the run's."""
    return {"threads": settings.ENGINE_THREADS} if settings.ENGINE_THREADS else {}


def _evaluate_after(run: Run) -> None:
    if run.is_evaluated_after and not run.evaluations.exists():
        services.queue_evaluation(actor=run.created_by, run=run)
