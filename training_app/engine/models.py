"""Loading of models and tokenizers: safetensors only, no code of theirs, on the device at hand."""

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_site.lib.channel import InputError


def set_threads(threads: int) -> None:
    """Use `threads` CPU threads, all cores for 0."""
    torch.set_num_threads(threads or os.cpu_count() or 1)


def device_of(name: str) -> torch.device:
    """`auto` is the first CUDA device, else the CPU."""
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("This machine has no CUDA device; choose the device “auto” or “cpu”.")
    return torch.device(name)


def dtype_of(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes it well; float32 on CPUs, where bfloat16 was measured three times slower."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


def load_tokenizer(base_dir: str) -> Any:
    """The fast tokenizer of a prepared model, with a chat template; `InputError` when it lacks one."""
    tokenizer = AutoTokenizer.from_pretrained(base_dir, trust_remote_code=False, local_files_only=True)
    if not tokenizer.is_fast:
        raise InputError("The model has no fast tokenizer; the mask of trained tokens cannot be proved without one.")
    if not tokenizer.chat_template:
        raise InputError("The model has no chat template. Choose an instruction-tuned model.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(base_dir: str, device: torch.device) -> Any:
    """The base model in the device's dtype, ready for training or inference."""
    return AutoModelForCausalLM.from_pretrained(
        base_dir,
        dtype=dtype_of(device),
        trust_remote_code=False,
        local_files_only=True,
        use_safetensors=True,
        attn_implementation="sdpa",
    ).to(device)


def load_tuned(base_dir: str, run_dir: str, method: str, device: torch.device) -> Any:
    """The finished run's model for inference; an adapter is merged, since unmerged DoRA generates slowly."""
    folder = weights_dir(run_dir, method)
    if not folder.is_dir():
        raise InputError("The run has no finished weights yet. Let it end first.")
    if method == "full":
        return load_base(str(folder), device).eval()
    from peft import PeftModel

    base = load_base(base_dir, device)
    merged = PeftModel.from_pretrained(base, str(folder), use_safetensors=True).merge_and_unload(safe_merge=True)
    return merged.eval()


def weights_dir(run_dir: str, method: str) -> Path:
    """Where a finished run keeps what it made: `adapter`, or `model` for full fine-tuning."""
    return Path(run_dir) / ("model" if method == "full" else "adapter")
