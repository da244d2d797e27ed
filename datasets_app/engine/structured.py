"""JSON and JSON Lines: names become headings, lists of records tables, everything else “name: value” lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets_app.engine.elements import LIST_ITEM, TEXT, TITLE, Element
from datasets_app.engine.partition import decode
from datasets_app.engine.sheets import table_elements
from finetune_site.lib.channel import InputError

MAX_DEPTH = 6
MAX_COLUMNS = 50


def read_json(path: Path) -> Iterator[Element]:
    try:
        value = json.loads(decode(path))
    except json.JSONDecodeError as error:
        raise InputError(f"The file is not valid JSON: {error.msg} in line {error.lineno}.") from error
    except RecursionError as error:
        raise InputError("The JSON is nested too deeply to be read.") from error
    yield from _told(value, 0)


def read_json_lines(path: Path) -> Iterator[Element]:
    """Each line a value. Examples to train on are imported into a dataset instead; here they are text."""
    values = []
    for number, line in enumerate(decode(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values.append(json.loads(line))
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"Line {number} of the file is not valid JSON.") from error
    yield from _told(values, 0)


def _told(value: Any, depth: int) -> Iterator[Element]:
    if isinstance(value, dict) and depth < MAX_DEPTH:
        yield from _mapping(value, depth)
    elif isinstance(value, list) and depth < MAX_DEPTH:
        yield from _listing(value, depth)
    elif value not in (None, "", [], {}):
        yield Element(0, TEXT, _line(value))


def _mapping(value: dict[str, Any], depth: int) -> Iterator[Element]:
    plain = {name: entry for name, entry in value.items() if not isinstance(entry, dict | list)}
    if plain:
        yield Element(0, TEXT, "\n".join(f"{name}: {_line(entry)}" for name, entry in plain.items()))
    for name, entry in value.items():
        if name not in plain and entry:
            yield Element(0, TITLE, name, depth=depth)
            yield from _told(entry, depth + 1)


def _listing(value: list[Any], depth: int) -> Iterator[Element]:
    if not any(isinstance(entry, dict | list) for entry in value):
        for entry in value:
            yield Element(0, LIST_ITEM, _line(entry))
        return
    if len(value) > 1 and all(map(_is_flat, value)):
        columns = list(dict.fromkeys(name for entry in value for name in entry))
        if len(columns) <= MAX_COLUMNS:
            rows = ([_line(entry[name]) if name in entry else "" for name in columns] for entry in value)
            yield from table_elements([columns, *rows], None)
            return
    for entry in value:
        yield from _told(entry, depth + 1)


def _is_flat(entry: Any) -> bool:
    return isinstance(entry, dict) and bool(entry) and not any(isinstance(part, dict | list) for part in entry.values())


def _line(value: Any) -> str:
    """A value on one line; nothing of it is lost."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split())
