"""The base model, the trained parts attached to it, and the two merged again."""

from pathlib import Path
from typing import Any

import torch

from finetune_site.lib.channel import InputError
from training_app.engine.hardware import Machine
from training_app.engine.spec import RunSpec, TrainSpec

ADAPTER, WHOLE = "adapter", "model"


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


def trainable(spec: RunSpec, machine: Machine) -> Any:
    """The base model ready to be trained under `spec`: all of it, or frozen with an adapter in its linear layers.

    Trained weights stay float32. With bfloat16 the frozen matrices are stored in it and products run under autocast.
    """
    model = load_base(spec.base_dir, machine.device)
    model.config.use_cache = False
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    if spec.method != "full":
        model = _attach_adapter(model, spec, machine.dtype)
    return model.train()


def _attach_adapter(model: Any, spec: RunSpec, dtype: torch.dtype) -> Any:
    from peft import LoraConfig, get_peft_model

    from training_app.engine.dora import speed_up

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=spec.targets,
        use_dora=spec.method == "dora",
        use_rslora=spec.rslora,
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"target_modules does not fit this model: {str(error)[:200]}") from error
    if dtype != torch.float32:
        for module in adapted.modules():
            if hasattr(module, "lora_A") and isinstance(module.base_layer, torch.nn.Linear):
                module.base_layer.to(dtype)
    if spec.method == "dora" and spec.dropout == 0:
        speed_up(adapted)
    return adapted


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
    out_dir = Path(spec.run_dir) / (WHOLE if spec.method == "full" else ADAPTER)
    aside = out_dir.with_name(out_dir.name + ".part")
    model.save_pretrained(aside, safe_serialization=True)
    tokenizer.save_pretrained(aside)
    if out_dir.exists():
        import shutil

        shutil.rmtree(out_dir)
    aside.rename(out_dir)
    return out_dir


def trained_folder(run_dir: str | Path, method: str) -> Path:
    """Where a run's adapter or model lies; `run_dir` may name the run or that folder itself."""
    folder = Path(run_dir)
    if not (folder / "adapter_config.json").exists():
        folder = folder / (WHOLE if method == "full" else ADAPTER)
    if not folder.is_dir():
        raise InputError("The run has no trained model yet. Let it finish first.")
    return folder


def load_tuned(base_dir: str | Path, run_dir: str | Path, method: str, device: torch.device) -> Any:
    """The tuned model with its adapter merged in: an unmerged DoRA adapter writes several times slower."""
    folder = trained_folder(run_dir, method)
    if method == "full":
        return load_base(folder, device)
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(load_base(base_dir, device), folder, use_safetensors=True)
    return adapted.merge_and_unload(safe_merge=True)
