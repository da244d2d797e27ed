"""A look at the validation rows while a run trains: their loss, and what the model answers to some of them now."""

import math
from typing import Any

import torch

from finetune_site.lib.channel import Channel
from training_app.engine.answers import answer_all
from training_app.engine.batches import units
from training_app.engine.hardware import Machine
from training_app.engine.lesson import Lesson
from training_app.engine.objectives import Layout, Measured, Objective
from training_app.engine.team import Team

VALIDATION_ROWS = 200
ANSWER_TOKENS = 48


def look(
    model: Any,
    lesson: Lesson,
    objective: Objective,
    machine: Machine,
    step: int,
    samples: int,
    link: Channel,
    team: Team,
    layout: Layout,
) -> float:
    """Emit `eval`, the loss of every validation row, and a `sample` for each of `samples` questions.

    Returns the mean loss; of one that is no number nothing is told. `model` is the Transformers model, its adapter in
    its layers. Its mode is put back.
    """
    rows = lesson.validation[: VALIDATION_ROWS * lesson.unit]
    mine = [row for members in team.share(units(rows, lesson.unit)) for row in members]
    was_training = model.training
    model.eval()
    found = together(objective.measure(model, mine, layout, machine, of=rows), team)
    model.train(was_training)
    if not math.isfinite(found.loss):
        return found.loss
    link.emit("eval", step=step, loss=found.loss, perplexity=perplexity(found.loss), **found.rewards)
    link.emit("rows", step=step, losses=[[example, round(loss, 5)] for example, loss in found.by_example.items()])
    if team.is_first or layout.team.size > 1:
        _answer(model, lesson, machine, step, samples, link)
    return found.loss


def together(part: Measured, team: Team) -> Measured:
    """The whole of which every member measured a part."""
    if team.size == 1:
        return part
    sums = [part.loss, part.reward_margin or 0.0, part.reward_accuracy or 0.0]
    loss, margin, accuracy = team.add(torch.tensor(sums, dtype=torch.float64)).tolist()
    by_example = {example: value for found in team.gather(part.by_example) for example, value in found.items()}
    is_pairs = part.reward_margin is not None
    return Measured(loss, by_example, margin if is_pairs else None, accuracy if is_pairs else None)


def perplexity(loss: float) -> float:
    return math.exp(min(loss, 50.0))


def _answer(model: Any, lesson: Lesson, machine: Machine, step: int, samples: int, link: Channel) -> None:
    """Always the same questions, spread evenly over the validation rows."""
    asked = lesson.questions[:: max(1, len(lesson.questions) // samples)][:samples] if samples else []
    if not asked:
        return
    was_training = model.training
    model.eval()
    with torch.autocast(machine.device.type, dtype=torch.bfloat16, enabled=machine.dtype == torch.bfloat16):
        answers = answer_all(
            model,
            lesson.tokenizer,
            [row.messages[:-1] for row in asked],
            max_new_tokens=ANSWER_TOKENS,
            batch_rows=len(asked),
            on_batch=lambda done: None,
        )
    model.train(was_training)
    for row, answer in zip(asked, answers, strict=True):
        link.emit(
            "sample",
            step=step,
            example_id=row.example_id,
            question=row.messages[-2]["content"],
            answer=answer,
            reference=row.messages[-1]["content"],
        )
