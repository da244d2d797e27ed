"""Task `preview`: a run looked at before it starts: its tokens, first batch, memory and time. No weight is loaded.

It refuses what the run would refuse, with the same sentences, because it reads the rows through the same code.
"""

from itertools import cycle
from pathlib import Path
from typing import Any

from finetune_site.lib.channel import Channel, InputError
from training_app.engine.batches import tokens_of
from training_app.engine.estimate import estimate
from training_app.engine.hardware import choose_machine, power_watts
from training_app.engine.lesson import Lesson, load_lesson
from training_app.engine.spec import PreviewSpec
from training_app.engine.template import Tokens

SHOWN_ROWS = 8
PAIR = ("better answer", "worse answer")
TITLES = {
    "dpo": PAIR,
    "orpo": PAIR,
    "kto": (*PAIR, "an unrelated answer: tells how far the model has drifted, not learnt"),
}


def preview(spec: PreviewSpec, channel: Channel) -> dict[str, Any]:
    """Tokenise every row with proof, count, estimate, and show the first batch as the model will see it."""
    if not spec.out_dir:
        raise InputError("The spec lacks out_dir.")
    Path(spec.out_dir).mkdir(parents=True, exist_ok=True)
    channel.emit("started")
    lesson = load_lesson(spec)
    channel.check()
    machine = choose_machine(spec.threads, spec.device, spec.dtype)
    expected = estimate(spec, lesson, machine)
    rows = (*lesson.train, *lesson.validation)
    first = lesson.step(spec, 0)
    watts, watts_how = power_watts(machine)
    titles = TITLES.get(spec.objective, ("",))
    return {
        "rows": lesson.rows_by_split,
        "tokens_per_epoch": lesson.tokens_per_epoch,
        "trained_tokens_per_epoch": sum(row.trained_count for row in lesson.train),
        "longest_row": max(len(row.ids) for row in rows),
        "truncated_rows": sum(row.truncated for row in rows),
        "steps": lesson.total_steps,
        "steps_per_epoch": lesson.steps_per_epoch,
        "device": machine.name,
        "dtype": str(machine.dtype).removeprefix("torch."),
        "threads": machine.threads,
        "trainable_parameters": expected.trainable_parameters,
        "memory_bytes": expected.memory_bytes,
        "memory_available_bytes": expected.memory_available_bytes,
        "padding_avoided": round(plain_padding(spec, lesson), 4),
        "kilowatt_hours": round(expected.seconds * watts / 3.6e6, 6),
        "energy_how": f"{watts:.0f} W: {watts_how}.",
        "seconds": expected.seconds,
        "seconds_how": expected.how,
        "first_batch": [pieces(lesson.tokenizer, row) for row in first[:SHOWN_ROWS]],
        "first_batch_titles": [title for _, title in zip(first[:SHOWN_ROWS], cycle(titles), strict=False)],
        "first_batch_rows": len(first),
        "template_proof": (
            f"In {len(rows)} of {len(rows)} rows the trained tokens decode to exactly the assistant's words and the "
            "token that ends the turn, and the question alone is cut into the same tokens as in training."
        ),
        "warnings": [*lesson.warnings, *expected.warnings],
    }


def plain_padding(spec: PreviewSpec, lesson: Lesson) -> float:
    """The share of padding in an epoch of plain batches, each filled up to its longest row; here no padding is made."""
    steps = [lesson.step(spec, number) for number in range(lesson.steps_per_epoch)]
    filled = sum(max(len(row.ids) for row in rows) * len(rows) for rows in steps)
    return 1 - sum(map(tokens_of, steps)) / filled if filled else 0.0


def pieces(tokenizer: Any, row: Tokens) -> list[tuple[str, bool]]:
    """A row as [text, trained] token by token. Tokens that hold only part of a character are shown together."""
    shown: list[tuple[str, bool]] = []
    waiting: list[int] = []
    for token, trained in zip(row.ids, row.trained, strict=True):
        waiting.append(token)
        text = tokenizer.decode(waiting, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and len(waiting) < 8:
            continue
        shown.append((text, trained))
        waiting = []
    return shown
