"""The file formats in which people already have examples, read line by line with errors that name the line.

messages: {"messages": [{"role", "content"}, ...]} · alpaca: {"instruction", "input", "output", "system", "history"} ·
sharegpt: {"conversations": [{"from", "value"}, ...], "system"} · completion: {"prompt", "completion"} · preference:
{"prompt", "chosen", "rejected"}, or chosen and rejected conversations that begin alike · kto: {"prompt", "completion",
"label"}, of which a good and a bad answer to one prompt make a preference pair · text: {"text"}. Prompts and answers
may be texts or lists of messages (TRL's conversational form). JSON Lines, or one JSON array. Standard library only.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

FORMATS = ("messages", "alpaca", "sharegpt", "completion", "preference", "kto", "text")
MAX_LINE_CHARACTERS = 2_000_000
_ROLES = {"system", "user", "assistant"}
_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Row:
    """One example of a file: a conversation, a preference pair with its prompt, or a text."""

    line: int
    kind: str
    messages: list[dict[str, str]] = field(default_factory=list)
    prompt: str = ""
    chosen: str = ""
    rejected: str = ""
    text: str = ""

    @property
    def content(self) -> dict[str, Any]:
        """What an example keeps of it."""
        if self.kind == "chat":
            return {"messages": self.messages}
        if self.kind == "text":
            return {"text": self.text}
        return {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}


@dataclass(frozen=True)
class RowError:
    """A line that cannot be used, and what to do about it."""

    line: int
    message: str


class FormatError(ValueError):
    """One record is not of its format; the message says how."""


def detect_format(record: dict[str, Any]) -> str:
    """The format of one record by its keys; `FormatError` when it is none of ours."""
    if {"chosen", "rejected"} <= record.keys():
        return "preference"
    if {"prompt", "completion"} <= record.keys():
        return "kto" if "label" in record else "completion"
    if "messages" in record:
        return "messages"
    if "conversations" in record:
        return "sharegpt"
    if "instruction" in record and "output" in record:
        return "alpaca"
    if record.keys() == {"text"}:
        return "text"
    raise FormatError(
        "The record is of no known format: it needs “messages”, or “instruction” and “output”, or “conversations”, or "
        "“prompt” and “completion”, or “chosen” and “rejected”, or “text” alone. It has: "
        f"{', '.join(map(str, record)) or 'nothing'}."
    )


def read_rows(stream: IO[str], format: str = "") -> Iterator[Row | RowError]:
    """The examples of a text stream; an empty `format` is detected record by record."""
    pairs = _Pairs()
    for line, record in _records(stream):
        if isinstance(record, RowError):
            yield record
            continue
        try:
            if (chosen := format or detect_format(record)) == "kto":
                yield from pairs.take(line, record)
            else:
                yield _READERS[chosen](line, record)
        except FormatError as error:
            yield RowError(line, str(error))
    yield from pairs.rest()


class _Pairs:
    """Good and bad answers, each in a line of its own, until the other one to its prompt comes."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, bool], list[tuple[int, str]]] = {}

    def take(self, line: int, record: dict[str, Any]) -> Iterator[Row]:
        label = record.get("label")
        if not isinstance(label, bool):
            raise FormatError("“label” must be true for a good answer or false for a bad one.")
        prompt, answer = _prompt(record), _answer(record, "completion")
        if others := self._waiting.get((prompt, not label)):
            _, other = others.pop(0)
            good, bad = (answer, other) if label else (other, answer)
            if good == bad:
                raise FormatError("The same answer is called good and bad.")
            yield Row(line, "preference", prompt=prompt, chosen=good, rejected=bad)
        else:
            self._waiting.setdefault((prompt, label), []).append((line, answer))

    def rest(self) -> Iterator[Row | RowError]:
        """A good answer without a bad one is a conversation; a bad one alone teaches nothing here."""
        for (prompt, is_good), answers in self._waiting.items():
            for line, answer in answers:
                if is_good:
                    yield Row(line, "chat", _asked(prompt, answer))
                else:
                    yield RowError(line, "A bad answer alone: no good one to its prompt stands in the file.")


def check_messages(messages: Any) -> list[dict[str, str]]:
    """A conversation with known roles that alternate and end with an answer; `FormatError` says what is wrong."""
    return _checked(messages, "role", "content", dict.fromkeys(_ROLES))


def to_messages_line(messages: list[dict[str, str]]) -> str:
    """One line of messages JSONL, the format every trainer reads."""
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def to_preference_line(prompt: str, chosen: str, rejected: str) -> str:
    return json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}, ensure_ascii=False) + "\n"


def to_text_line(text: str) -> str:
    return json.dumps({"text": text}, ensure_ascii=False) + "\n"


def _records(stream: IO[str]) -> Iterator[tuple[int, Any]]:
    first = stream.read(1)
    while first.isspace() or first == "\ufeff":
        first = stream.read(1)
    if first == "[":
        yield from _array(first + stream.read())
        return
    for number, text in enumerate(_lines(first, stream), start=1):
        if len(text) > MAX_LINE_CHARACTERS:
            yield number, RowError(number, f"The line is longer than {MAX_LINE_CHARACTERS:,} characters. Split it.")
        elif text.strip():
            yield number, _parse(number, text)


def _lines(first: str, stream: IO[str]) -> Iterator[str]:
    yield first + stream.readline(MAX_LINE_CHARACTERS + 2)
    while line := stream.readline(MAX_LINE_CHARACTERS + 2):
        yield line


