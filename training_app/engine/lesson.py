"""What a run learns from: the sealed rows as proved tokens, split, with the plan of its steps."""

import math
from dataclasses import dataclass
from typing import Any

from finetune_site.lib.channel import InputError
from training_app.engine.batches import steps_per_epoch
from training_app.engine.models import read_config
from training_app.engine.rows import Row, read_rows
from training_app.engine.spec import RunSpec
from training_app.engine.template import Tokens, load_tokenizer, tokenize


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

    @property
    def tokens_per_epoch(self) -> int:
        return sum(len(row.ids) for row in self.train)


def load_lesson(spec: RunSpec) -> Lesson:
    """Read, verify and tokenise; `InputError` for whatever a training must refuse."""
    rows = read_rows(spec.data_path, spec.data_sha256)
    tokenizer = load_tokenizer(spec.base_dir)
    context: int = read_config(spec.base_dir).get_text_config().max_position_embeddings
    longest = min(spec.max_length, context)
    made = {
        split: tokenize(tokenizer, [row for row in rows if row.split == split], longest)
        for split in ("train", "validation")
    }
    if not made["train"]:
        raise InputError("The dataset version has no training rows. Seal one with a smaller validation share.")
    per_epoch = steps_per_epoch(len(made["train"]), spec.batch_rows)
    total = math.ceil(per_epoch * spec.epochs)
    counts = {name: sum(row.split == name for row in rows) for name in ("train", "validation", "recall")}
    return Lesson(
        tokenizer,
        made["train"],
        made["validation"],
        [row for row in rows if row.split == "validation" and len(row.messages) > 1 and _is_answered(row)],
        counts,
        min(total, spec.max_steps) if spec.max_steps else total,
        per_epoch,
        _warnings(made["train"], made["validation"], spec, longest),
    )


def _is_answered(row: Row) -> bool:
    return row.messages[-1]["role"] == "assistant"


def _warnings(train: list[Tokens], validation: list[Tokens], spec: RunSpec, longest: int) -> list[str]:
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
    if len(train) < spec.batch_rows:
        found.append(f"There are only {len(train)} training rows: every step sees all of them.")
    return found
