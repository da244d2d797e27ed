"""A run looked at before it starts: its tokens, its first batch as the model sees it, its memory and its time.

Refuses what the run would refuse, with the same sentences. Loads no weights.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from finetune_site.lib.channel import Channel
from training_app.engine import data, models, record
from training_app.engine.data import Row
from training_app.engine.spec import PreviewSpec, TrainSpec
from training_app.engine.train import load_rows

# Work per token and parameter, in units of 2 FLOP: forward 1, activations' gradients 1, weights' gradients 1.
PASSES = {"lora": 2.2, "dora": 2.6, "full": 3.0}
# Share of the machine's matmul rate that training reaches; benchmarks/training.py measures it.
REACHED_SHARE = 0.45
LIBRARIES_BYTES = 600 * 2**20
SHOWN_ROWS = 8


def run(spec: PreviewSpec, link: Channel) -> dict[str, Any]:
    """Tokenize, count and estimate; see the keys below."""
    models.set_threads(spec.threads)
    device = models.device_of(spec.device)
    link.emit("started")
    train_rows, validation_rows = load_rows(spec)
    link.check()
    tokenizer = models.load_tokenizer(spec.base_dir)
    first = next(data.epoch_batches(len(train_rows), spec.batch_size, spec.seed, 0))
    batch = [train_rows[number] for number in first]
    steps = _steps(spec, len(train_rows))
    tokens = sum(len(row.ids) for row in train_rows)
    facts = _model_facts(spec.base_dir)
    return {
        "train_rows": len(train_rows),
        "validation_rows": len(validation_rows),
        "tokens_per_epoch": tokens,
        "trained_tokens_per_epoch": sum(row.trained_tokens for row in train_rows),
        "longest_row": max(len(row.ids) for row in train_rows),
        "cut_rows": sum(row.is_cut for row in train_rows),
        "steps": steps,
        "steps_per_epoch": math.ceil(len(train_rows) / spec.batch_size),
        "device": record.device_name(device),
        "memory_bytes": _memory(spec, facts, device, max(len(row.ids) for row in train_rows)),
        "memory_available_bytes": _available(device),
        "seconds": _seconds(spec, facts, device, tokens * steps / math.ceil(len(train_rows) / spec.batch_size)),
        "first_batch": [_show(row, tokenizer) for row in batch[:SHOWN_ROWS]],
        "first_batch_rows": len(batch),
        "warnings": _warnings(train_rows, validation_rows, steps, spec),
    }


def _steps(spec: TrainSpec, rows: int) -> int:
    return min(spec.max_steps or 10**9, spec.epochs * math.ceil(rows / spec.batch_size))


def _show(row: Row, tokenizer: Any) -> dict[str, Any]:
    """A row as runs of text: [text, trained or not]. Tokens of one kind are decoded together, so no letter is torn."""
    runs: list[list[Any]] = []
    start = 0
    for index in range(1, len(row.ids) + 1):
        if index == len(row.ids) or row.is_trained[index] != row.is_trained[start]:
            runs.append([tokenizer.decode(row.ids[start:index]), row.is_trained[start]])
            start = index
    return {"example_id": row.example_id, "tokens": len(row.ids), "trained": row.trained_tokens, "runs": runs}


def _model_facts(base_dir: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((Path(base_dir) / "result.json").read_text())
    return facts


def _memory(spec: TrainSpec, facts: dict[str, Any], device: torch.device, longest: int) -> int:
    """Weights, gradients, optimizer, activations and the logits of trained tokens, in bytes."""
    size = torch.finfo(models.dtype_of(device)).bits // 8
    parameters, width, layers = facts["parameters"], facts["width"], facts["layers"]
    trainable = parameters if spec.method == "full" else 14 * width * layers * spec.rank
    tokens = max(spec.micro_batch_tokens, longest)
    per_layer = 2 if spec.gradient_checkpointing else 34  # activations kept per token, in widths (Korthikanti 2022, §4)
    activations = tokens * layers * width * per_layer * size
    logits = tokens // 2 * facts["vocabulary"] * 4 * 3
    return int(parameters * size + trainable * (4 + 8) + activations + logits + LIBRARIES_BYTES)


def _available(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _seconds(spec: TrainSpec, facts: dict[str, Any], device: torch.device, tokens: float) -> float:
    """Work divided by the rate of a matmul measured here and now, of which training reaches a known share."""
    flop = 2 * facts["parameters"] * PASSES[spec.method] * tokens
    return round(flop / (_matmul_rate(device) * REACHED_SHARE), 1)


def _matmul_rate(device: torch.device) -> float:
    """FLOP per second of a matrix product of the shapes that training has, best of several."""
    size = 1024 if device.type == "cpu" else 8192
    left, right = (torch.rand(size, size, device=device, dtype=models.dtype_of(device)) for _ in range(2))
    best = math.inf
    for _ in range(6):
        began = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _warnings(train: list[Row], validation: list[Row], steps: int, spec: TrainSpec) -> list[str]:
    said = []
    if cut := sum(row.is_cut for row in train):
        said.append(f"{cut} of {len(train)} examples are longer than {spec.max_length} tokens and will be cut.")
    if not validation:
        said.append("The version has no validation examples: only the training loss can be watched.")
    if spec.checkpoint_every >= steps > 1:
        said.append("No checkpoint falls inside the run: if it is lost, it begins anew.")
    if steps < 10:
        said.append(f"The run has only {steps} steps; more examples or epochs, or a smaller batch, teach more.")
    return said
