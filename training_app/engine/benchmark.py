"""Task `benchmark`: public benchmarks by lm-eval on the base and on the tuned model, the same rows for both.

Each task has its outcome: measured, or why not. A stopped one goes on with the next task.
"""

import json
import logging
import math
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune_site.lib.channel import Channel, InputError, read_journal
from training_app.engine.spec import BenchmarkSpec
from training_app.engine.suites import INSTALL, is_installed, own_tasks

SIDES = ("base", "tuned")
BOOTSTRAPS = 1000  # of the metrics whose standard error has no formula
ALIASES = {"acc": "accuracy", "acc_norm": "accuracy, answers' lengths evened out"}


def benchmark(spec: BenchmarkSpec, channel: Channel) -> dict[str, Any]:
    """Append a line for each model and task to `figures.jsonl`; return the figures of both side by side."""
    if not is_installed():
        raise InputError(INSTALL)
    from training_app.engine.adapters import trained_folder

    trained_folder(spec.run_dir, spec.method)  # refused before anything is measured
    out = Path(spec.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    done = {(line["side"], line["task"]): line for line in read_journal(out / "figures.jsonl")}
    manager = _task_manager(spec)
    reasons = {name: reason for name in spec.tasks if (reason := _unloadable(manager, name, channel))}
    wanted = [name for name in spec.tasks if name not in reasons]
    total = len(SIDES) * len(wanted)
    channel.emit("started", done=len(done), total=total)
    if not wanted:
        raise InputError(" ".join(reasons.values()))
    with (out / "figures.jsonl").open("a", encoding="utf-8") as figures:
        figures.write("\n")  # a line that a kill tore stays alone
        for side in SIDES:
            missing = [name for name in wanted if (side, name) not in done]
            model = _load(spec, side, channel) if missing else None
            for name in missing:
                channel.check()
                line = {"side": side, "task": name, **_measure(model, manager, name, spec)}
                figures.write(json.dumps(line, ensure_ascii=False) + "\n")
                figures.flush()
                done[side, name] = line
                channel.emit("figures", done=len(done), total=total, side=side, task=name)
    tasks = {name: _together(done["base", name], done["tuned", name]) for name in wanted}
    skipped = {name: {"rows": 0, "version": "", "metrics": {}, "reason": reason} for name, reason in reasons.items()}
    return {"lm_eval": version("lm-eval"), "limit": spec.limit, "tasks": {**tasks, **skipped}}


def _task_manager(spec: BenchmarkSpec) -> Any:
    # Metrics of the package `evaluate` are programs that it would fetch and run.
    os.environ["HF_EVALUATE_OFFLINE"] = "1"
    os.environ.setdefault("TQDM_DISABLE", "1")  # thousands of lines in the log
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    from lm_eval.tasks import TaskManager

    own = set(own_tasks(spec.tasks_dir))
    # Reading lm-eval's own 14,000 files takes seconds.
    has_others = not set(spec.tasks) <= own
    return TaskManager(include_path=spec.tasks_dir or None, include_defaults=has_others)


def _unloadable(manager: Any, name: str, channel: Channel) -> str:
    """Why a task cannot be run here; empty when its rows are at hand."""
    channel.check()
    try:
        manager.load([name])
    except OSError as error:  # datasets raises its kinds for what is neither kept here nor to be had
        return f"{name}: its rows are not on this machine and could not be fetched ({str(error)[:200]})."
    except Exception as error:  # a task's file is somebody's program
        return f"{name}: lm-eval cannot read this task ({type(error).__name__}: {str(error)[:200]})."
    return ""


def _load(spec: BenchmarkSpec, side: str, channel: Channel) -> Any:
    """One of the models as lm-eval asks it; a wish to stop is heard before every batch."""
    from lm_eval.models.huggingface import HFLM

    from training_app.engine.hardware import choose_machine
    from training_app.engine.models import load_base, load_tuned
    from training_app.engine.template import load_tokenizer

    class Watched(HFLM):
        def _model_call(self, *arguments: Any, **named: Any) -> Any:
            channel.check()
            return super()._model_call(*arguments, **named)

        def _model_generate(self, *arguments: Any, **named: Any) -> Any:
            channel.check()
            return super()._model_generate(*arguments, **named)

    machine = choose_machine(spec.threads, spec.device, spec.dtype)
    if side == "base":
        model = load_base(spec.base_dir, machine.device)
    else:
        model = load_tuned(spec.base_dir, spec.run_dir, spec.method, machine.device)
    channel.check()
    model = model.to(machine.dtype).eval()
    return Watched(pretrained=model, tokenizer=load_tokenizer(spec.base_dir), batch_size=spec.batch_rows)


def _measure(model: Any, manager: Any, name: str, spec: BenchmarkSpec) -> dict[str, Any]:
    """Figures of one model in one task, of the same rows in the same order for every model."""
    from lm_eval.evaluator import simple_evaluate

    found = simple_evaluate(
        model=model,
        tasks=[name],
        task_manager=manager,
        limit=spec.limit or None,
        bootstrap_iters=BOOTSTRAPS,
        log_samples=False,
        random_seed=spec.seed,
        numpy_random_seed=spec.seed,
        torch_random_seed=spec.seed,
        fewshot_random_seed=spec.seed,
    )
    values = found["results"][name]
    better = found["higher_is_better"].get(name) or {}
    metrics = {}
    for key, value in values.items():
        metric, _, kind = key.partition(",")
        if kind and not metric.endswith("_stderr") and (number := _number(value)) is not None:
            metrics[metric if kind == "none" else f"{metric}, {kind}"] = {
                "value": number,
                "error": _number(values.get(f"{metric}_stderr,{kind}")),
                "is_higher_better": better.get(metric, True) is not False,
            }
    rows = sum(counts["effective"] for counts in found["n-samples"].values())
    return {"rows": rows, "version": str(found["versions"].get(name, "")), "metrics": metrics}


def _together(base: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
    metrics = {
        ALIASES.get(name, name): {
            "base": figure["value"],
            "base_error": figure["error"],
            "tuned": tuned["metrics"][name]["value"],
            "tuned_error": tuned["metrics"][name]["error"],
            "is_higher_better": figure["is_higher_better"],
        }
        for name, figure in base["metrics"].items()
        if name in tuned["metrics"]
    }
    return {"rows": base["rows"], "version": base["version"], "metrics": metrics, "reason": ""}


def _number(value: Any) -> float | None:
    """A figure that can be kept; lm-eval writes “N/A” where there is no standard error."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return round(float(value), 6)
