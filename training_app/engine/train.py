"""Task `train`: one run from its first step to its adapter, or from its newest checkpoint on.

Read it downwards. The loop is our own and not `transformers.Trainer`'s: rows laid together under one mask, a shared
prompt computed once, a state that is a function of seed and step, and a stop after any step ask for every line of it.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError

from finetune_site.lib.channel import Cancelled, Channel, InputError, load_json, write_json
from training_app.engine import checkpoints
from training_app.engine.batches import tokens_of, units
from training_app.engine.checkpoints import Progress
from training_app.engine.environment import describe_environment
from training_app.engine.estimate import heaviest_steps
from training_app.engine.hardware import Machine, choose_machine, energy_joules, memory_bytes, peak_bytes, used_share
from training_app.engine.lesson import Lesson, load_lesson
from training_app.engine.looks import look, perplexity, together
from training_app.engine.loss import layout_difference
from training_app.engine.models import parameter_counts, parameter_groups, save_trained, trainable, use_checkpointing
from training_app.engine.objectives import Layout, Measured, Objective, objective_of, with_reference
from training_app.engine.pace import Pace
from training_app.engine.rehearsal import rehearsed_rows, step_rehearsal
from training_app.engine.rows import file_sha256
from training_app.engine.schedule import rate_share
from training_app.engine.sharding import held_bytes, shard
from training_app.engine.spec import CHECKPOINT_WISH, TrainSpec
from training_app.engine.team import ALONE, Team, assembled, is_further_member
from training_app.engine.template import Tokens
from training_app.engine.watch import is_patience_over, runs_away, with_look, with_step

T = TypeVar("T")
LOCK_WAIT_SECONDS = 120  # on shared storage the lock of a machine that died falls after a while: with NFS, 90 seconds
CHECKPOINT_SECONDS = 180
BASE_ROWS = 32
# What may differ between a run's first start and its going on: places and pace, nothing that changes a number.
FREE_FIELDS = {
    "run_dir",
    "base_dir",
    "base_name",
    "data_path",
    "threads",
    "keep_checkpoints",
    "checkpoint_every",
    "micro_batch_tokens",
    "sample_answers",
    "start_dir",
    "processes",
    "shard",
    "cluster",
    "ray_address",
}
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TOO_LITTLE_TOGETHER = (
    "A device's memory does not hold its part of the model and a step. Start a new run with more processes, a lower "
    "micro_batch_tokens or gradient_checkpointing."
)
DRY_STEPS = 20  # a run shorter than this finds out by itself


def train(spec: TrainSpec, channel: Channel) -> dict[str, Any]:
    """Train in `spec.run_dir` and return the run's figures. A finished run is returned as it stands."""
    if not spec.run_dir:
        raise InputError("The spec lacks run_dir.")
    run_dir = Path(spec.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    with _room_on_disk(), contextlib.nullcontext() if is_further_member() else only_engine(run_dir, channel):
        if (run_dir / "result.json").exists():
            return load_json(run_dir / "result.json")
        if not is_further_member():
            write_json(run_dir / "spec.json", {"task": "train", **asdict(spec)})
        with assembled(spec.processes, str(run_dir / "spec.json")) as team:
            return _train(spec, run_dir, channel, team)


def _train(spec: TrainSpec, run_dir: Path, channel: Channel, team: Team) -> dict[str, Any]:
    team.wait()  # the first member holds the folder now: nobody reads what an engine before us still writes
    lesson = load_lesson(spec)
    channel.check()
    checkpoint, progress = _resume_point(spec, run_dir)
    machine = choose_machine(spec.threads, spec.device, progress.dtype or spec.dtype, team.local_rank, team.local_size)
    torch.manual_seed(spec.seed)
    holders = team if spec.shard else ALONE  # of the model, each of a part: they pass through it together
    if not team.is_first and holders.size == 1:
        team.wait()  # what the first member writes down, the others read
    model = trainable(spec, machine)
    if holders.size > 1:
        shard(_inner(model), holders, machine.device)
    # Before a checkpoint is put in, the model still answers as the base does: the new adapter changes nothing yet.
    rehearsed = _rehearse(run_dir, model, lesson, machine, holders) if spec.rehearsal_rows else []

    def repeated(step: int) -> list[Tokens]:
        return step_rehearsal(rehearsed, spec.rehearsal_rows, spec.seed, step) if rehearsed else []

    layout = replace(_layout(spec, model, lesson, machine, channel), team=holders)
    objective = objective_of(spec)
    if spec.objective in {"dpo", "kto"}:
        lesson = with_reference(run_dir / "reference.json", _inner(model), lesson, layout, machine)
    if team.is_first and holders.size == 1:
        team.wait()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = parameter_groups(model, spec)
    optimizer = torch.optim.AdamW(groups, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)
    if checkpoint:
        checkpoints.load(checkpoint, model, optimizer)
    if team.is_first:
        write_json(run_dir / "environment.json", describe_environment(spec, machine, lesson.tokenizer))
        channel.keep_journal(run_dir / "events.jsonl")
    longest = max(map(tokens_of, units([*lesson.train, *lesson.validation], lesson.unit)))
    within = partial(_within_memory, longest=longest, machine=machine, model=model, channel=channel)
    if progress.base_loss is None:
        base_loss, layout = within(partial(_base_loss, objective, model, lesson, machine), layout)
        progress = replace(progress, base_loss=base_loss)
    if lesson.total_steps - progress.step >= DRY_STEPS:
        # The heaviest steps first, to no effect: a lack of memory shows now and not after hours.
        for step in heaviest_steps(spec, lesson):
            trial = [*lesson.step(spec, step), *repeated(step)]
            _, layout = within(partial(_learn, objective, model, trial, lesson.unit, team, machine, spec.seed), layout)
            optimizer.zero_grad(set_to_none=True)
    vocabulary = model.config.get_text_config().vocab_size
    trainable_count, total_count = parameter_counts(model)
    channel.emit(
        "started",
        total_steps=lesson.total_steps,
        start_step=progress.step,
        steps_per_epoch=lesson.steps_per_epoch,
        trainable_parameters=trainable_count,
        total_parameters=total_count,
        weights_bytes=held_bytes(model),
        device=machine.name,
        dtype=str(machine.dtype).removeprefix("torch."),
        threads=machine.threads,
        processes=team.size,
        train_rows=len(lesson.train) // lesson.unit,
        validation_rows=len(lesson.validation) // lesson.unit,
        tokens_per_epoch=lesson.tokens_per_epoch,
    )
    for sentence in lesson.warnings:
        channel.emit("warning", message=sentence)

    progress = replace(progress, dtype=str(machine.dtype).removeprefix("torch."))
    used_share(machine)  # the first call starts the count
    energy_before = energy_joules(machine.device)
    saved_at = time.monotonic()
    pace = Pace(lesson.tokens_per_epoch / lesson.steps_per_epoch, tokens_of(lesson.validation))
    validation_loss: float | None = None
    while progress.step < lesson.total_steps:
        step_start = time.monotonic()
        rate = spec.learning_rate * rate_share(progress.step, lesson.total_steps, spec.warmup_share, spec.scheduler)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["pace"]
        rows = lesson.step(spec, progress.step)
        seed = spec.seed * 1_000_003 + progress.step  # dropout: a function of seed and step
        learnt = [*rows, *repeated(progress.step)]
        part, layout = within(partial(_learn, objective, model, learnt, lesson.unit, team, machine, seed), layout)
        measured = together(part, team)
        team.add_gradients(trained)
        loss = measured.loss
        norm = float(torch.nn.utils.clip_grad_norm_(trained, spec.max_grad_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise InputError(_diverged(spec, f"The loss is no longer a number at step {progress.step + 1}"))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        seconds, tokens = time.monotonic() - step_start, tokens_of(rows)
        memory = memory_bytes(machine.device)
        progress = replace(
            progress,
            step=progress.step + 1,
            tokens=progress.tokens + tokens,
            seconds=progress.seconds + seconds,
            peak_memory_bytes=max(progress.peak_memory_bytes, peak_bytes(machine.device)),
        )
        progress = with_step(progress, loss, lesson.steps_per_epoch)
        pace.add_step(seconds, tokens)
        left = pace.seconds_left(lesson.total_steps - progress.step, _looks_left(spec, lesson, progress.step))
        channel.emit(
            "step",
            step=progress.step,
            epoch=round(progress.step / lesson.steps_per_epoch, 4),
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            tokens_per_second=round(tokens / seconds, 1),
            tokens=progress.tokens,
            memory_bytes=memory,
            device_use=used_share(machine),
            seconds_left=round(left),
            **measured.rewards,
        )
        is_last = progress.step == lesson.total_steps
        if runs_away(progress, vocabulary):
            risen = f"The loss has risen from {progress.base_loss:.2f} to {progress.smooth_loss:.2f} by step"
            raise InputError(_diverged(spec, f"{risen} {progress.step}"))
        if lesson.validation and (is_last or progress.step % (spec.eval_every or lesson.steps_per_epoch) == 0):
            look_start = time.monotonic()
            what = (lesson, objective, machine, progress.step, spec.sample_answers, channel, team)
            loss, layout = within(partial(look, _inner(model), *what), layout)
            pace.add_look(time.monotonic() - look_start)
            if not math.isfinite(loss):
                raise InputError(
                    _diverged(spec, f"The validation loss is no longer a number after step {progress.step}")
                )
            used_share(machine)
            progress, validation_loss = with_look(progress, loss), loss
            if spec.early_stopping and progress.best_step == progress.step and team.is_first:
                checkpoints.save_best(run_dir, model)
            if is_patience_over(progress, spec.early_stopping):
                break
        must_stop = team.agree(channel.should_stop)
        if team.is_first and (must_stop or (not is_last and _is_due(spec, run_dir, progress.step, saved_at))):
            path = checkpoints.save(run_dir, model, optimizer, progress, spec.keep_checkpoints)
            saved_at = time.monotonic()
            channel.emit("checkpoint", step=progress.step, path=str(path))
        if must_stop:
            raise Cancelled
    if not team.is_first:
        return {}

    if spec.early_stopping and progress.best_loss is not None and progress.best_step < progress.step:
        checkpoints.load_best(run_dir, model)
        channel.emit("warning", message=_went_back(progress, lesson.total_steps))
        validation_loss = progress.best_loss
    folder = save_trained(model, lesson.tokenizer, spec)
    return {
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 1),
        "tokens_per_second": round(progress.tokens / max(progress.seconds, 1e-9), 1),
        "train_loss": progress.epoch_loss / progress.epoch_steps if progress.epoch_steps else None,
        "validation_loss": validation_loss,
        "validation_perplexity": None if validation_loss is None else perplexity(validation_loss),
        "best_step": progress.best_step or None,
        "peak_memory_bytes": progress.peak_memory_bytes,
        "energy_joules": _energy_since(energy_before, machine),
        "tokens_at_once": layout.token_limit,
        "gradient_checkpointing": bool(_inner(model).is_activation_checkpointing),
        "trainable_parameters": trainable_count,
        "total_parameters": total_count,
        "method": spec.method,
        "device": machine.name,
        "dtype": progress.dtype,
        "adapter": folder.name,
        "adapter_sha256": file_sha256(next(iter(sorted(folder.glob("*.safetensors"))))),
    }


def _looks_left(spec: TrainSpec, lesson: Lesson, step: int) -> int:
    """How many looks at the validation rows follow upon `step`, the one at the end among them."""
    if not lesson.validation or step == lesson.total_steps:
        return 0
    every = spec.eval_every or lesson.steps_per_epoch
    return (lesson.total_steps - 1) // every - step // every + 1


def _energy_since(before: float | None, machine: Machine) -> float | None:
    """What this attempt has drawn; None where the device has no meter."""
    now = energy_joules(machine.device)
    return None if before is None or now is None else round(now - before, 1)


def _base_loss(objective: Objective, model: Any, lesson: Lesson, machine: Machine, layout: Layout) -> float:
    """What the base model loses on some of the rows: above it nothing is learnt."""
    model.eval()
    found = objective.measure(_inner(model), lesson.train[: BASE_ROWS * lesson.unit], layout, machine)
    model.train()
    return found.loss


def _learn(
    objective: Objective,
    model: Any,
    rows: list[Tokens],
    unit: int,
    team: Team,
    machine: Machine,
    seed: int,
    layout: Layout,
) -> Measured:
    """This member's part of a step's gradient and loss."""
    torch.manual_seed(seed + team.rank)
    shared = sorted(units(rows, unit), key=tokens_of, reverse=True) if team.size > 1 else units(rows, unit)
    mine = [row for members in team.share(shared) for row in members]
    return objective.measure(_inner(model), mine, layout, machine, learn=True, of=rows)


def _within_memory(
    work: Callable[[Layout], T], layout: Layout, longest: int, machine: Machine, model: Any, channel: Channel
) -> tuple[T, Layout]:
    """Do `work`; where the device's memory does not hold it, again in smaller parts, then with checkpointing.

    Both change memory and speed, never the result. Returns the layout that worked: what follows starts from it.
    `longest` is the size in tokens of what cannot be parted.
    """
    while True:
        try:
            return work(layout), layout
        except RuntimeError as error:
            if not is_lack_of_memory(error):
                raise
            if layout.team.size > 1:  # the others wait in the same pass: nobody can go another way alone
                raise InputError(TOO_LITTLE_TOGETHER) from error
            if layout.token_limit > longest:
                layout = replace(layout, token_limit=max(longest, layout.token_limit // 2))
                cure = f"{layout.token_limit} tokens at once"
            elif not _inner(model).is_activation_checkpointing:
                use_checkpointing(_inner(model))
                cure = "gradient checkpointing"
            else:
                raise InputError(_too_little_memory(longest, model)) from error
        model.zero_grad(set_to_none=True)
        if machine.device.type == "cuda":
            torch.cuda.empty_cache()
        channel.emit("warning", message=f"The device's memory is too small: going on with {cure}, slower.")


def is_lack_of_memory(error: RuntimeError) -> bool:
    """CUDA has an error of its own for it; the processor's allocator only has words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _too_little_memory(tokens: int, model: Any) -> str:
    is_quantised = getattr(_inner(model), "is_quantized", False)
    cure = "" if is_quantised else "quantization 4bit (the base in a quarter of its memory), "
    return (
        f"The device's memory does not hold one row of {tokens} tokens, not even with gradient checkpointing. "
        f"Start a new run with {cure}a lower max_length or a lower rank."
    )


def _rehearse(run_dir: Path, model: Any, lesson: Lesson, machine: Machine, holders: Team) -> list[Tokens]:
    model.eval()
    rows = rehearsed_rows(run_dir / "rehearsal.json", _inner(model), lesson.tokenizer, machine, holders)
    model.train()
    return rows


def _inner(model: Any) -> Any:
    """The Transformers model itself: an adapter sits inside its layers, PEFT's wrapper around it only costs time."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _layout(spec: TrainSpec, model: Any, lesson: Lesson, machine: Machine, channel: Channel) -> Layout:
    """Token limit and whether rows may share a sequence: shown on this very model before anything is learnt."""
    model.eval()
    difference = layout_difference(_inner(model), lesson.train[:3], machine)
    model.train()
    if math.isnan(difference):
        raise InputError("The base model's own loss is not a number: its weights are damaged. Prepare it again.")
    if difference < (0.05 if machine.dtype == torch.bfloat16 else 1e-3):
        return Layout(spec.micro_batch_tokens, share_prefix=True)
    if lesson.unit > 1:
        raise InputError("This model cannot read several rows in one sequence, which preference tuning needs.")
    channel.emit(
        "warning", message="This model cannot read several rows in one sequence: it learns row by row, slower."
    )
    return Layout(0, share_prefix=False)


def _resume_point(spec: TrainSpec, run_dir: Path) -> tuple[Path | None, Progress]:
    fingerprint = _fingerprint(spec)
    checkpoint = checkpoints.newest(run_dir)
    if checkpoint is None:
        return None, Progress(fingerprint=fingerprint)
    progress = checkpoints.read_progress(checkpoint)
    if progress.fingerprint != fingerprint:
        raise InputError(f"The folder {run_dir.name} holds a run with other data or parameters. Start a new run.")
    return checkpoint, progress


def _fingerprint(spec: TrainSpec) -> str:
    usual = asdict(TrainSpec(data_path="", data_sha256="", base_dir=""))
    # A knob that came with a later version of the site, left as it is, makes no other run.
    fixed = {key: value for key, value in asdict(spec).items() if key not in FREE_FIELDS and value != usual[key]}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def _is_due(spec: TrainSpec, run_dir: Path, step: int, saved_at: float) -> bool:
    wish = run_dir / CHECKPOINT_WISH
    if wish.exists():
        wish.unlink()
        return True
    if spec.checkpoint_every:
        return step % spec.checkpoint_every == 0
    return time.monotonic() - saved_at > CHECKPOINT_SECONDS


def _diverged(spec: TrainSpec, what: str) -> str:
    return (
        f"{what}: the model has diverged. "
        f"Start a new run with a lower learning rate ({spec.learning_rate / 3:.1g} instead of {spec.learning_rate:g})."
    )


def _went_back(progress: Progress, total: int) -> str:
    early = f"Stopped at step {progress.step} of {total}: " if progress.step < total else ""
    best = f"the validation loss was lowest at step {progress.best_step} ({progress.best_loss:.4f})"
    return f"{early}{best}; the weights of that step are kept."


@contextlib.contextmanager
def _room_on_disk() -> Iterator[None]:
    """Say so when the disk is full; what was written whole before stays, and the run goes on from it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        told = re.search(r"os error (\d+)", str(error))  # safetensors' way
        if getattr(error, "errno", None) not in DISK_FULL and (not told or int(told[1]) not in DISK_FULL):
            raise
        raise InputError(
            "The disk that holds the runs is full. Nothing is lost: free some space (Runs, clean up), then resume."
        ) from error


@contextlib.contextmanager
def only_engine(run_dir: Path, channel: Channel) -> Iterator[None]:
    """Hold the run folder alone. The lock falls with the process, so a killed engine leaves none behind."""
    with (run_dir / "lock").open("w") as lock:
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise InputError("Another engine is training in this run folder. Stop it first.") from error
                channel.check()
                time.sleep(0.2)
        yield
