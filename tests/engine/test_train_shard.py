"""A base split over two processes: the numbers of one, each holds half, and nobody waits for the other in vain."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from finetune_site.lib.channel import InputError
from tests.engine.engine_process import Finished, finish, run_engine, start, stop_after, train_here
from tests.engine.test_train_objectives import fields_for, make_pairs
from tests.engine.test_train_team import in_two, losses
from training_app.engine.spec import TrainSpec


@pytest.fixture(scope="module")
def fields(lesson_fields: dict[str, Any]) -> dict[str, Any]:
    return {**lesson_fields, "dropout": 0.0, "sample_answers": 1, "micro_batch_tokens": 100}


@pytest.fixture(scope="module")
def alone(fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return train_here({**fields, "run_dir": str(tmp_path_factory.mktemp("alone") / "run")})


def test_a_split_base_learns_as_a_whole_one(fields: dict[str, Any], alone: Finished, tmp_path: Path) -> None:
    finished = run_engine(tmp_path, {**in_two(fields, tmp_path), "shard": True})
    assert finished.code == 0, finished.log
    split, whole = (told.of("started")[0]["weights_bytes"] for told in (finished, alone))
    adapter = 4 * alone.of("started")[0]["trainable_parameters"]
    assert split - adapter == pytest.approx((whole - adapter) / 2, rel=0.05)
    assert losses(finished) == pytest.approx(losses(alone), abs=1e-4)
    assert losses(finished, "eval") == pytest.approx(losses(alone, "eval"), abs=1e-4)
    assert [event["answer"] for event in finished.of("sample")] == [event["answer"] for event in alone.of("sample")]


def test_preferences_with_fewer_validation_rows_than_processes(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    """One member has nothing to look at, and of a step's three pairs one member has two: both pass as often."""
    fields = fields_for(lesson_fields, tmp_path, make_pairs(7, 1), objective="dpo", batch_rows=3, rehearsal_share=0)
    fields |= {"micro_batch_tokens": 16}
    alone = train_here({**fields, "run_dir": str(tmp_path / "alone")})
    finished = run_engine(tmp_path, {**in_two(fields, tmp_path), "shard": True})
    assert finished.code == 0, finished.log
    assert losses(finished) == pytest.approx(losses(alone), abs=1e-4)
    assert losses(finished, "eval") == pytest.approx(losses(alone, "eval"), abs=1e-4)


@pytest.mark.parametrize("manner", ["kill", "terminate"])
def test_a_split_run_that_stopped_goes_on_with_a_whole_base(
    manner: str, fields: dict[str, Any], alone: Finished, tmp_path: Path
) -> None:
    process = start(tmp_path, {**in_two(fields, tmp_path), "shard": True}, stdin=subprocess.PIPE)
    stop_after(process, 6)
    process.send_signal(signal.SIGKILL if manner == "kill" else signal.SIGTERM)
    stopped = finish(process)
    assert stopped.code == (130 if manner == "terminate" else -signal.SIGKILL)
    again = train_here({**fields, "run_dir": str(tmp_path / "run")})
    assert again.of("started")[0]["start_step"] > 0
    assert losses(again)[12] == pytest.approx(losses(alone)[12], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "full", "learning_rate": 1e-4}, "goes with lora and dora"),
        ({"quantization": "4bit"}, "without quantization"),
        ({"processes": 1}, "raise processes to 2"),
    ],
)
def test_what_cannot_be_split_is_refused(change: dict[str, Any], said: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=said):
        TrainSpec(**{**fields, "run_dir": "/nowhere", "processes": 2, "shard": True, **change})
