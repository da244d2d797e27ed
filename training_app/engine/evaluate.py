"""Task `evaluate`: the base and the tuned model answer the same held-out questions, judged the same way."""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from finetune_site.lib.channel import Channel, InputError, read_journal
from training_app.engine.general import QUESTIONS
from training_app.engine.rows import Message, Row, read_rows
from training_app.engine.scoring import contains, is_exact, is_right, rouge_l, token_f1
from training_app.engine.spec import EvaluateSpec

LOSS_TOKENS = 2048
_OF_THE_MACHINE = {"threads", "device", "dtype"}  # what may differ between the attempts of one evaluation


@dataclass(frozen=True)
class Question:
    """One thing asked. Any of `accepted` in the answer makes it right; without keys token F1 decides."""

    set: str
    example_id: int | None
    messages: list[Message]
    reference: str
    accepted: tuple[str, ...]

    def score(self, answer: str) -> float:
        """1 for a right answer, else 0."""
        if self.accepted:
            return float(any(contains(answer, key) for key in self.accepted))
        return float(is_right(answer, self.reference, ""))


@dataclass(frozen=True)
class Outcome:
    """What one model made of it: its answers, its mean loss on the validation rows, and the share of the validation
    pairs in which it finds the chosen answer likelier, token for token, than the rejected one.
    """

    answers: list[str]
    loss: float | None
    preferred: float | None


class Sheet:
    """`answers.jsonl`: what the models have answered so far, batch by batch, so that a later attempt goes on there."""

    def __init__(self, path: Path, spec: EvaluateSpec) -> None:
        asked = {name: value for name, value in asdict(spec).items() if name not in _OF_THE_MACHINE}
        asked = json.loads(json.dumps(asked))
        self.answers: dict[str, dict[int, str]] = {"base": {}, "tuned": {}}
        self.figures: dict[str, dict[str, float | None]] = {}
        lines = list(read_journal(path))
        if not lines or lines[0] != {"asked": asked}:  # none yet, or those of other questions
            lines = []
            path.write_text(json.dumps({"asked": asked}) + "\n", encoding="utf-8")
        for line in lines[1:]:
            if "figures" in line:
                self.figures[line["side"]] = line["figures"]
            else:
                self.answers[line["side"]] |= {int(index): text for index, text in line["answers"].items()}
        self._stream = path.open("a", encoding="utf-8")
        self._stream.write("\n")  # a line that a kill tore stays alone

    @property
    def count(self) -> int:
        """How many answers there are, of both models."""
        return sum(map(len, self.answers.values()))

    def keep(self, side: str, answers: dict[int, str]) -> None:
        self.answers[side] |= answers
        self._write({"side": side, "answers": answers})

    def measure(self, side: str, loss: float | None, preferred: float | None) -> None:
        self.figures[side] = {"loss": loss, "preferred": preferred}
        self._write({"side": side, "figures": self.figures[side]})

    def outcome(self, side: str) -> Outcome:
        """All of a model that has answered everything."""
        return Outcome([text for _, text in sorted(self.answers[side].items())], **self.figures[side])

    def _write(self, line: dict[str, Any]) -> None:
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._stream.flush()


def evaluate(spec: EvaluateSpec, channel: Channel) -> dict[str, Any]:
    """Emit a `row` event for every question; return the sums of each set and the validation losses."""
    rows = read_rows(spec.data_path, spec.data_sha256)
    questions = collect_questions(spec, rows)
    Path(spec.out_dir).mkdir(parents=True, exist_ok=True)
    sheet = Sheet(Path(spec.out_dir) / "answers.jsonl", spec)
    channel.emit("started", done=sheet.count, total=2 * len(questions))
    base, tuned = _ask_both(spec, rows, questions, sheet, channel)
    pairs = zip(questions, base.answers, tuned.answers, strict=True)
    judged = [_judge(index, *item) for index, item in enumerate(pairs)]
    for row in judged:
        channel.emit("row", **row)
    return {
        "sets": {name: _sum([row for row in judged if row["set"] == name]) for name in {q.set: 0 for q in questions}},
        "base_validation_loss": base.loss,
        "tuned_validation_loss": tuned.loss,
        "base_perplexity": None if base.loss is None else math.exp(base.loss),
        "tuned_perplexity": None if tuned.loss is None else math.exp(tuned.loss),
        "base_preferred": base.preferred,
        "tuned_preferred": tuned.preferred,
    }


