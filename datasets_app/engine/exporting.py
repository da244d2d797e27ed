"""Sealed rows in the formats that other programs read: one JSON object a line. What a format cannot carry stays behind
and is counted before anybody downloads it.

What `formats` reads of a file written here is the same conversation, pair or text again.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Export:
    """`kinds`: of which examples it holds lines. `about` names who reads it. `columns`: what LLaMA-Factory's
    `dataset_info.json` says of it; empty where it does not read it."""

    key: str
    title: str
    about: str
    kinds: tuple[str, ...]
    write: Callable[[Row], Iterator[Row]]
    columns: dict[str, Any]


def lines(key: str, rows: Iterable[Row], *, has_provenance: bool = False) -> Iterator[str]:
    """The lines of an export. With provenance each says in `metadata` which example, document, page and quote it rests
    on, and which split it serves."""
    export = EXPORTS[key]
    for row in rows:
        if row["kind"] not in export.kinds:
            continue
        for line in export.write(row):
            if has_provenance:
                line = {**line, "metadata": {name: row[name] for name in PROVENANCE if row[name] is not None}}
            yield json.dumps(line, ensure_ascii=False) + "\n"


def left_behind(key: str, kinds: dict[str, int]) -> dict[str, int]:
    """How many examples of which kind a format does not hold."""
    return {kind: count for kind, count in kinds.items() if count and kind not in EXPORTS[key].kinds}


def dataset_info(name: str, files: dict[str, str]) -> str:
    """LLaMA-Factory's description of files, each given by its export's key."""
    told = {
        f"{name}_{key}": {"file_name": file, **EXPORTS[key].columns}
        for key, file in files.items()
        if EXPORTS[key].columns
    }
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


PROVENANCE = (
    "example_id", "text_id", "split", "document", "page_start", "page_end", "section", "quote", "generator", "model",
    "prompt_version",
)  # fmt: skip


def _messages(row: Row) -> Iterator[Row]:
    yield {"messages": row["messages"]}


def _parts(row: Row) -> tuple[str, list[tuple[str, str]]]:
    """The system message, and the questions with their answers."""
    messages = row["messages"]
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    turns = [message["content"] for message in messages if message["role"] != "system"]
    return system, list(zip(turns[::2], turns[1::2], strict=True))


def _alpaca(row: Row) -> Iterator[Row]:
    system, turns = _parts(row)
    (question, answer), earlier = turns[-1], [list(turn) for turn in turns[:-1]]
    yield {
        "instruction": question,
        "input": "",
        "output": answer,
        **({"system": system} if system else {}),
        **({"history": earlier} if earlier else {}),
    }


def _sharegpt(row: Row) -> Iterator[Row]:
    system, turns = _parts(row)
    said = [{"from": role, "value": text} for turn in turns for role, text in zip(("human", "gpt"), turn, strict=True)]
    yield {"conversations": said, **({"system": system} if system else {})}


def _completion(row: Row) -> Iterator[Row]:
    yield {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}


def _preference(row: Row) -> Iterator[Row]:
    yield {name: row[name] for name in ("prompt", "chosen", "rejected")}


def _kto(row: Row) -> Iterator[Row]:
    if row["kind"] == "preference":
        yield {"prompt": row["prompt"], "completion": row["chosen"], "label": True}
        yield {"prompt": row["prompt"], "completion": row["rejected"], "label": False}
        return
    system, turns = _parts(row)
    if not system and len(turns) == 1:
        yield {"prompt": turns[0][0], "completion": turns[0][1], "label": True}


def _text(row: Row) -> Iterator[Row]:
    yield {"text": row["text"]}


_TAGS = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
EXPORTS = {
    export.key: export
    for export in (
        Export(
            "messages", "Messages", "OpenAI's and TRL's conversations", ("chat",), _messages,
            {
                "formatting": "sharegpt",
                "columns": {"messages": "messages"},
                "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                         "assistant_tag": "assistant", "system_tag": "system"},
            },
        ),
        Export(
            "alpaca", "Alpaca", "instruction and output, earlier turns as history", ("chat",), _alpaca,
            {
                "columns": {"prompt": "instruction", "query": "input", "response": "output", "system": "system",
                            "history": "history"}
            },
        ),
        Export(
            "sharegpt", "ShareGPT", "turns from human and gpt", ("chat",), _sharegpt,
            {
                "formatting": "sharegpt",
                "columns": {"messages": "conversations", "system": "system"},
                "tags": _TAGS,
            },
        ),
        Export("completion", "Prompt and completion", "TRL's supervised rows", ("chat",), _completion, {}),
        Export(
            "preference", "Preference", "TRL's DPO rows", ("preference",), _preference,
            {
                "ranking": True,
                "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
            },
        ),
        Export("kto", "KTO", "one answer a line, good or bad", ("preference", "chat"), _kto, {}),
        Export(
            "text", "Text", "for continued pre-training", ("text",), _text, {"columns": {"prompt": "text"}}
        ),
    )
}  # fmt: skip
