"""A model whose weights are split over the members of a team, for a base that one device does not hold (FSDP2).

Every member keeps its part of each layer; a layer is gathered when it computes and dropped again. So each pass through
the model is a conversation of all members, and all must make as many (see `in_step`). What is trained, the adapter, is
small: it stays whole on every member.
"""

from collections.abc import Iterator
from typing import Any

import torch

from finetune_site.lib.channel import InputError
from training_app.engine.batches import IGNORED, Batch
from training_app.engine.hardware import Machine
from training_app.engine.loss import token_losses
from training_app.engine.team import Team


def shard(model: Any, team: Team, device: torch.device) -> None:
    """Split the frozen weights of the Transformers model `model`, which lies in main memory with its adapter."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        raise InputError("shard does not know this model's layers. Leave it off.")
    adapter = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for parameter in adapter:
        parameter.data = parameter.data.to(device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    mesh = init_device_mesh(device.type, (team.size,))
    for module in (*layers, model):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=adapter)


def in_step(batches: list[Batch], model: Any, machine: Machine, team: Team, *, learn: bool) -> Iterator[Batch]:
    """The batches of this member; after them as many passes over nothing as the busiest member makes more."""
    most = max(team.gather(len(batches)))
    yield from batches
    for _ in range(most - len(batches)):
        with torch.set_grad_enabled(learn):
            nothing = token_losses(model, _empty().to(machine.device), machine).sum()
        if learn:
            nothing.backward()


def held_bytes(model: Any) -> int:
    """What this process holds of the model's weights."""
    from torch.distributed.tensor import DTensor

    held = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    return sum(part.numel() * part.element_size() for part in held)


def _empty() -> Batch:
    """One token from which nothing is learnt."""
    one = torch.zeros(1, dtype=torch.long)
    return Batch(
        input_ids=one[None],
        position_ids=one[None],
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
        sources=one,
        targets=torch.tensor([IGNORED]),
        counted=torch.zeros(1),
        owners=one,
        rows=(),
    )
