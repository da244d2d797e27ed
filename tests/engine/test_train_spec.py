"""The spec: what it refuses, and that its presets are allowed by it."""

from typing import Any

import pytest

from finetune_site.lib.channel import InputError, read_spec
from training_app.engine.spec import METHODS, PRESETS, EvaluateSpec, PrepareSpec, TrainSpec, knobs

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
