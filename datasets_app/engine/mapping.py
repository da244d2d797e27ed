"""Tasks of any Label Studio project as examples: which texts a task holds, and which text is which field of ours."""

import json
from collections.abc import Mapping
from typing import Any

from datasets_app.engine.formats import Row, RowError
from datasets_app.engine.labelling import PREFERENCE, TEXT, LabellingError, Layout, to_content

KINDS = {PREFERENCE.name: "preference", TEXT.name: "text"}  # all else is a conversation


def texts_of(data: Mapping[str, Any], result: list[dict[str, Any]]) -> dict[str, str]:
    """The texts of a task by names that people can choose from: of its data, and of an annotation's controls."""
    found = {f"data: {name}": _text(value) for name, value in data.items()}
    for entry in result:
        value = entry.get("value")
        if isinstance(value, dict) and value:
            found[f"annotation: {entry.get('from_name')}"] = _text(next(iter(value.values())))
    return {name: text for name, text in found.items() if text.strip()}


def guess(layout: Layout, names: list[str]) -> dict[str, str]:
    """For each field the name that is called like it, an annotation's before the data's; empty where none is."""
    return {
        field.name: next((name for name in sorted(names) if name.split(": ", 1)[1] == field.name), "")
        for field in layout.fields
    }


def to_row(layout: Layout, mapping: Mapping[str, str], texts: Mapping[str, str], line: int) -> Row | RowError:
    """The example that a task makes; `line` is the task's id."""
    values = {name: texts.get(source, "") for name, source in mapping.items()}
    try:
        content = to_content(layout, values)
    except LabellingError as error:
        return RowError(line, str(error))
    return Row(line, KINDS.get(layout.name, "chat"), **content)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    return "" if value is None else json.dumps(value, ensure_ascii=False)
