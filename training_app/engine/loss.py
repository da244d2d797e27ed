"""One forward pass over rows laid end to end, without padding, with logits only where a token is trained."""

from typing import Any

import torch

from training_app.engine.data import Row


def token_losses(model: Any, rows: list[Row], device: torch.device) -> torch.Tensor:
    """Cross-entropy of every trained token of `rows`, in nats, shape (trained tokens,).

    The rows form one sequence whose position ids start anew at each row. Transformers derives from them, and only when
    no attention mask is passed, that rows must not see each other (proved against unpacked rows in the tests).
    """
    ids = [token for row in rows for token in row.ids]
    positions = [position for row in rows for position in range(len(row.ids))]
    # The token at position p is predicted from p - 1; a row's first token is never trained.
    targets, offset = [], 0
    for row in rows:
        targets += [offset + p for p in range(1, len(row.ids)) if row.is_trained[p]]
        offset += len(row.ids)
    target = torch.tensor(targets, device=device)
    input_ids = torch.tensor([ids], device=device)
    output = model(
        input_ids=input_ids,
        position_ids=torch.tensor([positions], device=device),
        logits_to_keep=target - 1,
        use_cache=False,
    )
    return torch.nn.functional.cross_entropy(output.logits[0].float(), input_ids[0, target], reduction="none")


@torch.no_grad()
def mean_loss(model: Any, bins: list[list[Row]], device: torch.device) -> float:
    """Mean loss over all trained tokens of `bins`, in nats."""
    was_training = model.training
    model.eval()
    losses = torch.cat([token_losses(model, rows, device) for rows in bins])
    model.train(was_training)
    return float(losses.mean())
