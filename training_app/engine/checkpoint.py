"""Checkpoints: everything a run needs to go on as if nothing had happened. Safetensors and JSON, no pickles.

A folder `checkpoints/step-N` is renamed into place when it is whole, so one that exists can be trusted.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from finetune_site.lib.channel import write_json


def save(run_dir: Path, step: int, model: Any, optimizer: Any, keep: int) -> Path:
    """Write a checkpoint after `step` updates and remove all but the newest `keep`."""
    folder = run_dir / "checkpoints" / f"step-{step}"
    aside = folder.with_name(f".step-{step}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(_trainable(model), aside / "weights.safetensors")
    save_file(_optimizer_tensors(optimizer), aside / "optimizer.safetensors")
    save_file(_random_state(), aside / "random.safetensors")
    write_json(aside / "state.json", {"step": step})
    if not folder.exists():
        aside.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)
    for old in _all(run_dir)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def newest(run_dir: Path) -> Path | None:
    """The checkpoint to go on from, None when there is none."""
    return next(iter(_all(run_dir)), None)


def load(folder: Path, model: Any, optimizer: Any) -> int:
    """Restore weights, optimizer and random state; returns the number of updates done."""
    device = next(model.parameters()).device
    weights = load_file(folder / "weights.safetensors", device=str(device))
    for name, parameter in _named_trainable(model):
        parameter.data.copy_(weights[name])
    _restore_optimizer(optimizer, load_file(folder / "optimizer.safetensors", device=str(device)))
    random_state = load_file(folder / "random.safetensors")
    torch.set_rng_state(random_state["cpu"])
    if "cuda" in random_state and torch.cuda.is_available():
        torch.cuda.set_rng_state(random_state["cuda"])
    return int(json.loads((folder / "state.json").read_text())["step"])


def _all(run_dir: Path) -> list[Path]:
    """Whole checkpoints, newest first."""
    found = [(int(match[1]), path) for path in (run_dir / "checkpoints").glob("step-*")
             if (match := re.fullmatch(r"step-(\d+)", path.name)) and (path / "state.json").exists()]  # fmt: skip
    return [path for _, path in sorted(found, reverse=True)]


def _named_trainable(model: Any) -> list[tuple[str, Any]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().contiguous() for name, parameter in _named_trainable(model)}


def _optimizer_tensors(optimizer: Any) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{name}": torch.as_tensor(value).detach().contiguous().clone()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def _restore_optimizer(optimizer: Any, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state
