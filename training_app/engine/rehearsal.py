"""Rehearsal against forgetting: the base model's own answers to general questions, mixed into every step.

A run that sees nothing but facts of one document soon answers everything in their manner. Before the first step the
base model answers these questions greedily; a few of its answers stand in every step beside the rows (experience
replay, Robins 1995, with the model's own words as in Li and Hoiem, Learning without Forgetting, 2016). None of the
questions, nor their like, is among those of `general.py`, which measure what was forgotten.
"""

import random
from pathlib import Path
from typing import Any

import torch

from training_app.engine.answers import end_tokens, pad_left
from training_app.engine.hardware import Machine
from training_app.engine.team import Team
from training_app.engine.template import REHEARSED, Tokens, render

ANSWER_TOKENS = 48
BATCH_ROWS = 20
QUESTIONS = (
    "Hello!",
    "Who are you?",
    "What can you help me with?",
    "Thank you very much.",
    "How do I boil an egg?",
    "How do I make a cup of tea?",
    "Give me a tip for sleeping well.",
    "Name three fruits.",
    "Name two musical instruments.",
    "List three things one takes to the beach.",
    "What is a bicycle?",
    "What is a bridge for?",
    "What does a doctor do?",
    "What does a teacher do?",
    "What is photosynthesis?",
    "Why does the wind blow?",
    "Why do leaves fall in autumn?",
    "What causes rain?",
    "How does a refrigerator work?",
    "What is gravity?",
    "What is democracy?",
    "What is the internet?",
    "What is an algorithm?",
    "What is a computer program?",
    "Explain in one sentence what a library is.",
    "Write one sentence about the sea.",
    "Write a short greeting for a birthday card.",
    "Write a two-line poem about winter.",
    "Tell me a short joke.",
    "Give me a word that rhymes with light.",
    "Put this in the past tense: I walk to school.",
    "Is this sentence happy or sad? I lost my keys and missed the train.",
    "Translate to French: good morning.",
    "In which season does it snow most often?",
    "Which language do people speak in Brazil?",
    "On which continent is Egypt?",
    "What do bees make?",
    "How many legs does a spider have?",
    "What is ice made of?",
    "At what temperature does water boil?",
)


def rehearsed_rows(path: Path, model: Any, tokenizer: Any, machine: Machine, team: Team) -> list[Tokens]:
    """The base model's answers as rows. They are written to `path` once: a resumed run rehearses the same words.

    `team` holds the model split among them, or is one alone.
    """
    rows = team.once(path, lambda: _answers(model, tokenizer, machine))["rows"]
    return [Tokens(REHEARSED, row["ids"], [i >= row["asked"] for i in range(len(row["ids"]))], False) for row in rows]


def step_rehearsal(rows: list[Tokens], count: int, seed: int, step: int) -> list[Tokens]:
    """Which of them one step repeats: a function of seed and step."""
    order = list(range(len(rows)))
    random.Random(f"rehearsal:{seed}").shuffle(order)  # noqa: S311
    return [rows[order[(step * count + place) % len(order)]] for place in range(count)]


@torch.no_grad()
def _answers(model: Any, tokenizer: Any, machine: Machine) -> dict[str, Any]:
    prompts = [
        tokenizer(render(tokenizer, [{"role": "user", "content": text}], ask=True), add_special_tokens=False)[
            "input_ids"
        ]
        for text in QUESTIONS
    ]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    ends, rows = end_tokens(tokenizer), []
    for start in range(0, len(order), BATCH_ROWS):
        chosen = [prompts[index] for index in order[start : start + BATCH_ROWS]]
        input_ids, attention_mask = pad_left(chosen, ends[0])
        with torch.autocast(machine.device.type, dtype=torch.bfloat16, enabled=machine.dtype == torch.bfloat16):
            output = model.generate(
                input_ids=input_ids.to(machine.device),
                attention_mask=attention_mask.to(machine.device),
                max_new_tokens=ANSWER_TOKENS,
                do_sample=False,
                use_cache=True,
                pad_token_id=ends[0],
                eos_token_id=ends,
            )
        for ids, written in zip(chosen, output[:, input_ids.shape[1] :].tolist(), strict=True):
            rows.append({"asked": len(ids), "ids": ids + _until_end(written, ends)})
    return {"rows": rows}


def _until_end(written: list[int], ends: list[int]) -> list[int]:
    stop = next((place for place, token in enumerate(written) if token in ends), len(written))
    return written[: stop + 1]
