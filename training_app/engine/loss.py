"""The loss of a batch: cross-entropy at the trained tokens, and nowhere else is a vocabulary's worth computed."""

import inspect
from typing import Any

import torch

from training_app.engine.batches import IGNORED, Batch, lay_out, micro_batches
from training_app.engine.hardware import Machine
from training_app.engine.template import Tokens


def token_losses(model: Any, batch: Batch, machine: Machine) -> torch.Tensor:
    """Cross-entropy of each of the batch's trained tokens, in float32; 0 for filler.

    Only the outputs that predict a trained token pass through the output layer: with a vocabulary of 49,152 that
    layer alone is a fifth of a small model's arithmetic.
    """
    with torch.autocast(machine.device.type, dtype=torch.bfloat16, enabled=machine.dtype == torch.bfloat16):
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            logits = _forward(model, batch, logits_to_keep=batch.sources)
        else:
            logits = _forward(model, batch)[batch.sources]
    return torch.nn.functional.cross_entropy(logits.float(), batch.targets, reduction="none")


def summed_loss(model: Any, batch: Batch, machine: Machine) -> float:
    """Sum over the batch's trained tokens."""
    return float(token_losses(model, batch.to(machine.device), machine).sum())


def length_multiple(machine: Machine) -> int:
    """To what sequence lengths are rounded up. oneDNN keeps some 30 MB of compiled bfloat16 products for every new
    length; in steps of 32 there are few.
    """
    return 32 if machine.device.type == "cpu" and machine.dtype == torch.bfloat16 else 1


def _forward(model: Any, batch: Batch, **options: Any) -> torch.Tensor:
    output = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=batch.attention_mask,
        use_cache=False,
        **options,
    )
    logits: torch.Tensor = output.logits[0]
    return logits


@torch.no_grad()
def layout_difference(model: Any, rows: list[Tokens], machine: Machine) -> float:
    """How far the mean loss of rows laid together lies from that of the rows computed one by one.

    Near zero for every causal attention model. A model with a memory that runs along the sequence (a state-space
    layer) fails here, and must then be trained row by row.
    """
    together = summed_loss(model, lay_out(rows, multiple=length_multiple(machine)), machine)
    alone, count = 0.0, 0
    for row in rows:
        labels = torch.tensor(
            [[token if trained else IGNORED for token, trained in zip(row.ids, row.trained, strict=True)]]
        )
        labels[0, 0] = IGNORED
        with torch.autocast(machine.device.type, dtype=torch.bfloat16, enabled=machine.dtype == torch.bfloat16):
            logits = model(input_ids=torch.tensor([row.ids], device=machine.device), use_cache=False).logits[0, :-1]
        targets = labels[0, 1:].to(machine.device)
        alone += float(torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum"))
        count += int((targets != IGNORED).sum())
    return abs(together - alone) / count


@torch.no_grad()
def mean_loss(model: Any, rows: list[Tokens], machine: Machine, token_limit: int, share_prefix: bool = True) -> float:
    """Mean cross-entropy over the trained tokens of `rows`, without dropout. The model's mode is put back."""
    was_training = model.training
    model.eval()
    batches = micro_batches(rows, token_limit, share_prefix, length_multiple(machine))
    total = sum(summed_loss(model, batch, machine) for batch in batches)
    model.train(was_training)
    return total / sum(sum(row.trained[1:]) for row in rows)
