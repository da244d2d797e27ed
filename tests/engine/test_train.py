"""Training as a program: its events, its folder, its exit codes, and that nothing is lost when it is stopped."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.engine.engine_process import Finished, finish, run_engine, start, stop_after, train_here
from tests.engine.tiny import make_rows, write_version

STEPS = 12  # 24 rows in batches of 6, three times


@pytest.fixture(scope="module")
def undisturbed(lesson_fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Path]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return run_engine(folder, {"task": "train", **lesson_fields, "run_dir": str(folder)}), folder


def losses(finished: Finished) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in finished.of("step")}


def test_a_run_tells_every_step_and_leaves_a_whole_folder(undisturbed: tuple[Finished, Path]) -> None:
    finished, folder = undisturbed
    assert finished.code == 0, finished.log
    started = finished.of("started")[0]
    assert (started["total_steps"], started["start_step"], started["train_rows"]) == (STEPS, 0, 24)
    assert list(losses(finished)) == list(range(1, STEPS + 1))
    assert all(event["tokens_per_second"] > 0 and event["memory_bytes"] > 0 for event in finished.of("step"))
    assert [event["step"] for event in finished.of("eval")] == [4, 8, 12]
    samples = [(event["step"], event["example_id"]) for event in finished.of("sample")]
    assert samples == [(step, row) for step in (4, 8, 12) for row in (0, 1, 2)]  # always the same validation rows
    assert finished.of("sample")[0]["question"] == "What is the size of part 0?"
    assert finished.events[-1]["event"] == "done"
    result = json.loads((folder / "result.json").read_text())
    assert result["steps"] == STEPS and result["validation_loss"] == finished.of("eval")[-1]["loss"]
    with safe_open(folder / "adapter" / "adapter_model.safetensors", "pt") as adapter:
        assert any("lora_magnitude_vector" in name for name in adapter.keys())  # noqa: SIM118
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["allocator"] == "libmimalloc.so"
    assert environment["seed"] == 42 and environment["packages"]["torch"] and len(environment["base_sha256"]) == 64
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-4", "step-8"]
    assert not list(folder.rglob("*.part")) and not list(folder.rglob("*.bin"))


@pytest.mark.parametrize("manner", ["kill", "terminate", "end of file"])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    manner: str, undisturbed: tuple[Finished, Path], lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    fields = {"task": "train", **lesson_fields, "run_dir": str(tmp_path / "run")}
    process = start(tmp_path, fields, stdin=subprocess.PIPE)
    before = stop_after(process, 6)
    if manner == "kill":
        os.kill(process.pid, signal.SIGKILL)
    elif manner == "terminate":
        process.terminate()
    elif process.stdin:
        process.stdin.close()
        process.stdin = None
    stopped = finish(process)
    assert stopped.code == (-signal.SIGKILL if manner == "kill" else 130), stopped.log
    if manner != "kill":
        assert stopped.of("checkpoint") and stopped.events[-1]["event"] == "cancelled"
    assert not (tmp_path / "run" / "result.json").exists()

    resumed = run_engine(tmp_path, fields)
    assert resumed.code == 0, resumed.log
    last = 4 if manner == "kill" else (stopped.of("checkpoint"))[-1]["step"]
    assert resumed.of("started")[0]["start_step"] == last
    told = {e["step"]: e["loss"] for e in (*before, *stopped.events, *resumed.events) if e["event"] == "step"}
    assert told == pytest.approx(losses(undisturbed[0]), abs=1e-3)
    assert resumed.of("eval")[-1]["loss"] == pytest.approx(undisturbed[0].of("eval")[-1]["loss"], abs=1e-3)


def test_a_finished_run_is_told_again_and_not_trained_again(
    undisturbed: tuple[Finished, Path], lesson_fields: dict[str, Any]
) -> None:
    _, folder = undisturbed
    before = (folder / "result.json").read_text()
    again = run_engine(folder, {"task": "train", **lesson_fields, "run_dir": str(folder)})
    assert again.code == 0 and not again.of("step")
    assert (folder / "result.json").read_text() == before


def test_full_training_learns_and_leaves_a_whole_model(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    fields = {
        **lesson_fields,
        "method": "full",
        "dtype": "auto",
        "learning_rate": 0.003,
        "epochs": 5,
        "rehearsal_share": 0.17,
    }
    finished = run_engine(tmp_path, {"task": "train", **fields, "run_dir": str(tmp_path / "run")})
    assert finished.code == 0, finished.log
    told = losses(finished)
    assert told[max(told)] < 0.7 * told[1]
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert len(json.loads((tmp_path / "run" / "rehearsal.json").read_text())["rows"]) == 40


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data_sha256": "0" * 64}, "has changed since it was sealed"),
        ({"base_dir": "/nowhere"}, "base model's folder is missing"),
        ({"target_modules": "no_such_layer"}, "target_modules does not fit this model"),
        ({"device": "cuda"}, "this machine has no CUDA device"),
        ({"learning_rate": 9.0}, "learning_rate must not be above 0.1"),
    ],
)
def test_wrong_input_ends_with_2_and_a_sentence(
    change: dict[str, Any], sentence: str, lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    import torch

    if "device" in change and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    finished = run_engine(tmp_path, {"task": "train", **lesson_fields, **change, "run_dir": str(tmp_path / "run")})
    assert finished.code == 2, finished.log
    assert sentence in finished.refusal


def test_a_folder_of_another_run_is_refused(
    undisturbed: tuple[Finished, Path], lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(undisturbed[1] / "checkpoints", tmp_path / "run" / "checkpoints")
    finished = run_engine(tmp_path, {"task": "train", **lesson_fields, "seed": 7, "run_dir": str(tmp_path / "run")})
    assert finished.code == 2 and "holds a run with other data or parameters" in finished.refusal


@pytest.mark.parametrize(("eval_every", "what"), [(100, "The loss"), (1, "The validation loss")])
def test_a_loss_that_is_no_number_stops_the_run(
    eval_every: int, what: str, lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    """Stopped after a few steps, its optimizer poisoned, the run goes on into a loss that is no number."""
    from safetensors.torch import load_file, save_file

    knobs = {"checkpoint_every": 1, "eval_every": eval_every}
    fields = {"task": "train", **lesson_fields, **knobs, "run_dir": str(tmp_path / "run")}
    process = start(tmp_path, fields)
    stop_after(process, 2)
    process.terminate()
    assert finish(process).code == 130
    newest = max((tmp_path / "run" / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    moments = load_file(newest / "optimizer.safetensors")
    poisoned = {name: tensor * float("nan") if "exp_avg" in name else tensor for name, tensor in moments.items()}
    save_file(poisoned, newest / "optimizer.safetensors")
    finished = run_engine(tmp_path, fields)
    assert finished.code == 2 and finished.refusal.startswith(f"{what} is no longer a number"), finished.log
    assert "Start a new run with a lower learning rate (0.002 instead of 0.005)" in finished.refusal
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_damaged_base_model_is_refused(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    base = Path(shutil.copytree(lesson_fields["base_dir"], tmp_path / "base"))
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    change = {"base_dir": str(base), "run_dir": str(tmp_path / "run")}
    finished = run_engine(tmp_path, {"task": "train", **lesson_fields, **change})
    assert finished.code == 2 and "its weights are damaged" in finished.refusal


def test_two_engines_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune_site.lib.channel import InputError
    from training_app.engine import train

    class Calm:
        def check(self) -> None:
            pass

    monkeypatch.setattr(train, "LOCK_WAIT_SECONDS", 0.3)
    with (
        train.only_engine(tmp_path, Calm()),  # type: ignore[arg-type]
        pytest.raises(InputError, match="Another engine is training in this run folder"),
        train.only_engine(tmp_path, Calm()),  # type: ignore[arg-type]
    ):
        pass
    with train.only_engine(tmp_path, Calm()):  # type: ignore[arg-type]
        assert (tmp_path / "lock").exists()


def test_a_fault_of_ours_ends_with_1(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    finished = run_engine(tmp_path, {"task": "train", **lesson_fields, "run_dir": str(blocked / "run")})
    assert finished.code == 1 and finished.of("failed")[0]["kind"] == "error"


def test_a_base_model_that_is_gone_is_told(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    refused = train_here({**lesson_fields, "base_dir": str(tmp_path / "gone"), "run_dir": str(tmp_path / "run")})
    assert refused.code == 2
    assert refused.refusal == "The base model's folder is missing or not prepared. Prepare the base model first."


def test_three_rows_are_enough_to_learn_from(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    """Without validation and with fewer rows than a step takes: it says so, and learns them."""
    path = tmp_path / "version.parquet"
    change = {"data_sha256": write_version(path, make_rows(3)), "data_path": str(path), "epochs": 8}
    finished = train_here({**lesson_fields, **change, "run_dir": str(tmp_path / "run")})
    assert finished.code == 0
    told = " ".join(event["message"] for event in finished.of("warning"))
    assert "There are no validation rows" in told and "There are only 3 training rows" in told
    found = losses(finished)
    assert len(found) == 8 and found[8] < found[1]
