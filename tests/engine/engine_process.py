"""Runs the training engine as the site does: a program with a spec file, its events read from standard output."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Finished:
    """A finished engine: exit code, events in order, log."""

    code: int
    events: list[dict[str, Any]]
    log: str

    def of(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    @property
    def refusal(self) -> str:
        return str(self.of("failed")[0]["message"])


def start(folder: Path, fields: dict[str, Any], *, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
    """Write the spec and start the engine on it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "engine-spec.json"
    path.write_text(json.dumps(fields))
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
    out, log = process.communicate(timeout=240)
    return Finished(process.returncode, [json.loads(line) for line in out.splitlines()], log)


def run_engine(folder: Path, fields: dict[str, Any]) -> Finished:
    return finish(start(folder, fields))
