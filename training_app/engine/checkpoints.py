"""Checkpoints of a run: trained weights, optimizer moments and the step, as safetensors; never a torn one.

A checkpoint is written aside, synced and renamed, so a folder named `step-N` is complete. Order, dropout and learning
rate are functions of seed and step: nothing else needs saving.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


@dataclass(frozen=True)
class Progress:
    """How far a run has come. `step` counts finished optimizer steps; `seconds` is time spent training."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    fingerprint: str = ""
    dtype: str = ""
    peak_memory_bytes: int = 0
    base_loss: float | None = None  # of the base model on some training rows
    smooth_loss: float | None = None
    epoch_loss: float = 0.0  # sum over the present epoch's steps so far,
    epoch_steps: int = 0  # and how many they are
    best_loss: float | None = None  # the lowest validation loss so far,
    best_step: int = 0  # where it was,
    looks_since: int = 0  # and how often the validation rows were looked at since


def newest(run_dir: Path) -> Path | None:
    """The complete checkpoint with the highest step."""
    return next(reversed(_complete(run_dir / "checkpoints")), None)


def read_progress(checkpoint: Path) -> Progress:
    return Progress(**json.loads((checkpoint / "state.json").read_text(encoding="utf-8")))


def save(run_dir: Path, model: Any, optimizer: torch.optim.Optimizer, progress: Progress, keep: int) -> Path:
    """Write `checkpoints/step-N` whole and remove the oldest beyond `keep`."""
    folder = run_dir / "checkpoints" / f"step-{progress.step}"
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(_trained(model), aside / "weights.safetensors")
    save_file(_moments(model, optimizer), aside / "optimizer.safetensors")
    (aside / "state.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
    for path in (*aside.iterdir(), aside):
        _sync(path)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    _sync(folder.parent)
    _forget_old(folder.parent, keep)
    return folder


def save_best(run_dir: Path, model: Any) -> None:
    """Keep the trained weights as `best.safetensors`: those that early stopping goes back to."""
    aside = run_dir / "best.safetensors.part"
    save_file(_trained(model), aside)
    _sync(aside)
    aside.rename(run_dir / "best.safetensors")


def load_best(run_dir: Path, model: Any) -> None:
    """Put the kept weights back."""
    _put(load_file(run_dir / "best.safetensors"), model)


def load(checkpoint: Path, model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's weights and moments back into a model and optimizer built from the same spec."""
    _put(load_file(checkpoint / "weights.safetensors"), model)
    moments = load_file(checkpoint / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            state = {key.rsplit("|", 1)[1]: value for key, value in moments.items() if key.rsplit("|", 1)[0] == name}
            if state:
                optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
                }


def _put(weights: dict[str, torch.Tensor], model: Any) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data.copy_(weights[name])


def _trained(model: Any) -> dict[str, torch.Tensor]:
    return {
        name: parameter.detach().contiguous().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _moments(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}|{key}": value.detach().contiguous().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _complete(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first. What a kill left half-written has another name."""
    return sorted(folder.glob("step-*[0-9]"), key=lambda path: int(path.name.removeprefix("step-")))


def _forget_old(folder: Path, keep: int) -> None:
    for path in _complete(folder)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
