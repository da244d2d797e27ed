"""What a run will need, before it starts: memory, seconds, trainable parameters.

Memory is counted on a step without storage (see `footprint`); time is the arithmetic of the steps divided by the
matrix-product rate measured here and now, of which training reaches a known share.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from training_app.engine.batches import Batch, lay_out, parts, shared_prefix, tokens_of, units
from training_app.engine.footprint import Footprint, footprint
from training_app.engine.hardware import Machine, memory_bytes
from training_app.engine.lesson import Lesson
from training_app.engine.loss import length_multiple
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
# What a processor's allocator and oneDNN's compiled products take beside what tensors hold: so much, and a share of
# what a step holds for its backward pass (measured under mimalloc).
PROCESSOR_BYTES = 500 * 10**6
PROCESSOR_SHARE = {torch.float32: 0.1, torch.bfloat16: 0.27}
CUDA_SHARE = 1.05  # with the blocks that the caching allocator cannot use
SAMPLED_STEPS = 16
SCANNED_STEPS = 5000
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
    batches, is_accumulating = _heaviest_batches(spec, lesson, machine)
    found = footprint(spec, config, machine, batches, is_accumulating)
    memory = _memory(spec, found, machine)
    trainable = found.trainable_parameters
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
            "Lower micro_batch_tokens, turn on gradient_checkpointing, or split the base over several devices (shard)."
        )
    return Estimate(memory, available, round(seconds, 1), trainable, how, warnings)


def heaviest_steps(spec: RunSpec, lesson: Lesson) -> list[int]:
    """The steps, counted from 0, with the most tokens and with the most trained tokens computed at once."""
    of = range(min(lesson.total_steps, SCANNED_STEPS))
    by_tokens, by_trained = {}, {}
    for step in of:
        at_once = _parts(spec, lesson, step)
        by_tokens[step] = max(map(tokens_of, at_once))
        by_trained[step] = max(sum(row.trained_count for row in rows) for rows in at_once)
    return list(dict.fromkeys([max(of, key=by_tokens.__getitem__), max(of, key=by_trained.__getitem__)]))


def _parts(spec: RunSpec, lesson: Lesson, step: int) -> list[list[Tokens]]:
    """What a step computes at once and learns from: of KTO's triples the pairs."""
    rows = lesson.step(spec, step)
    if lesson.unit > 1:
        rows = [row for members in units(rows, lesson.unit) for row in members[:2]]
    return list(parts([*rows, *_rehearsal(spec, rows)], spec.micro_batch_tokens, min(lesson.unit, 2)))


def _heaviest_batches(spec: RunSpec, lesson: Lesson, machine: Machine) -> tuple[list[Batch], bool]:
    """Of the heaviest steps the heaviest parts; and whether a step has several."""
    steps = [_parts(spec, lesson, step) for step in heaviest_steps(spec, lesson)]
    every = [rows for at_once in steps for rows in at_once]
    chosen = [max(every, key=tokens_of), max(every, key=lambda rows: sum(row.trained_count for row in rows))]
    batches = [lay_out(rows, multiple=length_multiple(machine)) for rows in chosen[: len(every)]]
    return batches, any(len(at_once) > 1 for at_once in steps)


def _memory(spec: RunSpec, found: Footprint, machine: Machine) -> int:
    """Bytes at the peak: of reading the weights, or of learning from the longest rows, whichever holds more."""
    quantised = QUANTISED_BYTES.get(spec.quantization)
    saved = 0.0 if quantised is None else found.matrix_bytes * (1 - quantised / machine.dtype.itemsize)
    if spec.shard:
        saved += found.model_bytes * (1 - 1 / spec.processes)
    step = found.peak_bytes - saved + 8 * found.trainable_parameters
    if machine.device.type == "cuda":
        return int(step * CUDA_SHARE)
    file = sum(path.stat().st_size for path in Path(spec.base_dir).glob("*.safetensors"))
    beside = PROCESSOR_BYTES + PROCESSOR_SHARE[machine.dtype] * (found.peak_bytes - found.model_bytes)
    return int(memory_bytes(machine.device) + max(file + found.model_bytes, step + beside))


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
    if not spec.rehearsal_rows:
        return []
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
