"""From messages to tokens: which of them the model learns to write, proved for every row.

The loss falls on the assistant's words and the token that ends the turn, nothing else. Where those stand depends on
the model's chat template, so it is not assumed but shown: the template renders the conversation up to each answer and
past it, and the rendered texts, the tokens and the decoded spans must agree. What cannot be proved is not trained.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from finetune_site.lib.channel import InputError
from training_app.engine.rows import Message, Row

REHEARSED = -1  # the example_id of a row that is no row of the dataset


@dataclass(frozen=True)
class Tokens:
    """One row as the model sees it. `trained[i]` says whether token i is learnt."""

    example_id: int
    ids: list[int]
    trained: list[bool]
    truncated: bool
    skipped_answers: int = 0  # answers that are read only
    reference: float = 0.0  # log-probability of the trained tokens under the base model, where it is needed

    @property
    def trained_count(self) -> int:
        return sum(self.trained)


def load_tokenizer(base_dir: str) -> Any:
    """The base model's tokenizer; `InputError` when it has no chat template or cannot say where tokens stand."""
    from transformers import AutoTokenizer

    if not (Path(base_dir) / "config.json").exists():
        raise InputError("The base model's folder is missing or not prepared. Prepare the base model first.")
    tokenizer = AutoTokenizer.from_pretrained(base_dir, local_files_only=True, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise InputError("The base model has no chat template: choose an instruct or chat model.")
    if not tokenizer.is_fast:
        raise InputError(
            "The base model's tokenizer cannot tell where its tokens stand in the text; it needs a fast one."
        )
    return tokenizer


def render(tokenizer: Any, messages: list[Message], *, ask: bool = False) -> str:
    """The conversation as text; with `ask`, up to where the assistant starts to write.

    Templates of models that can think are told not to: rows hold answers, not thoughts. Others ignore the word.
    """
    return str(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask, enable_thinking=False)
    )


def tokenize(tokenizer: Any, rows: list[Row], max_length: int) -> list[Tokens]:
    """Tokens of every row, with proof. `InputError` names the first row that has none or whose mask is not proved.

    A conversation gives one entry, a text one or more pieces, a preference pair two: the chosen answer after its
    prompt, then the rejected one.
    """
    import jinja2

    made: list[Tokens] = []
    for row in rows:
        try:
            if row.kind == "text":
                made += tokenize_text(tokenizer, row, max_length)
            else:
                answers = (row, row.with_answer(row.rejected)) if row.kind == "preference" else (row,)
                made += [tokenize_row(tokenizer, answer, max_length) for answer in answers]
        except jinja2.TemplateError as error:
            raise InputError(f"Row {row.example_id}: the model's chat template refuses it: {error}") from error
    return made


def tokenize_text(tokenizer: Any, row: Row, max_length: int) -> list[Tokens]:
    """A text in pieces of at most `max_length` tokens, every token learnt, its end marked; nothing is lost."""
    ids = tokenizer(row.text)["input_ids"]
    if tokenizer.eos_token_id is not None and ids[-1:] != [tokenizer.eos_token_id]:
        ids = [*ids, tokenizer.eos_token_id]
    pieces = [ids[start : start + max_length] for start in range(0, len(ids), max_length)]
    # The first token has nothing before it to be predicted from.
    return [Tokens(row.example_id, piece, [False, *[True] * (len(piece) - 1)], False) for piece in pieces if piece[1:]]


def tokenize_row(tokenizer: Any, row: Row, max_length: int) -> Tokens:
    """Tokens of one row, cut to `max_length`; `InputError` as in `tokenize`."""
    if not any(message["role"] == "assistant" and message["content"].strip() for message in row.messages):
        raise InputError(f"Row {row.example_id} has no assistant answer: there is nothing to learn. Reject or edit it.")
    text = render(tokenizer, row.messages)
    spans, skipped = _answer_spans(tokenizer, row, text)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    trained = [any(start <= left and right <= end for start, end in spans) and right > left for left, right in offsets]
    for start, end in spans:
        _prove_tokens(tokenizer, row, text, (start, end), ids, offsets)
    cut = Tokens(row.example_id, ids[:max_length], trained[:max_length], len(ids) > max_length, skipped)
    # The first token has nothing before it to be predicted from.
    if not any(cut.trained[1:]):
        raise InputError(
            f"Row {row.example_id}: its answer begins beyond max_length ({max_length} tokens). "
            "Raise max_length or shorten the question."
        )
    return cut


def _answer_spans(tokenizer: Any, row: Row, text: str) -> tuple[list[tuple[int, int]], int]:
    """Character spans of the answers with their end-of-turn tokens, and how many answers are read but not learnt.

    The last answer must be proved. An earlier one that the template writes differently once a turn follows (some drop
    its thoughts) is not what the model would write there, and is left out.
    """
    spans: list[tuple[int, int]] = []
    skipped = 0
    places = [index for index, message in enumerate(row.messages) if message["role"] == "assistant"]
    for index in places:
        try:
            spans.append(_answer_span(tokenizer, row.messages[: index + 1], text))
        except _Unproved as error:
            if index == places[-1]:
                raise _unproved(row, str(error)) from None
            skipped += 1
    if any(first[1] > second[0] for first, second in pairwise(spans)):
        raise _unproved(row, "two answers overlap")
    return spans, skipped


def _answer_span(tokenizer: Any, messages: list[Message], text: str) -> tuple[int, int]:
    """Where in `text` the last of `messages` stands, proved by rendering the conversation up to it and past it."""
    asked = render(tokenizer, messages[:-1], ask=True)
    answered = render(tokenizer, messages)
    if not answered.startswith(asked):
        raise _Unproved("the template writes earlier turns differently once an answer follows")
    content, body = messages[-1]["content"].strip(), answered[len(asked) :]
    lead = body.find(content)
    if lead < 0 or body[:lead].strip():
        raise _Unproved("the template does not write the answer where the model is asked to begin")
    tail = body[lead + len(content) :]
    specials = sorted({str(token) for token in tokenizer.all_special_tokens}, key=len, reverse=True)
    stop = next((token for token in specials if tail.lstrip().startswith(token)), None)
    if stop is None:
        raise _Unproved("the template does not end the answer with a special token")
    end = len(asked) + lead + len(content) + tail.index(stop) + len(stop)
    if text[:end] != answered[:end]:
        raise _Unproved("the template writes an answer differently once a turn follows")
    return len(asked), end


def _prove_tokens(
    tokenizer: Any, row: Row, text: str, span: tuple[int, int], ids: list[int], offsets: list[tuple[int, int]]
) -> None:
    """No token may straddle the span's ends, and the question must read the same when the model is asked it alone."""
    start, end = span
    if any(left < edge < right for left, right in offsets for edge in span):
        raise _unproved(row, "a token reaches over the border between question and answer")
    first = next(index for index, (left, right) in enumerate(offsets) if left >= start and right > left)
    if tokenizer(text[:start], add_special_tokens=False)["input_ids"] != ids[:first]:
        raise _unproved(row, "the question is cut into other tokens when an answer follows")
    inside = [
        token
        for token, (left, right) in zip(ids, offsets, strict=True)
        if start <= left and right <= end and right > left
    ]
    if tokenizer.decode(inside, clean_up_tokenization_spaces=False) != text[start:end]:
        raise _unproved(row, "its trained tokens do not decode to the answer")


class _Unproved(Exception):
    """Why it cannot be shown where an answer stands."""


def _unproved(row: Row, why: str) -> InputError:
    return InputError(
        f"Row {row.example_id}: which tokens are the answer cannot be proved: {why}. "
        "Choose another base model or edit the row."
    )
