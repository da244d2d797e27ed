"""Adapters: small trained matrices in the linear layers of a frozen base, by PEFT.

LoRA (Hu et al. 2021), DoRA (Liu et al. 2024), rsLoRA (Kalajdzievski 2023), LoRA+ (Hayou et al. 2024), PiSSA (Meng et
al. 2024, arXiv 2404.02948) and OFT (Qiu et al. 2023, arXiv 2306.07280).
"""

from pathlib import Path
from typing import Any

import torch

from finetune_site.lib.channel import InputError
from training_app.engine.spec import RunSpec, TrainSpec

# What PiSSA took out of the base's matrices: they must be the same after a restart, and for saving.
PRINCIPAL = "principal"
ANOTHER_SHAPE = "The run to go on from has an adapter of another shape. Take over its method, rank and target_modules."


def adapter_config(spec: RunSpec) -> Any:
    """The adapter that the spec describes, as PEFT names it."""
    from peft import LoraConfig, OFTConfig

    if spec.method == "oft":
        return OFTConfig(
            task_type="CAUSAL_LM",
            r=0,
            oft_block_size=spec.rank,
            module_dropout=spec.dropout,
            target_modules=spec.targets,
            use_cayley_neumann=False,  # exactly orthogonal, so that merging changes nothing
        )
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=spec.targets,
        use_dora=spec.method == "dora",
        use_rslora=spec.rslora,
    )


def attach(model: Any, spec: TrainSpec) -> Any:
    """Put a fresh adapter into the model; with `start_dir`, another run's. The adapter is float32."""
    adapted = wrap(model, spec)
    if spec.start_dir:
        put(adapted, trained_folder(spec.start_dir, spec.method))
    if spec.pissa:
        _take_principal(adapted, Path(spec.run_dir) / PRINCIPAL)
    return adapted


def wrap(model: Any, spec: RunSpec) -> Any:
    """The model with a fresh adapter that changes nothing yet; PiSSA's is as LoRA's until its directions are in."""
    from peft import get_peft_model

    try:
        adapted: Any = get_peft_model(model, adapter_config(spec))
    except ValueError as error:
        raise InputError(f"target_modules does not fit this model: {str(error)[:200]}") from error
    if spec.method == "oft" and any(layer.oft_block_size["default"] != spec.rank for layer in _layers(adapted)):
        raise InputError(f"rank {spec.rank} does not divide the width of this model's layers, which OFT needs.")
    if spec.method == "dora":
        for layer in _layers(adapted):
            if type(layer.base_layer) is torch.nn.Linear and layer.base_layer.weight.dtype != torch.float32:
                # PEFT measures the rows in the matrix's own precision, which leaves the model a little off its base.
                lengths = layer.base_layer.weight.float().norm(dim=1)
                layer.lora_magnitude_vector["default"].weight.data = lengths
        if spec.dropout == 0:
            from training_app.engine.dora import speed_up

            speed_up(adapted)
    return adapted


def put(adapted: Any, folder: Path) -> None:
    """Copy an adapter's weights from a folder into one of the same shape; `InputError` when the shapes differ."""
    from peft import load_peft_weights, set_peft_model_state_dict

    weights = load_peft_weights(str(folder), device="cpu", use_safetensors=True)
    try:
        outcome: Any = set_peft_model_state_dict(adapted, weights)
    except RuntimeError as error:
        raise InputError(ANOTHER_SHAPE) from error
    if outcome.unexpected_keys or len(weights) != sum(p.requires_grad for p in adapted.parameters()):
        raise InputError(ANOTHER_SHAPE)


def save(adapted: Any, spec: TrainSpec, folder: Path) -> None:
    """Write the adapter as PEFT reads it; a PiSSA adapter as a LoRA adapter of twice the rank for the whole base."""
    adapted.save_pretrained(folder, safe_serialization=True)
    if spec.pissa:
        _add_principal(spec, folder)


def trained_folder(run_dir: str | Path, method: str) -> Path:
    """Where a run's adapter or model lies; `run_dir` may name the run or that folder itself."""
    folder = Path(run_dir)
    if not (folder / "adapter_config.json").exists():
        folder = folder / ("model" if method == "full" else "adapter")
    if not folder.is_dir():
        raise InputError("The run has no trained model yet. Let it finish first.")
    return folder


def _layers(adapted: Any) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [
        module for module in adapted.modules() if isinstance(module, BaseTunerLayer) and hasattr(module, "base_layer")
    ]


def _take_principal(adapted: Any, folder: Path) -> None:
    """Move the largest singular directions of every matrix from the frozen base into the adapter.

    W = U S V becomes (W - sBA) + sBA with sBA = U_r S_r V_r: the model is the same, and learning begins where the
    matrix is large. The directions are kept in `folder`: after a restart the same are taken out again.
    """
    if folder.exists():
        put(adapted, folder)
    else:
        for layer in _layers(adapted):
            down, up, scaling = layer.lora_A["default"], layer.lora_B["default"], layer.scaling["default"]
            left, sizes, right = torch.linalg.svd(layer.base_layer.weight.data.float(), full_matrices=False)
            roots = torch.sqrt(sizes[: down.out_features] / scaling)
            up.weight.data = (left[:, : down.out_features] * roots).contiguous()
            down.weight.data = (roots[:, None] * right[: down.out_features]).contiguous()
        aside = folder.with_name(folder.name + ".part")
        adapted.save_pretrained(aside, safe_serialization=True)
        aside.rename(folder)
    for layer in _layers(adapted):
        weight = layer.base_layer.weight
        weight.data = (weight.data.float() - layer.get_delta_weight("default").float()).to(weight.dtype)


def _add_principal(spec: TrainSpec, folder: Path) -> None:
    """Turn a saved PiSSA adapter sBA beside W - sB0A0 into sBA - sB0A0 beside W: one LoRA adapter of twice the rank."""
    import json

    from safetensors.torch import load_file, save_file

    name = "adapter_model.safetensors"
    trained, first = load_file(folder / name), load_file(Path(spec.run_dir) / PRINCIPAL / name)
    joined = {
        key: torch.cat([value, -first[key]], dim=1) if ".lora_B." in key else torch.cat([value, first[key]], dim=0)
        for key, value in trained.items()
    }
    save_file({key: value.contiguous() for key, value in joined.items()}, folder / name, {"format": "pt"})
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    growth = 2**0.5 if spec.rslora else 2
    config |= {"r": 2 * spec.rank, "lora_alpha": spec.alpha * growth}
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
