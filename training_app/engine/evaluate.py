"""Base against tuned, row by row: greedy answers to held-out questions, judged the same way for both."""

from dataclasses import dataclass
from typing import Any

import torch

from finetune_site.lib.channel import Channel, InputError
from training_app.engine import data, general, models, scoring
from training_app.engine.loss import mean_loss
from training_app.engine.spec import EvaluateSpec

LOSS_TOKENS = 1024


@dataclass(frozen=True)
class Question:
    """One thing asked: `accepted` holds the keys any of which makes an answer right; empty: token F1 decides."""

    set: str
    example_id: int | None
    messages: list[dict[str, str]]
    reference: str
    accepted: tuple[str, ...]

    def score(self, answer: str) -> float:
        if self.accepted:
            return float(any(scoring.contains(answer, key) for key in self.accepted))
        return float(scoring.is_right(answer, self.reference, ""))


def run(spec: EvaluateSpec, link: Channel) -> dict[str, Any]:
    """Ask the base, then the tuned model; emits a `row` event for each question and returns the sums."""
    models.set_threads(spec.threads)
    device = models.device_of(spec.device)
    version = data.read_version(spec.data_path, spec.data_sha256)
    tokenizer = models.load_tokenizer(spec.base_dir)
    questions = _questions(spec, version)
    validation = data.tokenize(data.conversations(version, "validation"), tokenizer, LOSS_TOKENS)
    bins = data.pack(validation, LOSS_TOKENS)
    total = 2 * len(questions)
    link.emit("started", total=total)
    answers, losses = [], []
    for load in (
        lambda: models.load_base(spec.base_dir, device).eval(),
        lambda: models.load_tuned(spec.base_dir, spec.run_dir, spec.method, device),
    ):
        model = load()
        losses.append(mean_loss(model, bins, device) if bins else None)
        answers.append(_ask(model, tokenizer, questions, spec, link, done=len(answers) * len(questions), total=total))
        del model
    rows = [_row(index, *parts) for index, parts in enumerate(zip(questions, *answers, strict=True))]
    for row in rows:
        link.emit("row", **row)
    return {"sets": _sums(rows), "base_validation_loss": losses[0], "tuned_validation_loss": losses[1]}


def _questions(spec: EvaluateSpec, version: list[dict[str, Any]]) -> list[Question]:
    asked = []
    for split in spec.splits:
        for row in data.conversations(version, split)[: spec.max_rows]:
            messages = row["messages"]
            if len(messages) > 1 and messages[-1]["role"] == "assistant":
                accepted = (row["answer_key"],) if row["answer_key"] else ()
                asked.append(Question(split, row["example_id"], messages[:-1], messages[-1]["content"], accepted))
    if spec.is_general:
        for text, accepted in general.QUESTIONS:
            asked.append(Question("general", None, [{"role": "user", "content": text}], accepted[0], accepted))
    if not asked:
        raise InputError("The version holds no question to ask: seal one with a recall or validation share.")
    return asked


@torch.no_grad()
def _ask(
    model: Any, tokenizer: Any, questions: list[Question], spec: EvaluateSpec, link: Channel, *, done: int, total: int
) -> list[str]:
    """Greedy answers, in batches of questions of like length padded on the left."""
    prompts = [
        tokenizer(
            data.render(tokenizer, question.messages, is_prompt=True, name="A question"), add_special_tokens=False
        )
        for question in questions
    ]
    order = sorted(range(len(questions)), key=lambda index: len(prompts[index]["input_ids"]))
    answers = [""] * len(questions)
    tokenizer.padding_side = "left"
    for start in range(0, len(order), spec.batch_rows):
        link.check()
        chosen = order[start : start + spec.batch_rows]
        batch = tokenizer.pad([prompts[index] for index in chosen], return_tensors="pt").to(model.device)
        output = model.generate(
            **batch,
            max_new_tokens=spec.max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted(data.end_tokens(tokenizer)),
        )
        texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for index, text in zip(chosen, texts, strict=True):
            answers[index] = text.strip()
        link.emit("progress", done=done + start + len(chosen), total=total)
    return answers


def _row(index: int, question: Question, base: str, tuned: str) -> dict[str, Any]:
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
        "base_f1": round(scoring.token_f1(base, question.reference), 4),
        "tuned_f1": round(scoring.token_f1(tuned, question.reference), 4),
    }


def _sums(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per set: how many were asked, how many each model had right, the mean F1, and what the base had that was kept."""
    sums: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(row["set"] for row in rows):
        of_set = [row for row in rows if row["set"] == name]
        sums[name] = {
            "rows": len(of_set),
            "base_right": sum(row["base_score"] for row in of_set),
            "tuned_right": sum(row["tuned_score"] for row in of_set),
            "kept_right": sum(row["base_score"] * row["tuned_score"] for row in of_set),
            "base_f1": round(sum(row["base_f1"] for row in of_set) / len(of_set), 4),
            "tuned_f1": round(sum(row["tuned_f1"] for row in of_set) / len(of_set), 4),
        }
    return sums
