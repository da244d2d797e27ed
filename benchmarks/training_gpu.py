"""How fast and how lean the training engine is on one GPU, at the shapes of models of 1 and 8 billion parameters.

Random weights in the shapes of Llama 3.2 1B and 3.1 8B, so nothing is downloaded; rows of varied length; each arm a
process of its own, repetitions interleaved, medians told. Beside the engine run transformers' Trainer and TRL, with the
base in bfloat16. Model FLOPs utilisation counts the products that the method needs and no recomputation; its peak is
the matrix-product rate measured here, or `--peak-tflops` of the data sheet. 8b needs 80 GB of GPU memory and some 30
minutes. Run alone: `.venv/bin/python benchmarks/training_gpu.py [--shapes 1b 8b] [--arms lora dora qlora trainer trl
trl_packed] [--repetitions 3] [--steps 12] [--peak-tflops 989]`.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from training import BATCH_ROWS, Figures, make_version, ordered, run_arm  # noqa: E402

WORDS = (20, 700)
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {  # for a try without a GPU
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
}
# Name of the arm: which program, and what differs in its spec.
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("engine", {"method": "lora"}),
    "dora": ("engine", {"method": "dora"}),
    "qlora": ("engine", {"method": "lora", "quantization": "4bit"}),
    "trainer": ("trainer", {"method": "lora"}),
    "trl": ("trl", {"method": "lora"}),
    "trl_packed": ("trl_packed", {"method": "lora"}),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", nargs="*", choices=tuple(SHAPES), default=["1b", "8b"])
    parser.add_argument("--arms", nargs="*", choices=tuple(ARMS), default=list(ARMS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="dense, at the precision used")
    options = parser.parse_args()
    if "lora" not in options.arms:
        parser.error("--arms must hold lora: the others are told beside it")
    if not torch.cuda.is_available() and options.shapes != ["tiny"]:
        print(json.dumps({"skipped": "no CUDA device here; --shapes tiny tries the benchmark without one"}))
        return
    figures: dict[str, Any] = {}
    for shape in options.shapes:
        with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
            figures[shape] = compare(shape, Path(folder), options)
    print(json.dumps(figures))


def compare(shape: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Every arm `repetitions` times on one shape."""
    from training_app.engine.hardware import choose_machine
    from training_app.engine.lesson import load_lesson
    from training_app.engine.spec import TrainSpec

    machine = choose_machine(0, "auto", "auto")
    make_base(folder / "base", SHAPES[shape], machine)
    make_version(folder / "data" / "version.parquet", options.steps * BATCH_ROWS, WORDS)
    spec = TrainSpec(
        data_path=str(folder / "data" / "version.parquet"),
        data_sha256="",
        base_dir=str(folder / "base"),
        method="lora",
        epochs=1,
        batch_rows=BATCH_ROWS,
        scheduler="constant",
        warmup_share=0.0,
        rehearsal_share=0.0,  # the others have nothing like it
        dtype=str(machine.dtype).removeprefix("torch."),
        threads=machine.threads,
    )
    reached: dict[str, list[Figures]] = {arm: [] for arm in options.arms}
    for repetition in range(options.repetitions):
        for arm in options.arms[:: 1 if repetition % 2 == 0 else -1]:
            program, change = ARMS[arm]
            found = run_arm(program, replace(spec, run_dir=str(folder / f"{arm}-{repetition}"), **change))
            reached[arm].append(found)
            print(
                f"{shape:4} {arm:10} {found.tokens_per_second:9.1f} tokens/s  loss {found.mean_loss:.4f}  "
                f"peak {found.peak_bytes / 2**30:.2f} GiB",
                flush=True,
            )
    peak = options.peak_tflops * 1e12 or machine.matmul_flops
    return summarise(spec, load_lesson(spec), machine, peak, reached)


def make_base(folder: Path, shape: dict[str, Any], machine: Any) -> None:
    """Random weights of that shape, with the bundled model's tokenizer and chat template."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from training_app.engine.bundled import find_gguf

    gguf = find_gguf()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = 8192
    config = LlamaConfig(
        **shape,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(machine.device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    if machine.device.type == "cuda":
        torch.cuda.empty_cache()


def summarise(spec: Any, lesson: Any, machine: Any, peak: float, reached: dict[str, list[Figures]]) -> dict[str, Any]:
    from training_app.engine.estimate import step_flops
    from training_app.engine.models import read_config
    from training_app.engine.prepare import count_parameters

    speed = {arm: statistics.median(found.tokens_per_second for found in every) for arm, every in reached.items()}
    memory = {arm: max(found.peak_bytes for found in every) / 2**30 for arm, every in reached.items()}
    config, parameters = read_config(spec.base_dir), count_parameters(Path(spec.base_dir))
    flops = sum(step_flops(spec, rows, config, parameters) for rows in ordered(spec, lesson))
    return {
        "device": machine.name,
        "dtype": str(machine.dtype),
        "parameters": parameters,
        "tokens_per_second": {arm: round(found, 1) for arm, found in speed.items()},
        "mean_loss": {arm: round(every[-1].mean_loss, 4) for arm, every in reached.items()},
        "peak_gib": {arm: round(found, 2) for arm, found in memory.items()},
        "speed_of_lora_over": {arm: round(speed["lora"] / found, 3) for arm, found in speed.items()},
        "memory_of_lora_over": {arm: round(memory["lora"] / found, 3) for arm, found in memory.items()},
        "mfu_of_lora": round(speed["lora"] * flops / lesson.tokens_per_epoch / peak, 3),
        "peak_tflops": round(peak / 1e12, 3),
    }


if __name__ == "__main__":
    main()
