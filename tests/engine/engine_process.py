"""Runs the training engine as the site does: a program with a spec file, its events read from standard output.

What speaks of numbers and not of processes is trained here, in the test's own process: starting one takes seconds.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_site.lib.channel import Cancelled, Channel, InputError
from finetune_site.lib.process import Engine
from training_app.jobs.runs import ENGINE, PRELOAD

ROOT = Path(__file__).resolve().parents[2]
WITH_THREADS = {"train", "preview", "evaluate", "chat", "benchmark", "export"}
FEW_THREADS = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
ENVIRONMENT = {**os.environ, **FEW_THREADS}


@dataclass(frozen=True)
class Finished:
    """A finished engine: exit code, events in order, log."""

    code: int
    events: list[dict[str, Any]]
    log: str

    def of(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    @property
    def result(self) -> dict[str, Any]:
        return dict(self.of("done")[0]["result"])

    @property
    def refusal(self) -> str:
        return str(self.of("failed")[0]["message"])


def start(folder: Path, fields: dict[str, Any], *, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
    """Write the spec and start the engine on it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "engine-spec.json"
    path.write_text(json.dumps(_on_one_thread(fields)))
    return subprocess.Popen(
        [sys.executable, "-m", "training_app.engine", str(path)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop_after(process: "subprocess.Popen[str]", step: int) -> list[dict[str, Any]]:
    """Read events until `step` is told."""
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == "step" and events[-1]["step"] == step:
            break
    return events


def finish(process: "subprocess.Popen[str]") -> Finished:
    """Wait for the end and collect what the engine wrote."""
    out, log = process.communicate(timeout=1800)
    return Finished(process.returncode, [json.loads(line) for line in out.splitlines()], log)


def run_engine(folder: Path, fields: dict[str, Any]) -> Finished:
    """Run it to its end as a runner does that keeps PyTorch imported."""
    folder.mkdir(parents=True, exist_ok=True)
    spec, log = folder / "engine-spec.json", folder / "engine-log.txt"
    spec.write_text(json.dumps(_on_one_thread(fields)))
    log.unlink(missing_ok=True)
    events: list[dict[str, Any]] = []
    with Engine(ENGINE, [str(spec)], log_path=log, env=FEW_THREADS, preload=PRELOAD) as engine:
        outcome = engine.run(events.append, lambda: False)
    return Finished(outcome.returncode, events, log.read_text(errors="replace"))


def _on_one_thread(fields: dict[str, Any]) -> dict[str, Any]:
    """Tests run beside each other: each engine has a core, unless a test says otherwise."""
    return {"threads": 1, **fields} if fields.get("task") in WITH_THREADS else fields


class Listener(Channel):
    """Keeps the events in a list instead of writing them."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self._stop_at = stop_at

    @property
    def should_stop(self) -> bool:
        """True once the step at which to stop was told."""
        return self._stop_at is not None and any(event.get("step") == self._stop_at for event in self.events)

    def emit(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def keep_journal(self, path: Path) -> None:
        pass


def train_here(fields: dict[str, Any], stop_at: int | None = None) -> Finished:
    """Task `train` in this process; the exit code and the last event are those of the program."""
    from training_app.engine.spec import TrainSpec
    from training_app.engine.train import train

    return _here(lambda listener: train(TrainSpec(**{"threads": 1, **fields}), listener), Listener(stop_at))


def evaluate_here(fields: dict[str, Any]) -> Finished:
    """Task `evaluate` in this process."""
    from training_app.engine.evaluate import evaluate
    from training_app.engine.spec import EvaluateSpec

    return _here(lambda listener: evaluate(EvaluateSpec(**{"threads": 1, **fields}), listener), Listener())


def _here(task: Callable[[Listener], dict[str, Any]], listener: Listener) -> Finished:
    try:
        listener.emit("done", result=task(listener))
    except InputError as error:
        listener.emit("failed", kind="input", message=str(error))
        return Finished(2, listener.events, "")
    except Cancelled:
        return Finished(130, listener.events, "")
    return Finished(0, listener.events, "")
