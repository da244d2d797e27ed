"""From a sealed version to trained tokens: reading, the chat template, the proof of the mask, packing.

Loss falls on the assistant's tokens alone. Which tokens those are is proved for every row, never assumed: the prompt
rendered for inference must be the exact beginning of the rendered conversation, in text and in tokens, and the trained
tokens must decode to the answer and its end mark.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet

from finetune_site.lib.channel import InputError


@dataclass(frozen=True)
class Row:
    """One conversation as tokens: `ids` and, of the same length, whether each is trained."""

    example_id: int
    split: str
    ids: list[int]
    is_trained: list[bool]
    is_cut: bool

    @property
    def trained_tokens(self) -> int:
        return sum(self.is_trained[1:])


def read_version(path: str, sha256: str) -> list[dict[str, Any]]:
    """The rows of a sealed version; `InputError` when the file is not the one that was sealed."""
    try:
        with open(path, "rb") as stream:  # noqa: PTH123
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            "The file of the dataset version is missing. Restore it from a backup or seal anew."
        ) from error
    if digest != sha256:
        raise InputError("The dataset version's file is not the one that was sealed (its SHA-256 differs).")
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


def conversations(rows: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """The rows of one split that supervised fine-tuning can use; preference pairs are refused."""
    chosen = [row for row in rows if row["split"] == split]
    if any(row["kind"] != "chat" for row in chosen):
        raise InputError(
            "The version holds preference pairs, which supervised fine-tuning cannot use. "
            "Seal a version of conversations alone."
        )
    return chosen


def tokenize(rows: list[dict[str, Any]], tokenizer: Any, max_length: int) -> list[Row]:
    """Tokenize conversations; `InputError` naming the example when a mask cannot be proved or nothing is trained."""
    made = []
    for row in rows:
        ids, trained = encode(row["messages"], tokenizer, name=f"Example {row['example_id']}")
        cut = Row(row["example_id"], row["split"], ids[:max_length], trained[:max_length], len(ids) > max_length)
        if not cut.trained_tokens:
            raise InputError(
                f"Example {row['example_id']} has no trained token within {max_length} tokens: its answer is empty or "
                "lies behind the cut. Raise “Longest example” or reject it."
            )
        made.append(cut)
    return made


def encode(messages: list[dict[str, str]], tokenizer: Any, *, name: str) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation and which of them are trained: each answer and the end mark after it."""
    text = render(tokenizer, messages, is_prompt=False, name=name)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    trained = [False] * len(ids)
    last = 0
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(tokenizer, messages[:turn], is_prompt=True, name=name)
        start = _proved_start(text, prompt, ids, offsets, tokenizer, name)
        last = _train_answer(message["content"], start, ids, trained, tokenizer, name)
    if not any(trained):
        raise InputError(f"{name} has no answer of an assistant, so nothing of it would be trained. Reject or edit it.")
    return ids[:last], trained[:last]


def render(tokenizer: Any, messages: list[dict[str, str]], *, is_prompt: bool, name: str) -> str:
    """The conversation as the model's chat template writes it."""
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_prompt))
    except TemplateError as error:
        raise InputError(f"{name}: the model's chat template refuses the conversation: {error}") from error


def _proved_start(text: str, prompt: str, ids: list[int], offsets: Any, tokenizer: Any, name: str) -> int:
    """The index of the answer's first token, proved by text and by tokens."""
    if not text.startswith(prompt):
        raise InputError(
            f"{name}: the chat template writes the prompt differently in training than when the model is asked, so the "
            "mask cannot be proved. Use single-turn examples or another base model."
        )
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if ids[: len(prompt_ids)] != prompt_ids:
        raise InputError(f"{name}: prompt and answer melt into one token, so the mask cannot be proved.")
    return len(prompt_ids)


def _train_answer(content: str, start: int, ids: list[int], trained: list[bool], tokenizer: Any, name: str) -> int:
    """Mark the answer that begins at token `start` and its end mark as trained; returns the index after them."""
    ends = end_tokens(tokenizer)
    end = next((index for index in range(start, len(ids)) if ids[index] in ends), None)
    if end is None:
        raise InputError(f"{name}: the chat template closes the answer with no end mark; the model would never stop.")
    answer = tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False)
    if answer.strip() != content.strip():
        raise InputError(
            f"{name}: the trained tokens do not decode to the answer (the chat template changes it, or the answer "
            "contains one of the model's control marks). Edit the example or choose another base model."
        )
    trained[start : end + 1] = [True] * (end + 1 - start)
    return end + 1


def end_tokens(tokenizer: Any) -> set[int]:
    """Tokens that end a turn: the end-of-sequence token, and the usual names where a model has its own."""
    names = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "</s>", "<|endoftext|>", "<|return|>")
    known = tokenizer.get_vocab()
    return {tokenizer.eos_token_id} | {known[name] for name in names if name in known}


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """The row numbers of each update in one epoch: of seed and epoch alone, so that a resumed run sees the same."""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)  # noqa: S311
    for start in range(0, count, batch_size):
        yield order[start : start + batch_size]


def pack(rows: list[Row], max_tokens: int) -> list[list[Row]]:
    """Put rows into as few bins of at most `max_tokens` as first-fit-decreasing finds; a longer row gets its own."""
    bins: list[tuple[int, list[Row]]] = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        for index, (size, members) in enumerate(bins):
            if size + len(row.ids) <= max_tokens:
                bins[index] = (size + len(row.ids), [*members, row])
                break
        else:
            bins.append((len(row.ids), [row]))
    return [members for _, members in bins]
