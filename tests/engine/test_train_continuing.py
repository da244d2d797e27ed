"""Going on from a finished run's weights, and a checkpoint written on a person's wish."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.engine_process import finish, start, stop_after, train_here
from training_app.engine.spec import CHECKPOINT_WISH

METHODS: dict[str, dict[str, Any]] = {
    "dora": {"method": "dora"},
    "lora": {"method": "lora"},
    "full": {"method": "full", "learning_rate": 0.003},
}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_run_goes_on_from_another_ones_weights(method: str, lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    fields = {**lesson_fields, "dropout": 0.0, "sample_answers": 0, "epochs": 4, **METHODS[method]}
    first = train_here({**fields, "run_dir": str(tmp_path / "first")})
    assert first.code == 0, first.log
    second = {**fields, "start_dir": str(tmp_path / "first"), "run_dir": str(tmp_path / "second")}
    went_on = train_here(second)
    assert went_on.code == 0, went_on.log
    # Its first step sees the same rows as the first run's first step did, with weights that have learnt them.
    assert went_on.of("step")[0]["loss"] < first.of("step")[0]["loss"] - 0.1
    assert went_on.of("eval")[-1]["loss"] < first.of("eval")[0]["loss"]


def test_an_adapter_of_another_shape_is_refused(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    fields = {**lesson_fields, "max_steps": 1, "sample_answers": 0, "run_dir": str(tmp_path / "first")}
    assert train_here(fields).code == 0
    for change in ({"rank": 8}, {"target_modules": "q_proj"}, {"method": "lora"}):
        second = {**fields, "start_dir": str(tmp_path / "first"), "run_dir": str(tmp_path / "second"), **change}
        finished = train_here(second)
        assert finished.code == 2, finished.log
        assert "an adapter of another shape" in finished.refusal


def test_the_same_spec_gives_the_same_losses(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    told = []
    for name in ("once", "again"):
        fields = {**lesson_fields, "epochs": 1, "run_dir": str(tmp_path / name)}
        told.append([event["loss"] for event in train_here(fields).of("step")])
    assert told[0] == pytest.approx(told[1], abs=1e-6)


def test_a_wish_makes_a_checkpoint_at_once(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fields = {"task": "train", **lesson_fields, "epochs": 40, "checkpoint_every": 0, "run_dir": str(folder)}
    process = start(tmp_path, fields)
    stop_after(process, 5)
    (folder / CHECKPOINT_WISH).touch()
    finished = finish(process)
    assert finished.code == 0, finished.log
    checkpoints = [event["step"] for event in finished.of("checkpoint")]
    assert len(checkpoints) == 1 and checkpoints[0] >= 5
    assert not (folder / CHECKPOINT_WISH).exists()
    assert json.loads((folder / "result.json").read_text())["steps"] == 160
