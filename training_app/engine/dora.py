"""DoRA (Liu et al. 2024, arXiv 2402.09353) with the frozen matrix read once per pass.

PEFT builds W + sBA in full to measure the length of its rows. The same lengths follow from small products:
|w + s b A|^2 = |w|^2 + 2s b·(A w) + s^2 b (A A^T) b, where |w|^2 never changes. Names and shapes of the trained
parameters stay PEFT's, so adapters are read and written by PEFT as they are.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from peft.tuners.lora.dora import DoraLinearLayer


class FactoredDora(Linear):
    """PEFT's LoRA layer for one DoRA adapter named `default` without dropout, computed the short way."""

    _frozen_squares: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        base: Any = self.base_layer
        plain: torch.Tensor = base(x, *args, **kwargs)
        update = self.lora_B["default"](self.lora_A["default"](x)) * self.scaling["default"]
        magnitude: Any = self.lora_magnitude_vector["default"].weight
        scale = (magnitude / self._row_lengths()).to(plain.dtype)
        if base.bias is None:
            return (plain + update) * scale
        return (plain - base.bias + update) * scale + base.bias

    @torch.no_grad()
    def _row_lengths(self) -> torch.Tensor:
        """Length of every row of W + sBA; a constant to the gradient (section 4.3 of the paper)."""
        base: Any = self.base_layer
        weight: torch.Tensor = base.weight
        down: Any = self.lora_A["default"].weight
        up: Any = self.lora_B["default"].weight
        if self._frozen_squares is None:
            self._frozen_squares = weight.float().square().sum(dim=1)
        scaling = self.scaling["default"]
        with torch.autocast(weight.device.type, enabled=False):
            mixed = (weight @ down.to(weight.dtype).T).float()
            squares = self._frozen_squares + 2 * scaling * (up * mixed).sum(dim=1)
            squares += scaling**2 * ((up @ (down @ down.T)) * up).sum(dim=1)
        return torch.sqrt(squares.clamp_min(1e-12))


def speed_up(model: Any) -> None:
    """Let every plain DoRA layer of a freshly adapted PEFT model compute the short way."""
    for module in model.modules():
        if type(module) is Linear and isinstance(module.lora_magnitude_vector["default"], DoraLinearLayer):
            module.__class__ = FactoredDora
