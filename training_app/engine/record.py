"""What is kept of a run besides its numbers: the environment, the weights with their hash, the memory in use."""

import hashlib
import importlib.metadata
import os
import platform
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch

from finetune_site.lib.channel import write_json
from training_app.engine.spec import TrainSpec

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "pyarrow")


def environment(run_dir: Path, spec: TrainSpec, device: torch.device) -> None:
    """Write `environment.json`: spec, package versions and hardware; enough to do the run again."""
    write_json(
        run_dir / "environment.json",
        {
            "spec": asdict(spec),
            "base_sha256": hash_folder(Path(spec.base_dir)),
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": device_name(device),
            "cpu_count": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_bytes": psutil.virtual_memory().total,
        },
    )


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def memory_bytes(device: torch.device) -> int:
    """The peak on a CUDA device; on a CPU what this process holds now."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def write_weights(model: Any, folder: Path, base_dir: str, *, is_full: bool) -> None:
    """Write adapter or model as safetensors, whole or not at all; a full model gets its tokenizer beside it."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside, safe_serialization=True)
    if is_full:
        for path in Path(base_dir).iterdir():
            if path.is_file() and path.suffix != ".safetensors" and not (aside / path.name).exists():
                shutil.copy(path, aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def hash_folder(folder: Path) -> str:
    """One SHA-256 over the names and contents of a folder's safetensors files, in order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