def _parse(number: int, text: str) -> Any:
    try:
        record = json.loads(text)
    except ValueError as error:
        return RowError(number, f"This is not JSON ({error}). Each line must hold one whole JSON object.")
    if not isinstance(record, dict):
        return RowError(number, "The line holds no JSON object: it must begin with { and end with }.")
    return record


def _array(text: str) -> Iterator[tuple[int, Any]]:
    """A JSON array of objects; the line of each is where it begins."""
    decoder, position, line = json.JSONDecoder(), 1, 1
    while True:
        start = position
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        line += text.count("\n", start, position)
        if position >= len(text) or text[position] == "]":
            return
        try:
            record, end = decoder.raw_decode(text, position)
        except ValueError as error:
            yield line, RowError(line, f"From here on the file is not JSON ({error}).")
            return
        yield line, record if isinstance(record, dict) else RowError(line, "The entry is not a JSON object.")
        line += text.count("\n", position, end)
        position = end


def _read_messages(line: int, record: dict[str, Any]) -> Row:
    return Row(line, "chat", check_messages(record.get("messages")))


def _read_sharegpt(line: int, record: dict[str, Any]) -> Row:
    return Row(line, "chat", _led(record, _checked(record.get("conversations"), "from", "value", _SHAREGPT_ROLES)))


def _read_completion(line: int, record: dict[str, Any]) -> Row:
    """A prompt with its answer, both as texts or as messages."""
    prompt, answer = record.get("prompt"), record.get("completion")
    if isinstance(prompt, list) and isinstance(answer, list):
        return Row(line, "chat", check_messages([*prompt, *answer]))
    return Row(line, "chat", _asked(_prompt(record), _answer(record, "completion")))


def _read_alpaca(line: int, record: dict[str, Any]) -> Row:
    question = _text(record, "instruction")
    if extra := record.get("input"):
        question = f"{question}\n\n{extra}"
    history = record.get("history") or []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise FormatError("“history” must be a list of pairs: a question and its answer.")
    turns = [message for turn in history for message in _asked(str(turn[0]).strip(), str(turn[1]).strip())]
    return Row(line, "chat", _led(record, check_messages([*turns, *_asked(question, _text(record, "output"))])))


def _asked(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _led(record: dict[str, Any], messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """With the system message that stands beside the conversation, where there is one."""
    system = str(record.get("system") or "").strip()
    return (
        [{"role": "system", "content": system}, *messages] if system and messages[0]["role"] != "system" else messages
    )


def _read_preference(line: int, record: dict[str, Any]) -> Row:
    chosen, rejected = (_answer(record, name) for name in ("chosen", "rejected"))
    prompt = _prompt(record)
    if chosen == rejected:
        raise FormatError("“chosen” and “rejected” are the same text, so there is nothing to prefer.")
    return Row(line, "preference", prompt=prompt, chosen=chosen, rejected=rejected)


def _read_text(line: int, record: dict[str, Any]) -> Row:
    return Row(line, "text", text=_text(record, "text"))


def _prompt(record: dict[str, Any]) -> str:
    """What is asked: the last message of a prompt, or of what chosen and rejected conversations have before their
    answers."""
    if "prompt" in record:
        return _only_turn(record["prompt"]) if isinstance(record["prompt"], list) else _text(record, "prompt")
    before = record.get("chosen")
    if not isinstance(before, list) or len(before) < 2 or before[:-1] != (record.get("rejected") or [])[:-1]:
        raise FormatError("Without “prompt”, “chosen” and “rejected” must be conversations that begin alike.")
    return _only_turn(before[:-1])


def _only_turn(turns: list[Any]) -> str:
    """The one question of a prompt that is a list of messages: what stood before it would be lost."""
    if len(turns) != 1 or not isinstance(turns[0], dict):
        raise FormatError(f"The prompt has {len(turns)} turns. A pair has one question here: write them into one.")
    return _text(turns[0], "content")


def _answer(record: dict[str, Any], name: str) -> str:
    """A text, or a list of messages whose last one is it (TRL's conversational form)."""
    value = record.get(name)
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        return _text(value[-1], "content")
    return _text(record, name)


def _checked(value: Any, role_key: str, text_key: str, roles: dict[str, Any]) -> list[dict[str, str]]:
    """Turns with known roles, alternating, ending with an answer."""
    if not isinstance(value, list) or not value:
        raise FormatError("The conversation is empty: it needs at least a question and an answer.")
    messages = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, dict) or turn.get(role_key) not in roles:
            known = ", ".join(sorted(roles))
            raise FormatError(f"Turn {number} has no “{role_key}” that is one of {known}.")
        role = roles[turn[role_key]] or turn[role_key]
        messages.append({"role": role, "content": _text(turn, text_key)})
    order = [message["role"] for message in messages if message["role"] != "system"]
    if order != ["user", "assistant"] * (len(order) // 2) or not order:
        raise FormatError("Questions and answers must alternate, beginning with a question and ending with an answer.")
    if "system" in [message["role"] for message in messages[1:]]:
        raise FormatError("A system message may stand only at the beginning.")
    return messages


def _text(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise FormatError(f"“{key}” is missing or empty; it must be a text.")
    return value.strip()


_READERS = {
    "messages": _read_messages,
    "alpaca": _read_alpaca,
    "sharegpt": _read_sharegpt,
    "completion": _read_completion,
    "preference": _read_preference,
    "text": _read_text,
}