def collect_questions(spec: EvaluateSpec, rows: list[Row]) -> list[Question]:
    """The questions of the wanted splits, then the general ones."""
    asked: list[Question] = []
    for split in spec.splits:
        held_out = [row for row in rows if row.split == split and row.is_answered]
        for row in held_out[: spec.max_rows]:
            keys = (row.answer_key,) if row.answer_key else ()
            asked.append(Question(split, row.example_id, row.messages[:-1], row.messages[-1]["content"], keys))
    if spec.general:
        for text, accepted in QUESTIONS:
            asked.append(Question("general", None, [{"role": "user", "content": text}], accepted[0], accepted))
    if not asked:
        raise InputError("The version holds no question to ask. Seal one with a recall or validation share.")
    return asked


def _ask_both(
    spec: EvaluateSpec, rows: list[Row], questions: list[Question], sheet: Sheet, channel: Channel
) -> list[Outcome]:
    from training_app.engine.adapters import trained_folder
    from training_app.engine.answers import answer_all
    from training_app.engine.hardware import choose_machine
    from training_app.engine.loss import mean_loss
    from training_app.engine.models import load_base, load_tuned
    from training_app.engine.template import load_tokenizer, tokenize

    trained_folder(spec.run_dir, spec.method)  # refused before the base has answered everything
    tokenizer = load_tokenizer(spec.base_dir)
    machine = choose_machine(spec.threads, spec.device, spec.dtype)
    held_out = [row for row in rows if row.split == "validation"][: spec.max_rows]
    # Of a pair the chosen answer is what the model should write.
    wording = [replace(row, kind="chat") if row.kind == "preference" else row for row in held_out]
    validation = tokenize(tokenizer, wording, LOSS_TOKENS)
    pairs = tokenize(tokenizer, [row for row in held_out if row.kind == "preference"], LOSS_TOKENS)
    loaders = {
        "base": lambda: load_base(spec.base_dir, machine.device),
        "tuned": lambda: load_tuned(spec.base_dir, spec.run_dir, spec.method, machine.device),
    }
    for side, load in loaders.items():
        if side in sheet.figures:  # the last that is kept of a model
            continue

        def keep(answers: dict[int, str], side: str = side) -> None:
            sheet.keep(side, answers)
            channel.emit("progress", done=sheet.count, total=2 * len(questions))
            channel.check()

        model = load().to(machine.dtype).eval()
        channel.check()
        answer_all(
            model,
            tokenizer,
            [question.messages for question in questions],
            max_new_tokens=spec.max_new_tokens,
            batch_rows=spec.batch_rows,
            on_batch=keep,
            known=sheet.answers[side],
        )
        loss = mean_loss(model, validation, machine, LOSS_TOKENS) if validation else None
        sheet.measure(side, loss, _preferred(model, pairs, machine))
    return [sheet.outcome(side) for side in loaders]


def _preferred(model: Any, pairs: list[Any], machine: Any) -> float | None:
    from training_app.engine.objectives import Layout, log_probabilities

    if not pairs:
        return None
    sums = log_probabilities(model, pairs, Layout(LOSS_TOKENS, share_prefix=True), machine)
    each = [value / sum(row.trained[1:]) for row, value in zip(pairs, sums, strict=True)]
    above = [chosen > rejected for chosen, rejected in zip(each[::2], each[1::2], strict=True)]
    return round(sum(above) / len(above), 4)


def _judge(index: int, question: Question, base: str, tuned: str) -> dict[str, Any]:
    return {
        "index": index,
        "set": question.set,
        "example_id": question.example_id,
        "question": question.messages[-1]["content"],
        "reference": question.reference,
        "answer_key": " | ".join(question.accepted),
        "base_answer": base,
        "tuned_answer": tuned,
        "base_score": question.score(base),
        "tuned_score": question.score(tuned),
        "base_exact": is_exact(base, (question.reference, *question.accepted)),
        "tuned_exact": is_exact(tuned, (question.reference, *question.accepted)),
        "base_f1": round(token_f1(base, question.reference), 4),
        "tuned_f1": round(token_f1(tuned, question.reference), 4),
        "base_rouge_l": round(rouge_l(base, question.reference), 4),
        "tuned_rouge_l": round(rouge_l(tuned, question.reference), 4),
    }


def _sum(rows: list[dict[str, Any]]) -> dict[str, float]:
    """How many were asked, how many each had right and word for word, what the base had right and the tuned kept, mean
    F1 and ROUGE-L.
    """
    means = {
        name: round(sum(row[name] for row in rows) / len(rows), 4)
        for name in ("base_f1", "tuned_f1", "base_rouge_l", "tuned_rouge_l")
    }
    return {
        "rows": len(rows),
        "base_right": sum(row["base_score"] for row in rows),
        "tuned_right": sum(row["tuned_score"] for row in rows),
        "kept_right": sum(row["base_score"] * row["tuned_score"] for row in rows),
        "base_exact": sum(row["base_exact"] for row in rows),
        "tuned_exact": sum(row["tuned_exact"] for row in rows),
        **means,
    }
