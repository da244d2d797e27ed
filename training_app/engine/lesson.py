"""What a run learns from: the sealed rows as proved tokens, split, with the plan of its steps."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from finetune_site.lib.channel import InputError
from training_app.engine.batches import step_rows, steps_per_epoch, tokens_of, units
from training_app.engine.models import read_config
from training_app.engine.rows import KINDS, Row, read_rows
from training_app.engine.spec import OBJECTIVES, ROW_KINDS, RunSpec
from training_app.engine.template import Tokens, load_tokenizer, tokenize
from training_app.engine.token_cache import cached

# Rows drawn together: chosen and rejected answer; for KTO also the prompt with an unrelated answer.
UNITS = {"dpo": 2, "kto": 3, "orpo": 2}


@dataclass(frozen=True)
class Lesson:
    """Tokenised rows by split. `rows_by_split` counts all rows, also those only evaluated later."""

    tokenizer: Any
    train: list[Tokens]
    validation: list[Tokens]
    questions: list[Row]  # validation rows that end with an answer
    rows_by_split: dict[str, int]
    total_steps: int
    steps_per_epoch: int
    warnings: list[str]
    unit: int = 1  # rows that follow one another and are drawn together: the answers of a preference pair

    @property
    def tokens_per_epoch(self) -> int:
        return tokens_of(self.train)

    def step(self, spec: RunSpec, number: int) -> list[Tokens]:
        """The rows of one step, counted from 0."""
        drawn = step_rows(len(self.train) // self.unit, spec.batch_rows, spec.seed, number)
        return [row for index in drawn for row in self.train[index * self.unit : (index + 1) * self.unit]]


def load_lesson(spec: RunSpec) -> Lesson:
    """Read, verify and tokenise; `InputError` for whatever a training must refuse."""
    every = read_rows(spec.data_path, spec.data_sha256)
    rows = [row for row in every if row.kind == spec.row_kind]
    if not rows:
        raise InputError(_wrong_kind(spec, every))
    tokenizer = load_tokenizer(spec.base_dir)
    context: int = read_config(spec.base_dir).get_text_config().max_position_embeddings
    longest = min(spec.max_length, context)
    parts = {split: [row for row in rows if row.split == split] for split in ("train", "validation", "recall")}

    def tokenize_splits() -> dict[str, list[Tokens]]:
        return {split: _tokenize(spec, tokenizer, parts[split], longest) for split in ("train", "validation")}

    settings = {"longest": longest, "objective": spec.objective}
    made = cached(spec.base_dir, spec.data_path, tokenizer, settings, tokenize_splits)
    if not made["train"]:
        raise InputError("The dataset version has no training rows. Seal one with a smaller validation share.")
    unit = UNITS.get(spec.objective, 1)
    drawn = len(made["train"]) // unit
    per_epoch = steps_per_epoch(drawn, spec.batch_rows)
    total = math.ceil(per_epoch * spec.epochs)
    return Lesson(
        tokenizer,
        made["train"],
        made["validation"],
        [row for row in parts["validation"] if row.is_answered],
        {split: len(part) for split, part in parts.items()},
        min(total, spec.max_steps) if spec.max_steps else total,
        per_epoch,
        [*_left_out(spec, every), *_warnings(made["train"], made["validation"], spec, longest, drawn)],
        unit,
    )


def _tokenize(spec: RunSpec, tokenizer: Any, rows: list[Row], longest: int) -> list[Tokens]:
    """The rows' tokens; for KTO each pair is followed by its prompt with the next pair's answer."""
    made = tokenize(tokenizer, rows, longest)
    if spec.objective != "kto":
        return made
    shifted = [
        row.with_answer(other.messages[-1]["content"]) for row, other in zip(rows, rows[1:] + rows[:1], strict=True)
    ]
    unrelated = tokenize(tokenizer, [replace(row, kind="chat") for row in shifted], longest)
    return [row for pair, extra in zip(units(made, 2), unrelated, strict=True) for row in (*pair, extra)]


def _wrong_kind(spec: RunSpec, rows: list[Row]) -> str:
    held = " and ".join(KINDS[kind] for kind in dict.fromkeys(row.kind for row in rows))
    fitting = ", ".join(name for name in OBJECTIVES if ROW_KINDS[name] in {row.kind for row in rows})
    return (
        f"The version holds {held}, but the objective {spec.objective} learns from {KINDS[spec.row_kind]}. "
        f"Choose another version, or one of these objectives: {fitting}."
    )


def _left_out(spec: RunSpec, rows: list[Row]) -> list[str]:
    others = Counter(row.kind for row in rows if row.kind != spec.row_kind and row.split == "train")
    return [
        f"{count} {KINDS[kind]} are left out: they teach nothing under this objective."
        for kind, count in others.items()
    ]


def _warnings(train: list[Tokens], validation: list[Tokens], spec: RunSpec, longest: int, drawn: int) -> list[str]:
    found = []
    if cut := sum(row.truncated for row in (*train, *validation)):
        is_models = longest < spec.max_length
        cure = "The base model reads no more; shorten the rows." if is_models else "Raise max_length to keep it."
        found.append(f"{cut} rows are longer than {longest} tokens and lose their end. {cure}")
    if partly := sum(row.skipped_answers > 0 for row in (*train, *validation)):
        found.append(
            f"In {partly} conversations only the later answers are learnt: the model's chat template writes earlier "
            "ones differently once a turn follows."
        )
    if not validation:
        found.append("There are no validation rows: nothing will show when the model stops generalising.")
    if drawn < spec.batch_rows:
        found.append(f"There are only {drawn} training rows: every step sees all of them.")
    return found
