"""The file formats in which people already have examples, read line by line with errors that name the line.

messages: {"messages": [{"role", "content"}, ...]} · alpaca: {"instruction", "input", "output"} · sharegpt:
{"conversations": [{"from", "value"}, ...]} · preference: {"prompt", "chosen", "rejected"} · text: {"text"}. JSON
Lines, or one JSON array. Standard library only.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

FORMATS = ("messages", "alpaca", "sharegpt", "preference", "text")
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
    if {"prompt", "chosen", "rejected"} <= record.keys():
        return "preference"
    if "messages" in record:
        return "messages"
    if "conversations" in record:
        return "sharegpt"
    if "instruction" in record and "output" in record:
        return "alpaca"
    if record.keys() == {"text"}:
        return "text"
    raise FormatError(
        "The record is of no known format: it needs “messages”, or “instruction” and “output”, or “conversations”, "
        f"or “prompt”, “chosen” and “rejected”, or “text” alone. It has: {', '.join(map(str, record)) or 'nothing'}."
    )


def read_rows(stream: IO[str], format: str = "") -> Iterator[Row | RowError]:
    """The examples of a text stream; an empty `format` is detected record by record."""
    for line, record in _records(stream):
        if isinstance(record, RowError):
            yield record
            continue
        try:
            yield _READERS[format or detect_format(record)](line, record)
        except FormatError as error:
            yield RowError(line, str(error))


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
    return Row(line, "chat", _checked(record.get("conversations"), "from", "value", _SHAREGPT_ROLES))


def _read_alpaca(line: int, record: dict[str, Any]) -> Row:
    question = _text(record, "instruction")
    if extra := record.get("input"):
        question = f"{question}\n\n{extra}"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": _text(record, "output")}]
    if system := record.get("system"):
        messages.insert(0, {"role": "system", "content": str(system)})
    return Row(line, "chat", messages)


def _read_preference(line: int, record: dict[str, Any]) -> Row:
    prompt, chosen, rejected = (_answer(record, name) for name in ("prompt", "chosen", "rejected"))
    if chosen == rejected:
        raise FormatError("“chosen” and “rejected” are the same text, so there is nothing to prefer.")
    return Row(line, "preference", prompt=prompt, chosen=chosen, rejected=rejected)


def _read_text(line: int, record: dict[str, Any]) -> Row:
    return Row(line, "text", text=_text(record, "text"))


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
    "preference": _read_preference,
    "text": _read_text,
}
