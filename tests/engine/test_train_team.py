"""Two processes that share every step: the numbers of one, and nothing lost whichever of them dies."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.engine.engine_process import ENVIRONMENT, ROOT, Finished, finish, run_engine, start, stop_after, train_here
from tests.engine.test_train_objectives import fields_for, make_pairs


@pytest.fixture(scope="module")
def fields(lesson_fields: dict[str, Any]) -> dict[str, Any]:
    return {**lesson_fields, "dropout": 0.0, "sample_answers": 1}


@pytest.fixture(scope="module")
def alone(fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return train_here({**fields, "run_dir": str(tmp_path_factory.mktemp("alone") / "run")})


def losses(finished: Finished, name: str = "step") -> dict[int, float]:
    return {event["step"]: event["loss"] for event in finished.of(name)}


def in_two(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {"task": "train", **fields, "processes": 2, "run_dir": str(folder / "run")}


def test_two_processes_learn_as_one(fields: dict[str, Any], alone: Finished, tmp_path: Path) -> None:
    finished = run_engine(tmp_path, in_two(fields, tmp_path))
    assert finished.code == 0, finished.log
    assert finished.of("started")[0]["processes"] == 2
    assert [event["step"] for event in finished.of("step")] == list(range(1, 13))  # told once
    assert losses(finished) == pytest.approx(losses(alone), abs=1e-4)
    assert losses(finished, "eval") == pytest.approx(losses(alone, "eval"), abs=1e-4)
    found, wanted = finished.of("rows")[-1]["losses"], alone.of("rows")[-1]["losses"]
    assert dict(map(tuple, found)) == pytest.approx(dict(map(tuple, wanted)), abs=1e-3)
    assert len(finished.of("sample")) == len(alone.of("sample"))


def test_two_processes_prefer_as_one(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    fields = fields_for(lesson_fields, tmp_path, make_pairs(11, 2), objective="kto", batch_rows=5, rehearsal_share=0)
    alone = train_here({**fields, "run_dir": str(tmp_path / "alone")})
    finished = run_engine(tmp_path, in_two(fields, tmp_path))
    assert finished.code == 0, finished.log
    assert losses(finished) == pytest.approx(losses(alone), abs=1e-4)
    margins = [[event["reward_margin"] for event in told.of("step")] for told in (finished, alone)]
    assert margins[0] == pytest.approx(margins[1], abs=1e-3)


def test_torchrun_starts_the_same_training(fields: dict[str, Any], alone: Finished, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"task": "train", **fields, "run_dir": str(tmp_path / "run")}))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.Popen(
        [*torchrun, "-m", "training_app.engine", str(path)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    finished = finish(process)
    assert finished.code == 0, finished.log
    assert losses(finished) == pytest.approx(losses(alone), abs=1e-4)


@pytest.mark.parametrize("victim", ["first, killed", "second, killed", "first, told to stop"])
def test_whoever_dies_the_run_goes_on(victim: str, fields: dict[str, Any], alone: Finished, tmp_path: Path) -> None:
    spec = in_two(fields, tmp_path)
    process = start(tmp_path, spec)  # without a pipe: its end would be a second request to stop, and race with the kill
    before = stop_after(process, 6)
    second = psutil.Process(process.pid).children()[0]
    if victim == "second, killed":
        second.kill()
    else:
        process.send_signal(signal.SIGKILL if "killed" in victim else signal.SIGTERM)
    ended = finish(process)
    assert ended.code == {"first, killed": -signal.SIGKILL, "second, killed": 1, "first, told to stop": 130}[victim]
    deadline = time.monotonic() + 120
    while second.is_running() and second.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not second.is_running() or second.status() == psutil.STATUS_ZOMBIE, "a member outlived the first"

    resumed = run_engine(tmp_path, spec)
    assert resumed.code == 0, resumed.log
    assert resumed.of("started")[0]["start_step"] >= 4
    told = {e["step"]: e["loss"] for e in (*before, *ended.events, *resumed.events) if e["event"] == "step"}
    assert told == pytest.approx(losses(alone), abs=1e-3)
