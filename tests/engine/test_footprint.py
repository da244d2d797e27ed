"""Memory foretold without storage is that of the real step; the steps tried first are the heaviest; the time left."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.tiny import make_rows
from training_app.engine import footprint as module
from training_app.engine.batches import lay_out, parts, tokens_of
from training_app.engine.estimate import CUDA_SHARE, QUANTISED_BYTES, _memory, heaviest_steps
from training_app.engine.footprint import Footprint, footprint
from training_app.engine.hardware import Machine
from training_app.engine.lesson import Lesson
from training_app.engine.loss import token_losses
from training_app.engine.models import load_base, read_config, trainable
from training_app.engine.pace import Pace
from training_app.engine.rows import Row
from training_app.engine.spec import TrainSpec
from training_app.engine.template import Tokens, load_tokenizer, tokenize

BFLOAT16 = Machine(torch.device("cpu"), torch.bfloat16, 1, 1e9)
FLOAT32 = Machine(torch.device("cpu"), torch.float32, 1, 1e9)


@pytest.fixture(scope="module")
def rows(tiny_model: Path) -> list[Tokens]:
    made = [Row(row["example_id"], "train", row["messages"], "") for row in make_rows(12)]
    return tokenize(load_tokenizer(str(tiny_model)), made, 512)


def spec_of(base: Path, **knobs: Any) -> TrainSpec:
    fields = {"rank": 4, "alpha": 8, "rehearsal_share": 0.0, **knobs}
    return TrainSpec(data_path="x", data_sha256="", base_dir=str(base), run_dir="/nowhere", **fields)


def held_by_a_real_step(spec: TrainSpec, machine: Machine, rows: list[Tokens]) -> int:
    model = trainable(spec, machine)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    held = module._Held()
    for tensor in [*model.parameters(), *model.buffers()]:
        held.add(tensor)
    batch = lay_out(rows)
    held.add(batch.attention_mask)
    with held:
        token_losses(inner, batch, machine).sum().backward()
    return held.peak


@pytest.mark.parametrize(
    "knobs",
    [
        {"method": "lora"},
        {"method": "lora", "dropout": 0.1, "target_modules": "q_proj,v_proj"},
        {"method": "lora", "gradient_checkpointing": True},
        {"method": "dora"},
        {"method": "oft", "rank": 8},
        {"method": "full", "learning_rate": 1e-4},
    ],
    ids=lambda knobs: " ".join(map(str, knobs.values())),
)
@pytest.mark.parametrize("machine", [BFLOAT16, FLOAT32], ids=["bfloat16", "float32"])
def test_what_is_foretold_is_what_a_real_step_holds(
    tiny_model: Path, rows: list[Tokens], knobs: dict[str, Any], machine: Machine
) -> None:
    spec = spec_of(tiny_model, **knobs)
    found = footprint(spec, read_config(tiny_model), machine, [lay_out(rows)], False)
    # All tensors but a few that a fake step need not make: masks and numbers.
    assert found.peak_bytes == pytest.approx(held_by_a_real_step(spec, machine, rows), rel=0.03)
    assert found.model_bytes < found.peak_bytes


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantised_base_is_foretold_too(tiny_model: Path, rows: list[Tokens], bits: str) -> None:
    spec = spec_of(tiny_model, method="lora", rank=8, quantization=bits)
    found = footprint(spec, read_config(tiny_model), BFLOAT16, [lay_out(rows)], False)
    saved = found.matrix_bytes * (1 - QUANTISED_BYTES[bits] / 2)
    assert found.peak_bytes - saved == pytest.approx(held_by_a_real_step(spec, BFLOAT16, rows), rel=0.05)


def test_the_adapter_of_the_footprint_has_the_real_ones_size(tiny_model: Path, rows: list[Tokens]) -> None:
    for method in ("dora", "oft"):
        spec = spec_of(tiny_model, method=method, rank=8)
        real = sum(p.numel() for p in trainable(spec, FLOAT32).parameters() if p.requires_grad)
        found = footprint(spec, read_config(tiny_model), FLOAT32, [lay_out(rows[:1])], False)
        assert found.trainable_parameters == real


def test_gradients_of_earlier_parts_are_counted(tiny_model: Path, rows: list[Tokens]) -> None:
    spec = spec_of(tiny_model, method="full", learning_rate=1e-4)
    config, batches = read_config(tiny_model), [lay_out(rows[:1])]
    alone = footprint(spec, config, FLOAT32, batches, False)
    later = footprint(spec, config, FLOAT32, batches, True)
    assert alone.peak_bytes < later.peak_bytes <= alone.peak_bytes + 4 * alone.trainable_parameters


def test_a_router_of_experts_is_reckoned_instead(tiny_model: Path, rows: list[Tokens]) -> None:
    from transformers import AutoConfig

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    experts = {"num_local_experts": 4, "num_key_value_heads": 2, "vocab_size": 600}
    config = AutoConfig.for_model("mixtral", **sizes, **experts)
    spec = spec_of(tiny_model, method="lora", target_modules="q_proj,v_proj")
    found = footprint(spec, config, BFLOAT16, [lay_out(rows)], False)
    activations = tokens_of(rows) * 2 * (12 * 32 + 6 * 64) * 3
    assert found.peak_bytes - found.model_bytes >= 0.5 * activations


def test_the_heaviest_steps_are_tried_first(tiny_model: Path, rows: list[Tokens]) -> None:
    spec = spec_of(tiny_model, batch_rows=3, micro_batch_tokens=2 * max(len(row.ids) for row in rows))
    lesson = Lesson(None, rows, [], [], {}, total_steps=8, steps_per_epoch=4, warnings=[])
    most = [
        max(tokens_of(part) for part in parts(lesson.step(spec, step), spec.micro_batch_tokens)) for step in range(8)
    ]
    assert most[heaviest_steps(spec, lesson)[0]] == max(most)
    # A longer row that is read and not learnt weighs in tokens, one that is all learnt weighs in logits.
    read = replace(rows[0], ids=rows[0].ids * 4, trained=[False] * (4 * len(rows[0].ids) - 1) + [True])
    learnt = replace(rows[1], trained=[False] + [True] * (len(rows[1].ids) - 1))
    lesson = replace(lesson, train=[read, learnt], total_steps=2, steps_per_epoch=2)
    spec = replace(spec, batch_rows=1)
    first, second = heaviest_steps(spec, lesson)
    assert lesson.step(spec, first) == [read]
    assert lesson.step(spec, second) == [learnt]


def test_a_bfloat16_base_with_a_fresh_dora_adapter_still_answers_as_the_base(
    tiny_model: Path, rows: list[Tokens]
) -> None:
    adapted = trainable(spec_of(tiny_model, method="dora"), BFLOAT16).get_base_model().eval()
    held = {name: parameter.dtype for name, parameter in adapted.named_parameters()}
    assert {dtype for name, dtype in held.items() if "base_layer.weight" in name} == {torch.bfloat16}
    assert {dtype for name, dtype in held.items() if "embed" in name or "norm" in name or "lora" in name} == {
        torch.float32
    }
    for name, module_ in adapted.named_modules():
        if hasattr(module_, "_row_lengths"):
            magnitude = module_.lora_magnitude_vector["default"].weight
            assert torch.allclose(magnitude, module_._row_lengths(), rtol=1e-5), name
    batch = lay_out(rows)
    with torch.no_grad():
        fresh = token_losses(adapted, batch, BFLOAT16)
        base = token_losses(load_base(tiny_model, BFLOAT16.device), batch, BFLOAT16)
    assert abs(float((fresh - base).mean())) < 0.005


def test_the_time_left_follows_the_usual_step_and_counts_looks_apart() -> None:
    pace = Pace(step_tokens=100, look_tokens=50)
    for seconds in (9.0, 1.0, 1.0, 1.0, 7.0):  # the first warms up, a neighbour disturbs the last
        pace.add_step(seconds, 100)
    assert pace.seconds_left(steps=10, looks=0) == pytest.approx(10)
    assert 10 < pace.seconds_left(steps=10, looks=2) < 11
    pace.add_look(30)
    assert pace.seconds_left(steps=10, looks=2) == pytest.approx(70)
    pace.add_step(2.0, 400)
    assert math.isclose(pace.seconds_left(steps=1, looks=0), 1.0)


def test_a_split_or_quantised_base_is_foretold_smaller(tiny_model: Path) -> None:
    device = Machine(torch.device("cuda"), torch.bfloat16, 1, 1e12)
    found = Footprint(model_bytes=1000, peak_bytes=1500, matrix_bytes=800, trainable_parameters=5)
    spec = spec_of(tiny_model, method="lora")
    assert _memory(spec, found, device) == int((1500 + 8 * 5) * CUDA_SHARE)
    split = replace(spec, processes=4, shard=True)
    assert _memory(split, found, device) == int((1500 - 750 + 8 * 5) * CUDA_SHARE)
    quantised = replace(spec, quantization="4bit")
    assert _memory(quantised, found, device) == int((1500 - 800 * (1 - 0.52 / 2) + 8 * 5) * CUDA_SHARE)
