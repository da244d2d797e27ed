"""Preference tuning and continued pre-training: the formulas by hand, and that each lowers its loss."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_site.lib.channel import InputError
from tests.engine.engine_process import Finished, evaluate_here, train_here
from tests.engine.tiny import write_version
from training_app.engine.hardware import Machine
from training_app.engine.lesson import load_lesson
from training_app.engine.models import load_base
from training_app.engine.objectives import Layout, Pairs, dpo, kto, log_probabilities, objective_of, orpo
from training_app.engine.rows import Row
from training_app.engine.spec import TrainSpec
from training_app.engine.template import load_tokenizer, tokenize_text

MACHINE = Machine(torch.device("cpu"), torch.float32, 1, 1e9)
WHOLE = Layout(10_000, share_prefix=True)
PAIR_OBJECTIVES = ("dpo", "kto", "orpo")


def make_pairs(count: int, validation: int) -> list[dict[str, Any]]:
    """Questions whose better answer is polite."""
    return [
        {
            "example_id": 100 + number,
            "split": "validation" if number < validation else "train",
            "kind": "preference",
            "messages": None,
            "answer_key": "",
            "prompt": f"What is the size of part {number}?",
            "chosen": f"With pleasure: part {number} is {number * 7 % 50}.5 mm wide.",
            "rejected": f"Go away and look for {'it' if number % 2 else 'that part'} yourself.",
            "text": None,
        }
        for number in range(count)
    ]


def make_texts(count: int) -> list[dict[str, Any]]:
    return [
        {
            "example_id": 200 + number,
            "split": "validation" if number == 0 else "train",
            "kind": "text",
            "messages": None,
            "answer_key": "",
            "prompt": None,
            "chosen": None,
            "rejected": None,
            "text": " ".join(f"Part {number} is {place * 7 % 50}.5 mm wide and then again." for place in range(8)),
        }
        for number in range(count)
    ]


def fields_for(
    lesson_fields: dict[str, Any], folder: Path, rows: list[dict[str, Any]], **change: Any
) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "version.parquet"
    sha256 = write_version(path, rows)
    return {
        **lesson_fields,
        "data_path": str(path),
        "data_sha256": sha256,
        "dropout": 0.0,
        "sample_answers": 1,
        **change,
    }


@pytest.mark.parametrize("objective", PAIR_OBJECTIVES)
def test_a_preference_objective_lowers_its_loss_and_raises_its_margin(
    objective: str, lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    fields = fields_for(lesson_fields, tmp_path, make_pairs(26, 4), objective=objective, epochs=6)
    finished = train_here({**fields, "run_dir": str(tmp_path / "run")})
    assert finished.code == 0, finished.log
    steps, looks = finished.of("step"), finished.of("eval")
    assert finished.of("started")[0]["train_rows"] == 22
    if objective != "orpo":  # nothing is learnt yet: the model is its own reference
        assert steps[0]["loss"] == pytest.approx(math.log(2) if objective == "dpo" else 0.5, abs=1e-3)
        assert steps[0]["reward_margin"] == pytest.approx(0, abs=1e-3)
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]
    assert steps[-1]["reward_margin"] > steps[0]["reward_margin"] + 0.01
    assert looks[-1]["loss"] < 0.8 * steps[0]["loss"]
    assert looks[-1]["reward_accuracy"] == 1.0
    assert {example for example, _ in finished.of("rows")[-1]["losses"]} == {100, 101, 102, 103}

    out = {"out_dir": str(tmp_path / "evaluation"), "general": False}
    shared = {name: fields[name] for name in ("base_dir", "data_path", "data_sha256", "method", "threads", "dtype")}
    result = evaluate_here({**shared, **out, "run_dir": str(tmp_path / "run"), "max_new_tokens": 8}).result
    assert result["tuned_preferred"] == 1.0
    assert result["sets"]["validation"]["rows"] == 4


def losses(finished: Finished) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in finished.of("step")}


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_a_stopped_preference_run_goes_on_against_the_same_base(
    objective: str, lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    fields = fields_for(lesson_fields, tmp_path, make_pairs(14, 2), objective=objective, batch_rows=3, epochs=2)
    whole = train_here({**fields, "run_dir": str(tmp_path / "whole")})
    cut = {**fields, "run_dir": str(tmp_path / "cut")}
    before, after = train_here(cut, stop_at=5), train_here(cut)
    assert (before.code, after.of("started")[0]["start_step"]) == (130, 5)
    assert losses(before) | losses(after) == pytest.approx(losses(whole), abs=1e-6)


@pytest.mark.parametrize("objective", PAIR_OBJECTIVES)
def test_the_gradient_does_not_depend_on_the_parts(
    objective: str, lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    spec = TrainSpec(**fields_for(lesson_fields, tmp_path, make_pairs(8, 0), objective=objective))
    lesson, found = load_lesson(spec), []
    for limit in (10_000, 60):
        model = load_base(spec.base_dir, MACHINE.device)
        rows = lesson.step(spec, 0)
        measured = objective_of(spec).measure(model, rows, Layout(limit, share_prefix=True), MACHINE, learn=True)
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((measured, gradient))
    (whole, whole_gradient), (parts, parts_gradient) = found
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert parts.reward_margin == pytest.approx(whole.reward_margin, rel=1e-4, abs=1e-5)
    assert torch.allclose(parts_gradient, whole_gradient, rtol=1e-3, atol=1e-5)


def test_log_probabilities_are_those_of_the_rows_alone(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    spec = TrainSpec(**fields_for(lesson_fields, tmp_path, make_pairs(3, 0), objective="kto"))
    lesson, model = load_lesson(spec), load_base(spec.base_dir, MACHINE.device).eval()
    assert lesson.unit == 3 and len(lesson.train) == 9
    together = log_probabilities(model, lesson.train, WHOLE, MACHINE)
    for row, value in zip(lesson.train, together, strict=True):
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            logits = torch.log_softmax(model(input_ids=ids).logits[0, :-1], dim=-1)
        alone = sum(float(logits[place - 1, row.ids[place]]) for place in range(1, len(row.ids)) if row.trained[place])
        assert value == pytest.approx(alone, abs=1e-3)
    words = [lesson.tokenizer.decode(row.ids) for row in lesson.train]
    assert "part 1?" in words[3] and "part 2 is" in words[5]  # an unrelated answer to the same question


def test_the_formulas_by_hand() -> None:
    two = [torch.tensor([value]) for value in (-4.0, -9.0, -5.0, -6.0, 4.0, 3.0)]
    pairs = Pairs(*two)
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    loss, chosen, rejected = dpo(pairs, 0.5, 0.0)
    assert (float(chosen), float(rejected)) == (0.5, -1.5)
    assert float(loss) == pytest.approx(-math.log(sigmoid(2.0)))
    loss, _, _ = kto(pairs, 0.5, 2.0)
    assert float(loss) == pytest.approx(((1 - sigmoid(0.5 - 1.0)) + (1 - sigmoid(1.0 + 1.5))) / 2)
    loss, _, _ = orpo(pairs, 0.5, 0.0)
    odds = lambda log: math.exp(log) / (1 - math.exp(log))  # noqa: E731
    assert float(loss) == pytest.approx(1.0 - 0.5 * math.log(sigmoid(math.log(odds(-1.0) / odds(-3.0)))), rel=1e-5)


def test_texts_are_learnt_whole(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    change = {"objective": "pretraining", "max_length": 64, "learning_rate": 0.01, "rehearsal_share": 0.25}
    fields = fields_for(lesson_fields, tmp_path, make_texts(10), **change)
    finished = train_here({**fields, "run_dir": str(tmp_path / "run")})
    assert finished.code == 0, finished.log
    steps = finished.of("step")
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.2
    assert finished.of("eval")[-1]["loss"] < finished.of("eval")[0]["loss"]
    assert len(finished.of("rows")[-1]["losses"]) == 1  # the pieces of one text are one row


def test_no_token_of_a_long_text_is_lost(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    text = " ".join(f"Part {number} is wide." for number in range(60))
    made = tokenize_text(tokenizer, Row(1, "train", [], "", "text", text=text), 50)
    assert tokenizer.decode([token for piece in made for token in piece.ids]) == text + tokenizer.eos_token
    assert len(made) > 3 and all(sum(piece.trained) == len(piece.ids) - 1 for piece in made)


def test_rows_of_another_kind_are_told(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    mixed = fields_for(lesson_fields, tmp_path / "mixed", [*make_pairs(10, 2), *make_texts(4)], objective="dpo")
    assert "3 texts are left out" in load_lesson(TrainSpec(**mixed)).warnings[0]
    fields = {**mixed, "run_dir": str(tmp_path / "run")}
    refused = train_here({**fields, "objective": "supervised"})
    assert refused.code == 2
    assert "holds preference pairs and texts, but the objective supervised learns from conversations" in refused.refusal
    assert "pretraining, dpo, kto, orpo" in refused.refusal
    with pytest.raises(InputError, match="rehearsal_share must be 0 in preference tuning"):
        TrainSpec(**{**fields, "rehearsal_share": 0.1})
