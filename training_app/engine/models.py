"""The base model, the trained parts attached to it, and the two merged again."""

import importlib.util
from pathlib import Path
from typing import Any

import torch

from finetune_site.lib.channel import InputError
from training_app.engine import adapters
from training_app.engine.adapters import trained_folder
from training_app.engine.hardware import Machine
from training_app.engine.spec import RunSpec, TrainSpec


def read_config(base_dir: str | Path) -> Any:
    """The base model's configuration; no weight is read."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(base_dir, local_files_only=True, trust_remote_code=False)


def load_base(base_dir: str | Path, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """The base model from safetensors files; nothing else is loaded, no code of a repository is run."""
    from transformers import AutoModelForCausalLM

    if not (Path(base_dir) / "config.json").exists():
        raise InputError("The base model's folder is missing or not prepared. Prepare the base model first.")
    model: Any = AutoModelForCausalLM.from_pretrained(
        base_dir, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    return model.to(device)


def trainable(spec: TrainSpec, machine: Machine) -> Any:
    """The base model ready to be trained under `spec`: all of it, or frozen with an adapter in its linear layers.

    Trained weights are float32. With bfloat16 the frozen matrices are stored in it and products run under autocast.
    """
    if spec.method == "full":
        base_dir = trained_folder(spec.start_dir, spec.method) if spec.start_dir else spec.base_dir
        model = load_base(base_dir, machine.device)
    elif spec.quantization != "none":
        model = load_quantised(spec.base_dir, machine, spec.quantization)
        widen(model)
    else:
        device = torch.device("cpu") if spec.shard else machine.device  # to be split, layer after layer
        model = load_base(spec.base_dir, device, machine.dtype)
        widen(model)
    model.config.use_cache = False
    if spec.gradient_checkpointing:
        use_checkpointing(model)
    if machine.device.type == "cuda":
        use_fused_kernels(model)
    if spec.method != "full":
        model = adapters.attach(model, spec)
    return model.train()


def widen(model: Any) -> None:
    """Take a frozen model's embeddings, norms and other small weights to float32; its matrices stay as they are."""
    for module in model.modules():
        if not isinstance(module, torch.nn.Linear):
            for parameter in module.parameters(recurse=False):
                if parameter.ndim < 2 or isinstance(module, torch.nn.Embedding):
                    parameter.data = parameter.data.float()


def use_checkpointing(model: Any) -> None:
    """From now on compute activations anew in the backward pass instead of keeping them."""
    model.activation_checkpointing_enable()
    model.enable_input_require_grads()


def use_fused_kernels(model: Any) -> None:
    """Liger's kernels (extra `cuda`) for norms, rotary positions and gated layers, where it has some for the model.

    Not its loss: ours computes no logits at untrained tokens in the first place.
    """
    if importlib.util.find_spec("liger_kernel") is None:
        return
    from transformers.integrations.liger import apply_liger_kernel

    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})


def load_quantised(base_dir: str | Path, machine: Machine, bits: str) -> Any:
    """The base with its linear layers held in 8 or 4 bits (QLoRA: NF4, Dettmers et al. 2023, arXiv 2305.14314)."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("quantization needs the package bitsandbytes, which is not installed here. Choose none.")
    quantised = BitsAndBytesConfig(
        load_in_8bit=bits == "8bit",
        load_in_4bit=bits == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=machine.dtype,
    )
    model: Any = AutoModelForCausalLM.from_pretrained(
        base_dir,
        dtype=machine.dtype,
        quantization_config=quantised,
        device_map={"": machine.device},
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def parameter_groups(model: Any, spec: RunSpec) -> list[dict[str, Any]]:
    """What the optimizer trains, each group with `pace`: its share of the learning rate of the step."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    second = [parameter for name, parameter in named if ".lora_B." in name]
    first = [parameter for name, parameter in named if ".lora_B." not in name]
    groups = [{"params": first, "pace": 1.0}, {"params": second, "pace": spec.lora_plus}]
    return [group for group in groups if group["params"]]


def parameter_counts(model: Any) -> tuple[int, int]:
    """Trainable and all parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def save_trained(model: Any, tokenizer: Any, spec: TrainSpec) -> Path:
    """Write `adapter/` (or `model/` of a full training) into the run folder; it appears by rename."""
    out_dir = Path(spec.run_dir) / ("model" if spec.method == "full" else "adapter")
    aside = out_dir.with_name(out_dir.name + ".part")
    if spec.method == "full":
        model.save_pretrained(aside, safe_serialization=True)
    else:
        adapters.save(model, spec, aside)
    tokenizer.save_pretrained(aside)
    if out_dir.exists():
        import shutil

        shutil.rmtree(out_dir)
    aside.rename(out_dir)
    return out_dir


def load_tuned(base_dir: str | Path, run_dir: str | Path, method: str, device: torch.device) -> Any:
    """The tuned model with its adapter merged in: an unmerged DoRA adapter writes several times slower."""
    folder = trained_folder(run_dir, method)
    if method == "full":
        return load_base(folder, device)
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(load_base(base_dir, device), folder, use_safetensors=True)
    return adapted.merge_and_unload(safe_merge=True)
