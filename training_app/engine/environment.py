"""What a run was made with: package versions, hardware, seed, data hash, base model."""

import hashlib
import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from training_app.engine.hardware import Machine
from training_app.engine.prepare import identity
from training_app.engine.spec import TrainSpec

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "pyarrow", "bitsandbytes", "ray")


def describe_environment(spec: TrainSpec, machine: Machine, tokenizer: Any) -> dict[str, Any]:
    """Everything outside the spec that a repetition of the run would need to know."""
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES if find_spec(name)},
        "device": machine.name,
        "dtype": str(machine.dtype).removeprefix("torch."),
        "threads": machine.threads,
        "allocator": Path(os.environ.get("LD_PRELOAD", "")).name or "the system's",
        "cores": psutil.cpu_count(logical=False),
        "memory_bytes": psutil.virtual_memory().total,
        "matmul_flops": round(machine.matmul_flops),
        "seed": spec.seed,
        "data_sha256": spec.data_sha256,
        "base_name": spec.base_name,
        "chat_template_sha256": hashlib.sha256(str(tokenizer.chat_template or "").encode()).hexdigest(),
        "base_sha256": identity(Path(spec.base_dir)),
    }
