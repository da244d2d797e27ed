"""What a step holds in memory, counted by running it on tensors without storage.

The base model, its adapter, the longest rows and the backward pass are those of the training itself, so whatever the
architecture keeps is counted; only the arithmetic is left out (PyTorch's FakeTensorMode).
"""

import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training_app.engine.adapters import wrap
from training_app.engine.batches import Batch
from training_app.engine.hardware import Machine
from training_app.engine.loss import token_losses
from training_app.engine.models import use_checkpointing, widen
from training_app.engine.spec import RunSpec


@dataclass(frozen=True)
class Footprint:
    """Bytes. `model_bytes` are there all the time, `peak_bytes` (with the model) for a moment in the backward pass."""

    model_bytes: int
    peak_bytes: int
    matrix_bytes: int  # of model_bytes, those of the frozen layers that quantisation makes smaller
    trainable_parameters: int


def footprint(spec: RunSpec, config: Any, machine: Machine, batches: list[Batch], is_accumulating: bool) -> Footprint:
    """What the model of `config` holds while it learns from each of `batches` by itself.

    Where a step has several parts the gradients of the earlier ones are there too (`is_accumulating`).
    """
    model, frozen = _empty_model(spec, config, machine)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        held = _Held()
        _give_storage(model, machine.device)
        for tensor in [*model.parameters(), *model.buffers()]:
            held.add(tensor)
        model_bytes = held.now
        try:
            for batch in batches:
                tensors: dict[str, Any] = {
                    name: mode.from_tensor(part) for name, part in vars(batch).items() if name != "rows"
                }
                laid = replace(batch, **tensors)
                _learn(model, machine, laid, is_accumulating, held)
            peak_bytes = held.peak
        except RuntimeError:  # a model whose course depends on values, which are not there: a router of experts
            peak_bytes = model_bytes + _reckoned(spec, config.get_text_config(), machine, batches)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Footprint(
        model_bytes=model_bytes,
        peak_bytes=peak_bytes,
        matrix_bytes=sum(layer.weight.numel() * layer.weight.element_size() for layer in frozen),
        trainable_parameters=sum(parameter.numel() for parameter in trained),
    )


def _learn(model: Any, machine: Machine, batch: Batch, is_accumulating: bool, held: "_Held") -> None:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    with held:
        batch = batch.to(machine.device)
        held.add(batch.attention_mask)
        for parameter in model.parameters():
            needs = is_accumulating and parameter.requires_grad
            parameter.grad = torch.zeros_like(parameter) if needs else None
        token_losses(inner, batch, machine).sum().backward()


def _reckoned(spec: RunSpec, text: Any, machine: Machine, batches: list[Batch]) -> int:
    """Activations and logits of a usual decoder: a token leaves some 12 widths and 6 gated widths in every layer."""
    numbers = 12 * text.hidden_size + 6 * text.intermediate_size
    layers = 2 if spec.gradient_checkpointing else text.num_hidden_layers
    width = numbers * layers * (3 if machine.dtype == torch.bfloat16 else 4)
    return int(max(b.input_ids.numel() * width + b.targets.numel() * text.vocab_size * 12 for b in batches))


def _empty_model(spec: RunSpec, config: Any, machine: Machine) -> tuple[Any, list[torch.nn.Linear]]:
    """The model ready to be trained, as `models.trainable` makes it, on the device without storage; and its frozen
    linear layers but for the output layer, which bitsandbytes leaves as it is."""
    from transformers import AutoModelForCausalLM

    is_full = spec.method == "full"
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            config, trust_remote_code=False, dtype=torch.float32 if is_full else machine.dtype
        )
        model.config.use_cache = False
        if not is_full:
            widen(model)
        if spec.gradient_checkpointing:
            use_checkpointing(model)
        output = model.get_output_embeddings()
        linear = [module for module in model.modules() if type(module) is torch.nn.Linear and module is not output]
        if spec.quantization != "none":
            for layer in linear:
                layer.register_forward_hook(_in_the_precision_given)
        if not is_full:
            model = wrap(model, replace(spec, quantization="none"))
    return model.train(), [] if is_full else linear


def _in_the_precision_given(layer: Any, given: tuple[torch.Tensor], made: torch.Tensor) -> torch.Tensor:
    """As bitsandbytes' layers answer; others answer in the precision that they compute in."""
    return made.to(given[0].dtype)


def _give_storage(model: Any, device: torch.device) -> None:
    """Replace every tensor without device by one that counts as lying on `device`; tied weights stay tied."""
    placed: dict[torch.Tensor, torch.Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if tensor not in placed:
                    there = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                    is_weight = isinstance(tensor, torch.nn.Parameter)
                    placed[tensor] = torch.nn.Parameter(there, tensor.requires_grad) if is_weight else there
                tensors[name] = placed[tensor]


class _Held(TorchDispatchMode):
    """Counts the bytes of all storages that are alive: made while it is on, or added."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def forget(_: Any) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, forget)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        return made
