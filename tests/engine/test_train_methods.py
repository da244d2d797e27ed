"""Every adapter kind learns and merges without a change; early stopping and the watchdog stop a run in time."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.engine.engine_process import evaluate_here, train_here
from training_app.engine.checkpoints import Progress
from training_app.engine.watch import is_patience_over, runs_away, with_look, with_step

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora"},
    "dora": {"method": "dora"},
    "rslora": {"method": "lora", "rslora": True},
    "dora with rslora": {"method": "dora", "rslora": True},
    "lora plus": {"method": "lora", "lora_plus": 16.0},
    "oft": {"method": "oft"},
    "pissa": {"method": "lora", "pissa": True},
    "pissa with rslora": {"method": "lora", "pissa": True, "rslora": True},
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_adapter_learns_and_merges_without_a_change(
    kind: str, lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel

    from training_app.engine.models import load_base, load_tuned

    fields = {**lesson_fields, "dropout": 0.0, "learning_rate": 0.01, "sample_answers": 0, **KINDS[kind]}
    finished = train_here({**fields, "run_dir": str(tmp_path / "run")})
    assert finished.code == 0, finished.log
    losses = [event["loss"] for event in finished.of("step")]
    assert losses[-1] < losses[0] - 0.1
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert config.get("use_rslora", False) is fields.get("rslora", False)
    assert config.get("use_dora", False) is (fields["method"] == "dora")
    assert config["r"] == {"oft": 0}.get(kind, 8 if "pissa" in kind else 4)

    cpu, ids = torch.device("cpu"), torch.arange(3, 60)[None]
    base = load_base(fields["base_dir"], cpu)
    beside = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter", use_safetensors=True).eval()
    merged = load_tuned(fields["base_dir"], tmp_path / "run", fields["method"], cpu).eval()
    with torch.no_grad():
        assert torch.allclose(beside(ids).logits, merged(ids).logits, atol=1e-4)
        assert not torch.allclose(load_base(fields["base_dir"], cpu)(ids).logits, merged(ids).logits, atol=1e-2)


QUANTISED: dict[str, dict[str, Any]] = {
    "qlora": {"method": "lora", "quantization": "4bit"},
    "qdora": {"method": "dora", "quantization": "4bit"},
    "8 bit": {"method": "lora", "quantization": "8bit"},
}


@pytest.mark.parametrize("kind", sorted(QUANTISED))
def test_an_adapter_learns_on_a_quantised_base(kind: str, lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    fields = {**lesson_fields, "dropout": 0.0, "learning_rate": 0.01, "sample_answers": 0, **QUANTISED[kind]}
    finished = train_here({**fields, "run_dir": str(tmp_path / "run")})
    assert finished.code == 0, finished.log
    losses = [event["loss"] for event in finished.of("step")]
    assert losses[-1] < losses[0] - 0.1
    out = {"out_dir": str(tmp_path / "out"), "run_dir": str(tmp_path / "run"), "general": False}
    shared = {name: fields[name] for name in ("base_dir", "data_path", "data_sha256", "method", "threads", "dtype")}
    result = evaluate_here({**shared, **out, "max_new_tokens": 4}).result
    # Merged into the base of full precision it has kept what it learnt on the quantised one.
    assert result["tuned_validation_loss"] < result["base_validation_loss"]


def test_a_stopped_pissa_run_goes_on_from_the_same_directions(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    fields = {**lesson_fields, "method": "lora", "pissa": True, "sample_answers": 0}
    whole = train_here({**fields, "run_dir": str(tmp_path / "whole")})
    cut = {**fields, "run_dir": str(tmp_path / "cut")}
    before = train_here(cut, stop_at=6)
    assert before.code == 130
    after = train_here(cut)
    assert after.of("started")[0]["start_step"] == 6
    told = [event["loss"] for event in (*before.of("step"), *after.of("step"))]
    assert told == pytest.approx([event["loss"] for event in whole.of("step")], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "full", "learning_rate": 1e-4, "quantization": "4bit"}, "must be none in full training"),
        ({"method": "oft", "quantization": "8bit"}, "quantization must be none with OFT"),
        ({"method": "oft", "rslora": True}, "belong to LoRA and DoRA"),
        ({"method": "dora", "pissa": True}, "pissa goes with method lora"),
        ({"method": "oft", "rank": 5}, "rank 5 does not divide"),
    ],
)
def test_what_cannot_be_combined_is_told(
    change: dict[str, Any], sentence: str, lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    finished = train_here({**lesson_fields, **change, "run_dir": str(tmp_path / "run")})
    assert finished.code == 2, finished.log
    assert sentence in finished.refusal


def test_the_second_matrix_learns_faster_with_lora_plus(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    """In the first step the first matrix has no gradient yet (the second is zero): one step tells the ratio."""
    from safetensors.torch import load_file

    moved = {}
    for ratio in (1.0, 16.0):
        folder = tmp_path / str(ratio)
        fields = {**lesson_fields, "method": "lora", "dropout": 0.0, "lora_plus": ratio, "max_steps": 1}
        assert train_here({**fields, "run_dir": str(folder / "run")}).code == 0
        weights = load_file(folder / "run" / "adapter" / "adapter_model.safetensors")
        moved[ratio] = sum(float(value.abs().sum()) for name, value in weights.items() if "lora_B" in name)
    assert moved[16.0] / moved[1.0] == pytest.approx(16, rel=1e-3)


def test_early_stopping_keeps_the_best_weights(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    import torch

    from training_app.engine.hardware import choose_machine
    from training_app.engine.lesson import load_lesson
    from training_app.engine.loss import mean_loss
    from training_app.engine.models import load_tuned
    from training_app.engine.spec import TrainSpec

    change = {"learning_rate": 0.05, "scheduler": "constant", "warmup_share": 0.0, "epochs": 30, "dropout": 0.0}
    fields = {**lesson_fields, **change, "eval_every": 2, "early_stopping": 3, "sample_answers": 0}
    finished = train_here({**fields, "run_dir": str(tmp_path / "run")})
    assert finished.code == 0, finished.log
    looks = {event["step"]: event["loss"] for event in finished.of("eval")}
    best = min(looks, key=lambda step: looks[step])
    result = finished.result
    assert result["best_step"] == best
    assert result["steps"] == best + 3 * 2 < 120
    assert result["validation_loss"] == looks[best]
    assert f"lowest at step {best}" in finished.of("warning")[-1]["message"]
    spec = TrainSpec(**{**fields, "run_dir": str(tmp_path / "run")})
    model = load_tuned(spec.base_dir, spec.run_dir, spec.method, torch.device("cpu"))
    machine = choose_machine(1, "cpu", "float32")
    assert mean_loss(model, load_lesson(spec).validation, machine, 512) == pytest.approx(looks[best], abs=1e-3)


def test_a_loss_that_runs_away_stops_the_run(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    """A base that knows the rows, then steps so large that it forgets them all."""
    shared = {**lesson_fields, "sample_answers": 0, "dropout": 0.0, "scheduler": "constant", "warmup_share": 0.0}
    knowing = {"method": "full", "learning_rate": 0.004, "epochs": 8, "run_dir": str(tmp_path / "base")}
    assert train_here({**shared, **knowing}).code == 0
    base = {"base_dir": str(tmp_path / "base" / "model")}
    wild = {"method": "lora", "learning_rate": 0.1, "alpha": 2000, "epochs": 20, "run_dir": str(tmp_path / "run")}
    finished = train_here({**shared, **base, **wild})
    assert finished.code == 2, finished.log
    assert "The loss has risen from" in finished.refusal
    assert "Start a new run with a lower learning rate" in finished.refusal
    assert 10 < len(finished.of("step")) < 40


def watched(losses: list[float]) -> Progress:
    progress = Progress(base_loss=losses[0])
    for step, loss in enumerate(losses, start=1):
        progress = with_step(Progress(**{**vars(progress), "step": step}), loss, 4)
    return progress


def test_the_loss_of_an_epoch_is_kept_with_the_progress() -> None:
    """So that a run resumed within its last epoch reports what an undisturbed one does."""
    progress = watched([9.0, 9.0, 9.0, 9.0, 3.0, 2.0])
    assert (progress.epoch_loss, progress.epoch_steps) == (5.0, 2)


def test_noise_is_no_divergence() -> None:
    noisy = [2.0 + math.sin(step) for step in range(60)]
    assert not runs_away(watched(noisy), 50_000)
    assert not runs_away(watched([2.0] * 10 + [9.0]), 50_000)  # one bad batch
    assert runs_away(watched([2.0] * 10 + [6.0] * 10), 50_000)
    assert runs_away(watched([2.0] + [30.0] * 15), 50_000)  # worse than guessing
    assert not runs_away(watched([0.3] * 10 + [1.1] * 20), 50_000)


def test_patience_counts_looks_without_a_gain() -> None:
    progress = Progress(step=1)
    for step, loss in enumerate((2.0, 1.5, 1.6, 1.7), start=1):
        progress = with_look(Progress(**{**vars(progress), "step": step}), loss)
    assert (progress.best_step, progress.best_loss, progress.looks_since) == (2, 1.5, 2)
    assert is_patience_over(progress, 2)
    assert not is_patience_over(progress, 3)
    assert not is_patience_over(progress, 0)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_the_gradient_on_a_quantised_base_is_that_of_its_values(
    bits: str, lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    """The same adapter on a base whose layers hold the quantised values as plain numbers."""
    import bitsandbytes
    import torch

    from training_app.engine.hardware import choose_machine
    from training_app.engine.lesson import load_lesson
    from training_app.engine.models import trainable
    from training_app.engine.objectives import Layout, Wording
    from training_app.engine.spec import TrainSpec

    fields = {**lesson_fields, "method": "lora", "dropout": 0.0, "quantization": bits, "run_dir": str(tmp_path)}
    spec, machine = TrainSpec(**fields), choose_machine(1, "cpu", "float32")
    lesson, found = load_lesson(spec), []
    for is_plain in (False, True):
        torch.manual_seed(3)
        model = trainable(spec, machine)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        for layer in [module for module in model.modules() if is_plain and hasattr(module, "base_layer")]:
            quantised = layer.base_layer
            plain = torch.nn.Linear(quantised.in_features, quantised.out_features, bias=False)
            if bits == "4bit":
                values = bitsandbytes.functional.dequantize_4bit(quantised.weight.data, quantised.weight.quant_state)
            else:
                values = quantised.weight.CB.float() * quantised.weight.SCB[:, None] / 127
            plain.weight.data = values.float().reshape(plain.weight.shape)
            layer.base_layer = plain.requires_grad_(False)
        inner = model.get_base_model()
        loss = Wording().measure(inner, lesson.step(spec, 0), Layout(2048, True), machine, learn=True).loss
        found.append((loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    (loss, gradient), (plain_loss, plain_gradient) = found
    # 8-bit products also round their inputs.
    assert loss == pytest.approx(plain_loss, rel=1e-4 if bits == "4bit" else 2e-2)
    cosine = float(torch.nn.functional.cosine_similarity(gradient, plain_gradient, dim=0))
    assert cosine > (0.9999 if bits == "4bit" else 0.98)
