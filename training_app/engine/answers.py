"""Answers of a model to prepared conversations: greedy, in batches, padded on the left."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from training_app.engine.rows import Message
from training_app.engine.template import render

NONE_YET: Mapping[int, str] = MappingProxyType({})


def end_tokens(tokenizer: Any) -> list[int]:
    """Tokens at which an answer ends: the tokenizer's own end and the one the template writes after a turn."""
    asked = [{"role": "user", "content": "a"}]
    answered = [*asked, {"role": "assistant", "content": "b"}]
    tail = render(tokenizer, answered)[len(render(tokenizer, asked, ask=True)) :]
    specials = set(tokenizer.all_special_ids)
    written = [token for token in tokenizer(tail, add_special_tokens=False)["input_ids"] if token in specials]
    return sorted({tokenizer.eos_token_id, *written[:1]} - {None})


@torch.inference_mode()
def answer_all(
    model: Any,
    tokenizer: Any,
    conversations: list[list[Message]],
    *,
    max_new_tokens: int,
    batch_rows: int,
    on_batch: Callable[[dict[int, str]], None],
    known: Mapping[int, str] = NONE_YET,
) -> list[str]:
    """One greedy answer per conversation, in order. `on_batch` hears each batch's answers, by the conversation's index.
    `known` are those of an earlier attempt: a batch is the same in every attempt, and is asked again unless all of its
    answers are known."""
    prompts = [
        tokenizer(render(tokenizer, messages, ask=True), add_special_tokens=False)["input_ids"]
        for messages in conversations
    ]
    # Prompts of like length go together; the longest first, so that a lack of memory shows at once.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    ends = end_tokens(tokenizer)
    answers = [known.get(index, "") for index in range(len(prompts))]
    for start in range(0, len(order), batch_rows):
        chosen = order[start : start + batch_rows]
        if all(index in known for index in chosen):
            continue
        input_ids, attention_mask = pad_left([prompts[index] for index in chosen], ends[0])
        output = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,  # a model that is being trained has it off
            pad_token_id=ends[0],
            eos_token_id=ends,
        )
        texts = tokenizer.batch_decode(output[:, input_ids.shape[1] :], skip_special_tokens=True)
        for index, text in zip(chosen, texts, strict=True):
            answers[index] = text.strip()
        on_batch({index: answers[index] for index in chosen})
    return answers


def pad_left(prompts: list[list[int]], filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask of prompts that all end at the same column."""
    width = max(map(len, prompts))
    ids = torch.tensor([[filler] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
