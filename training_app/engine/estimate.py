"""What a run will need, before it starts: memory, seconds, trainable parameters.

Memory is summed from its parts; time is the arithmetic of the steps divided by the matrix-product rate measured here
and now, of which training reaches a known share.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from training_app.engine.adapters import adapter_parameters
from training_app.engine.batches import shared_prefix, tokens_of, units
from training_app.engine.hardware import Machine
from training_app.engine.lesson import Lesson
from training_app.engine.models import read_config
from training_app.engine.prepare import count_parameters
from training_app.engine.spec import RunSpec
from training_app.engine.template import REHEARSED, Tokens

# Share of the measured matmul rate that a whole step reaches; benchmarks/training.py prints it as matmul_share.
REACHED_SHARE = {torch.float32: 0.5, torch.bfloat16: 0.3}
STEP_SECONDS = 0.05  # what a step costs however small it is
# Products per token and weight: forward, gradient of the inputs, and in full training the gradient of the weights.
PASSES = {"lora": 2.15, "dora": 2.4, "oft": 3.0, "full": 3.0}
QUANTISED_BYTES = {"8bit": 1.03, "4bit": 0.52}  # a weight with its share of the scales
LIBRARY_BYTES = 500 * 2**20
SAMPLED_STEPS = 16
REHEARSED_TOKENS = 50


@dataclass(frozen=True)
class Estimate:
    memory_bytes: int
    memory_available_bytes: int
    seconds: float
    trainable_parameters: int
    how: str
    warnings: list[str]


def estimate(spec: RunSpec, lesson: Lesson, machine: Machine) -> Estimate:
    """Memory and time of the run that `spec` describes on this machine."""
    config, parameters = read_config(spec.base_dir), count_parameters(Path(spec.base_dir))
    trainable = parameters if spec.method == "full" else adapter_parameters(spec, config)
    memory = _memory(spec, lesson, machine, config, parameters, trainable)
    available = _available(machine.device)
    seconds = _seconds(spec, lesson, machine, config, parameters)
    how = (
        f"Arithmetic of {lesson.total_steps} steps at {REACHED_SHARE[machine.dtype]:.0%} of the matrix-product rate "
        f"measured now ({machine.matmul_flops / 1e9:.0f} GFLOP/s)."
    )
    warnings = []
    if memory > available:
        warnings.append(
            f"The run needs about {memory / 1e9:.1f} GB, but {available / 1e9:.1f} GB are free. "
            "Lower micro_batch_tokens, or turn on gradient_checkpointing."
        )
    return Estimate(memory, available, round(seconds, 1), trainable, how, warnings)


def _memory(spec: RunSpec, lesson: Lesson, machine: Machine, config: Any, parameters: int, trainable: int) -> int:
    """Bytes at the peak of a step: weights, what training them keeps, activations, logits, the libraries."""
    text = config.get_text_config()
    half = machine.dtype == torch.bfloat16
    embeddings = text.vocab_size * text.hidden_size
    if spec.method == "full":
        weights, training = parameters * 4, trainable * (4 + 8)  # gradient and two moments
    else:
        weights = embeddings * 4 + (parameters - embeddings) * QUANTISED_BYTES.get(spec.quantization, 2 if half else 4)
        training = trainable * (4 + 4 + 8)
    longest = max(len(row.ids) for row in lesson.train)
    widest_step = sum(sorted(map(tokens_of, units(lesson.train, lesson.unit)), reverse=True)[: spec.batch_rows])
    tokens = max(longest, min(spec.micro_batch_tokens, widest_step))
    # Kept per token and layer for the backward pass: inputs of norms, products, attention and the gated unit.
    numbers = 12 * text.hidden_size + 6 * text.intermediate_size
    layers = 2 if spec.gradient_checkpointing else text.num_hidden_layers
    activations = tokens * numbers * layers * (3 if half else 4)
    trained = max(row.trained_count for row in lesson.train) * max(1, tokens // longest)
    logits = min(trained, tokens) * text.vocab_size * 4 * 3
    return int(weights + training + activations + logits + tokens * tokens + LIBRARY_BYTES)


def _seconds(spec: RunSpec, lesson: Lesson, machine: Machine, config: Any, parameters: int) -> float:
    sampled = range(min(lesson.total_steps, SAMPLED_STEPS))
    flops = 0.0
    for step in sampled:
        rows = lesson.step(spec, step)
        flops += step_flops(spec, [*rows, *_rehearsal(spec, rows)], config, parameters)
    per_step = flops / max(1, len(sampled)) / (machine.matmul_flops * REACHED_SHARE[machine.dtype])
    return float(lesson.total_steps * (per_step + STEP_SECONDS))


def _rehearsal(spec: RunSpec, rows: list[Tokens]) -> list[Tokens]:
    """Stand-ins for the rehearsed rows of a step: they begin as the rows do and are as long as such rows are."""
    lead = rows[0].ids[: shared_prefix([row.ids for row in rows]) if len(rows) > 1 else 0]
    trained = [False] * (len(lead) + 1) + [True] * REHEARSED_TOKENS
    return [Tokens(REHEARSED, [*lead, *([-1] * (1 + REHEARSED_TOKENS))], trained, False)] * spec.rehearsal_rows


def step_flops(spec: RunSpec, rows: list[Tokens], config: Any, parameters: int) -> float:
    """Floating-point operations of the matrix products of one step, as this engine computes it."""
    text = config.get_text_config()
    embeddings = text.vocab_size * text.hidden_size
    body = parameters - embeddings * (1 if text.tie_word_embeddings else 2)
    prefix = shared_prefix([row.ids for row in rows]) if len(rows) > 1 else 0
    computed = sum(len(row.ids) for row in rows) - prefix * (len(rows) - 1)
    trained = sum(row.trained_count for row in rows)
    passes = PASSES[spec.method] + (1 if spec.gradient_checkpointing else 0)
    return float(2 * computed * body * passes + 2 * trained * embeddings * (3 if spec.method == "full" else 2))


def _available(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
