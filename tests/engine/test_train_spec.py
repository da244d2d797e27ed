"""The spec: what it refuses, and that its presets are allowed by it."""

from typing import Any

import pytest

from finetune_site.lib.channel import InputError, read_spec
from training_app.engine.spec import METHODS, PRESETS, EvaluateSpec, PrepareSpec, TrainSpec, barred, knobs

PLACES = {"data_path": "/data.parquet", "data_sha256": "", "base_dir": "/base", "run_dir": "/run"}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"learning_rate": 0.5}, "learning_rate must not be above 0.1: larger steps always destroy the model."),
        ({"learning_rate": float("nan")}, "learning_rate must be a number."),
        ({"method": "full", "learning_rate": 0.01}, "learning_rate must be below 0.005 in full training"),
        ({"method": "qlora"}, "method must be one of lora, dora, oft, full, not 'qlora'."),
        ({"batch_rows": 0}, "batch_rows must be at least 1"),
        ({"batch_rows": 2.5}, "batch_rows must be a whole number."),
        ({"epochs": True}, "epochs must be a number."),
        ({"gradient_checkpointing": "yes"}, "gradient_checkpointing must be true or false."),
        ({"nonsense": 1}, "The spec has unknown keys: nonsense."),
    ],
)
def test_refusals_are_sentences(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        read_spec(TrainSpec, {**PLACES, **fields})
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_allowed_with_every_method(method: str, preset: str) -> None:
    spec = read_spec(TrainSpec, {**PLACES, **knobs(method, preset)})
    assert spec.method == method


def test_missing_keys_are_named() -> None:
    with pytest.raises(InputError, match="lacks these keys: base_dir"):
        read_spec(TrainSpec, {"data_path": "a", "data_sha256": "b", "run_dir": "c"})


def test_other_specs_check_themselves() -> None:
    with pytest.raises(InputError, match="source must be one of"):
        PrepareSpec(source="pickle", out_dir="/x")
    with pytest.raises(InputError, match="splits must be one of"):
        EvaluateSpec(base_dir="b", run_dir="r", data_path="d", out_dir="o", splits=("train",))


@pytest.mark.parametrize(
    ("parameters", "rows", "rate", "epochs", "batch"),
    [
        (0, 0, 1e-3, 4.0, 8),
        (135_000_000, 24, 1e-3, 4.0, 4),
        (1_500_000_000, 1_000, 5e-4, 4.0, 8),
        (8_000_000_000, 15_000, 2e-4, 3.0, 8),
        (70_000_000_000, 50_000, 1e-4, 2.0, 16),
    ],
)
def test_a_preset_goes_by_the_size_of_model_and_data(
    parameters: int, rows: int, rate: float, epochs: float, batch: int
) -> None:
    found = knobs("lora", "balanced", "supervised", parameters, rows)
    assert (found["learning_rate"], found["epochs"], found["batch_rows"]) == (rate, epochs, batch)
    assert knobs("full", "balanced", "supervised", parameters, rows)["learning_rate"] == pytest.approx(rate / 10)
    assert knobs("lora", "quick", "supervised", parameters, rows)["epochs"] == epochs / 2
    assert knobs("lora", "thorough", "supervised", parameters, rows)["epochs"] == epochs * 2


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"method": "lora"}, {"shard"}),
        ({"method": "lora", "processes": 2}, set()),
        ({"method": "dora"}, {"pissa", "shard"}),
        ({"method": "lora", "quantization": "4bit"}, {"pissa", "shard"}),
        ({"method": "lora", "start_dir": "/earlier"}, {"pissa", "shard"}),
        ({"method": "oft"}, {"quantization", "pissa", "rslora", "lora_plus", "shard"}),
        # A contradiction already: the rest is held against the method.
        ({"method": "full", "quantization": "4bit"}, {"quantization", "pissa", "rslora", "lora_plus", "shard"}),
    ],
)
def test_what_does_not_go_together_is_known_before(values: dict[str, Any], names: set[str]) -> None:
    start = knobs(values["method"])
    found = barred({**start, **values})
    assert set(found) == names
    if "quantization" in found:
        assert set(found["quantization"]) == {"8bit", "4bit"}
