"""A device without enough memory: smaller parts, the same result; a sentence when nothing smaller is left."""

import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.engine_process import finish, start, train_here
from training_app.engine import objectives
from training_app.engine.loss import token_losses


def run(fields: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    return train_here({**fields, "run_dir": str(folder), "sample_answers": 0}).events


def losses(events: list[dict[str, Any]]) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in events if event["event"] == "step"}


def device_that_holds(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on more than so many tokens at once are too many, as on a device of that size."""

    def measured(model: Any, batch: Any, machine: Any) -> Any:
        if batch.input_ids.shape[1] > tokens:
            raise torch.OutOfMemoryError
        return token_losses(model, batch, machine)

    monkeypatch.setattr(objectives, "token_losses", measured)


def test_smaller_parts_give_the_same_losses(
    lesson_fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {**lesson_fields, "dropout": 0.0}
    undisturbed = run(fields, tmp_path / "large")
    device_that_holds(150, monkeypatch)
    small = run(fields, tmp_path / "small")
    assert losses(small) == pytest.approx(losses(undisturbed), abs=1e-4)
    warnings = [event["message"] for event in small if event["event"] == "warning"]
    assert [text for text in warnings if "memory is too small" in text] == warnings
    assert 1 <= len(warnings) <= 4  # what worked once is kept for the steps that follow


def test_then_activations_are_computed_anew(
    lesson_fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that holds no row unless its activations are not kept: the losses stay the same."""
    fields = {**lesson_fields, "dropout": 0.0}
    undisturbed = run(fields, tmp_path / "large")

    def measured(model: Any, batch: Any, machine: Any) -> Any:
        if torch.is_grad_enabled() and not model.is_activation_checkpointing:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return token_losses(model, batch, machine)

    monkeypatch.setattr(objectives, "token_losses", measured)
    found = run(fields, tmp_path / "small")
    assert losses(found) == pytest.approx(losses(undisturbed), abs=1e-4)
    assert found[-1]["result"]["gradient_checkpointing"] is True
    assert any("gradient checkpointing" in event["message"] for event in found if event["event"] == "warning")


def test_when_one_row_is_too_long_it_says_what_to_do(
    lesson_fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device_that_holds(20, monkeypatch)
    refused = train_here({**lesson_fields, "dropout": 0.0, "run_dir": str(tmp_path / "run")})
    assert re.search(r"does not hold one row of \d+ tokens, .* Start a new run with quantization 4bit", refused.refusal)


@pytest.mark.parametrize("bytes_allowed", [2_000, 60_000])
def test_a_full_disk_is_said_and_the_run_goes_on_later(
    bytes_allowed: int, lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    """No file may grow beyond the limit: first the reading matter does not fit, then a checkpoint does not."""
    fields = {"task": "train", **lesson_fields, "run_dir": str(tmp_path / "run"), "checkpoint_every": 2}
    process = start(tmp_path, {**fields, "sample_answers": 0})
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (bytes_allowed, bytes_allowed))
    refused = finish(process)
    assert refused.code == 2, refused.log
    assert refused.refusal.startswith("The disk that holds the runs is full. Nothing is lost")
    finished = finish(start(tmp_path, {**fields, "sample_answers": 0}))
    assert finished.code == 0, finished.log
    assert [event["step"] for event in finished.of("step")][-1] == 12
