"""Rows laid together: the same loss and gradient as one by one, with DoRA's short way as with PEFT's own."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.tiny import make_rows
from training_app.engine.batches import IGNORED, lay_out, micro_batches, step_rows, tokens_of
from training_app.engine.hardware import Machine
from training_app.engine.loss import layout_difference, token_losses
from training_app.engine.models import load_base
from training_app.engine.rehearsal import step_rehearsal
from training_app.engine.rows import Row
from training_app.engine.schedule import rate_share
from training_app.engine.template import REHEARSED, Tokens, load_tokenizer, tokenize

MACHINE = Machine(torch.device("cpu"), torch.float32, 1, 1e9)


@pytest.fixture(scope="module")
def rows(tiny_model: Path) -> list[Tokens]:
    made = [Row(row["example_id"], "train", row["messages"], "") for row in make_rows(7)]
    return tokenize(load_tokenizer(str(tiny_model)), made, 512)


def gradient(model: Any, rows: list[Tokens], token_limit: int, share_prefix: bool) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    total = 0.0
    for batch in micro_batches(rows, token_limit, share_prefix):
        loss = token_losses(model, batch, MACHINE).sum()
        loss.backward()
        total += float(loss.detach())
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_loss_and_gradient_do_not_depend_on_the_layout(tiny_model: Path, rows: list[Tokens]) -> None:
    model = load_base(tiny_model, MACHINE.device)
    alone_loss, alone = gradient(model, rows, 0, False)
    for token_limit, share in ((10_000, False), (10_000, True), (100, True)):
        loss, together = gradient(model, rows, token_limit, share)
        assert loss == pytest.approx(alone_loss, rel=1e-5)
        assert torch.allclose(together, alone, rtol=1e-3, atol=1e-5)


def test_the_shared_beginning_is_computed_once(rows: list[Tokens]) -> None:
    shared, plain = lay_out(rows), lay_out(rows, share_prefix=False)
    assert tokens_of(shared.rows) == tokens_of(plain.rows) == plain.input_ids.shape[1]
    assert shared.input_ids.shape[1] < 0.8 * plain.input_ids.shape[1]
    assert sorted(shared.targets.tolist()) == sorted(plain.targets.tolist())


def test_the_layout_proof_sees_a_model_whose_rows_leak(tiny_model: Path, rows: list[Tokens]) -> None:
    model = load_base(tiny_model, MACHINE.device).eval()
    assert layout_difference(model, rows[:3], MACHINE) < 1e-4
    forward = model.forward

    def leaking(input_ids: torch.Tensor, logits_to_keep: torch.Tensor | int = 0, **_: Any) -> Any:
        return forward(input_ids=input_ids, logits_to_keep=logits_to_keep)

    model.forward = leaking
    assert layout_difference(model, rows[:3], MACHINE) > 1e-2


def test_dora_the_short_way_equals_peft(tiny_model: Path, rows: list[Tokens]) -> None:
    from peft import LoraConfig, get_peft_model

    from training_app.engine.dora import speed_up

    found = []
    for is_short in (False, True):
        torch.manual_seed(1)
        config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", use_dora=True)
        model = get_peft_model(load_base(tiny_model, MACHINE.device), config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        if is_short:
            speed_up(model)
        found.append(gradient(model.get_base_model(), rows, 10_000, True))
    (long_loss, long_gradient), (short_loss, short_gradient) = found
    assert short_loss == pytest.approx(long_loss, rel=1e-5)
    assert torch.allclose(short_gradient, long_gradient, rtol=1e-3, atol=1e-5)


def test_rehearsed_rows_move_the_weights_but_do_not_count(rows: list[Tokens]) -> None:
    extra = Tokens(REHEARSED, rows[0].ids, rows[0].trained, False)
    batch = lay_out([rows[1], extra], multiple=32)
    assert batch.input_ids.shape[1] % 32 == 0 and batch.targets.shape == batch.counted.shape
    assert int(batch.counted.sum()) == sum(rows[1].trained[1:])
    assert int((batch.targets != IGNORED).sum()) == sum(rows[1].trained[1:]) + sum(extra.trained[1:])
    assert [row.example_id for row in step_rehearsal([*rows, extra], 3, seed=1, step=2)] == [
        row.example_id for row in step_rehearsal([*rows, extra], 3, seed=1, step=2)
    ]


def test_the_order_is_a_function_of_seed_and_step() -> None:
    epoch = [index for step in range(4) for index in step_rows(10, 3, seed=5, step=step)]
    assert sorted(epoch) == list(range(10))
    assert step_rows(10, 3, seed=5, step=4) != step_rows(10, 3, seed=5, step=0)
    assert step_rows(10, 3, seed=6, step=0) != step_rows(10, 3, seed=5, step=0)


def test_the_learning_rate_rises_then_falls() -> None:
    shares = [rate_share(step, 20, 0.2, "cosine") for step in range(20)]
    assert shares[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert max(shares) == shares[4] == 1.0
    assert shares[4:] == sorted(shares[4:], reverse=True) and shares[-1] < 0.02
    assert rate_share(19, 20, 0.0, "constant") == 1.0
