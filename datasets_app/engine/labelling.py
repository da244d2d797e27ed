"""How examples look in Label Studio: the labelling config of each layout, what a task holds, and how an annotation is
read back. Standard library only; the config is built here and sent as it stands.

Every text is a field that can be edited, filled from the task. The verdict is never filled in.
"""

import hashlib
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets_app.engine.formats import FormatError, check_messages

VERDICTS = {
    "approve": "Use it as it stands, with your edits",
    "fix": "Needs another pass",
    "reject": "Never train on it",
}
ISSUES = ("hallucination", "incomplete", "off-topic", "duplicate", "personal data")
TURN = re.compile(r"^### (system|user|assistant)$", re.MULTILINE)
LIKE_A_TURN = re.compile(r"^\\*### (system|user|assistant)$", re.MULTILINE)


class LabellingError(ValueError):
    """An annotation cannot be used; the message says what the annotator should do."""


@dataclass(frozen=True)
class Field:
    """One text of an example as an annotator edits it."""

    name: str
    title: str
    rows: int
    required: bool = True


@dataclass(frozen=True)
class Layout:
    """The fields of one shape of example."""

    name: str
    title: str
    fields: tuple[Field, ...]


SINGLE = Layout(
    "single",
    "questions and answers",
    (
        Field("system", "System prompt (optional)", 2, required=False),
        Field("instruction", "Instruction", 3),
        Field("input", "Input (optional context, joined to the instruction)", 2, required=False),
        Field("output", "Output", 6),
    ),
)
TURNS = Layout(
    "turns",
    "conversations of several turns",
    (Field("conversation", "Conversation: turns begin with a line ### user or ### assistant; ### system first", 18),),
)
PREFERENCE = Layout(
    "preference",
    "preference pairs",
    (Field("prompt", "Prompt", 3), Field("chosen", "Better answer", 5), Field("rejected", "Worse answer", 5)),
)
TEXT = Layout("text", "texts", (Field("text", "Text", 14),))
LAYOUTS = {layout.name: layout for layout in (SINGLE, TURNS, PREFERENCE, TEXT)}


@dataclass(frozen=True)
class Reading:
    """What an annotator decided: the texts as they stand now, the verdict and its grounds."""

    content: dict[str, Any]
    verdict: str
    issues: tuple[str, ...] = ()
    quality: int | None = None  # 1 to 5
    comment: str = ""


def layout_of(content: Mapping[str, Any]) -> Layout:
    """The layout that shows a text's content whole."""
    if "text" in content:
        return TEXT
    if "prompt" in content:
        return PREFERENCE
    roles = [message["role"] for message in content["messages"]]
    return SINGLE if roles in (["user", "assistant"], ["system", "user", "assistant"]) else TURNS


def fits(layout: Layout, content: Mapping[str, Any]) -> bool:
    """Whether a layout can show a content whole: a conversation may have shrunk to one question since."""
    return layout_of(content) is layout or (layout is TURNS and "messages" in content)


def to_values(layout: Layout, content: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a text's content in a layout that it fits, by their names."""
    if layout is SINGLE:
        texts = {message["role"]: message["content"] for message in content["messages"]}
        system = texts.get("system", "")
        return {"system": system, "instruction": texts["user"], "input": "", "output": texts["assistant"]}
    if layout is TURNS:
        turns = (f"### {message['role']}\n{_marked(message['content'])}" for message in content["messages"])
        return {"conversation": "\n\n".join(turns)}
    return {entry.name: str(content[entry.name]) for entry in layout.fields}


def to_content(layout: Layout, values: Mapping[str, str]) -> dict[str, Any]:
    """The content that edited fields make; `LabellingError` when they make none."""
    if empty := [entry.title for entry in layout.fields if entry.required and not values.get(entry.name, "").strip()]:
        raise LabellingError(f"“{empty[0]}” is empty.")
    if layout is SINGLE:
        question = "\n\n".join(part for part in (values["instruction"], values.get("input", "")) if part.strip())
        turns = [("user", question), ("assistant", values["output"])]
        if values.get("system", "").strip():
            turns.insert(0, ("system", values["system"]))
        return {"messages": [{"role": role, "content": text} for role, text in turns]}
    if layout is TURNS:
        return {"messages": _turns(values["conversation"])}
    return {entry.name: values[entry.name] for entry in layout.fields}


def config(layout: Layout) -> str:
    """The labelling config, an XML document; the same text every time."""
    fields = "\n".join(
        f'      <Header value="{html.escape(entry.title)}" size="5"/>\n'
        f'      <TextArea name="{entry.name}" toName="source" value="${entry.name}" rows="{entry.rows}" '
        f'maxSubmissions="1" editable="true" showSubmitButton="false"{_required(entry)}/>'
        for entry in layout.fields
    )
    verdicts = "".join(f'<Choice value="{name}" hint="{hint}"/>' for name, hint in VERDICTS.items())
    issues = "".join(f'<Choice value="{name}"/>' for name in ISSUES)
    return f"""<View>
  <Style>
    .fs-row {{display: flex; gap: 16px; align-items: flex-start}}
    .fs-source {{order: 1; flex: 1 1 42%; max-height: 80vh; overflow: auto}}
    .fs-edit {{order: 2; flex: 1 1 58%}}
  </Style>
  <View className="fs-row">
    <View className="fs-edit">
{fields}
      <Header value="Verdict" size="5"/>
      <Choices name="verdict" toName="source" choice="single-radio" showInline="true" required="true" requiredMessage="Choose a verdict">{verdicts}</Choices>
      <View visibleWhen="choice-selected" whenTagName="verdict" whenChoiceValue="fix,reject">
        <Choices name="issues" toName="source" choice="multiple" showInline="true">{issues}</Choices>
      </View>
      <Header value="Quality" size="5"/>
      <Rating name="quality" toName="source" maxRating="5" icon="star"/>
      <TextArea name="comment" toName="source" rows="2" maxSubmissions="1" editable="true" showSubmitButton="false" placeholder="Comment"/>
    </View>
    <View className="fs-source">
      <Header value="$source_title" size="5"/>
      <Text name="source" value="$source_text"/>
      <HyperText name="back" value="$portal_link" inline="true"/>
      <Header value="$portal_state" size="6"/>
    </View>
  </View>
</View>
"""  # noqa: E501  the tags of the config are kept whole


def fingerprint(text: str) -> str:
    """Tells a config from one that somebody changed; line ends and outer space do not count."""
    return hashlib.sha256("\n".join(line.strip() for line in text.strip().splitlines()).encode()).hexdigest()


def read(layout: Layout, content: Mapping[str, Any], result: list[dict[str, Any]]) -> Reading:
    """An annotation's result over the content its task was given in a layout. `LabellingError` says what the annotator
    should mend.

    Label Studio checks no result: a name that is not ours, a shape that is not a text area's, are left out. An optional
    field that was emptied has no entry; a required one cannot be. Outer space makes no edit.
    """
    said, given = _by_name(result), to_values(layout, content)
    # Who opened the fields sent all of them; an annotation made elsewhere may hold the verdict alone.
    values = {entry.name: _text(said.get(entry.name)) for entry in layout.fields}
    is_edited = any(entry.name in said for entry in layout.fields) and _plain(values) != _plain(given)
    verdict = _choices(said.get("verdict"))
    if len(verdict) != 1 or verdict[0] not in VERDICTS:
        raise LabellingError("It has no verdict: choose approve, fix or reject, and update the annotation.")
    return Reading(
        content=to_content(layout, values) if is_edited else dict(content),
        verdict=verdict[0],
        issues=tuple(name for name in _choices(said.get("issues")) if name in ISSUES),
        quality=_rating(said.get("quality")),
        comment=_text(said.get("comment")).strip(),
    )


def _turns(text: str) -> list[dict[str, str]]:
    parts = TURN.split(text.replace("\r\n", "\n"))
    if parts[0].strip():
        raise LabellingError("The conversation must begin with a line ### user, ### assistant or ### system.")
    turns = [
        {"role": role, "content": LIKE_A_TURN.sub(lambda found: found[0][1:], words.strip("\n"))}
        for role, words in zip(parts[1::2], parts[2::2], strict=True)
    ]
    try:
        return check_messages(turns)
    except FormatError as error:
        raise LabellingError(str(error)) from error


def _marked(words: str) -> str:
    """A line of somebody's that looks like a turn's beginning gets a sign before it, which reading takes away."""
    return LIKE_A_TURN.sub(lambda found: "\\" + found[0], words)


def _plain(values: Mapping[str, str]) -> dict[str, str]:
    return {name: text.replace("\r\n", "\n").strip() for name, text in values.items()}


def _required(entry: Field) -> str:
    return f' required="true" requiredMessage="{html.escape(entry.title)} must not be empty"' if entry.required else ""


def _by_name(result: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    entries = (entry for entry in result if isinstance(entry, dict) and isinstance(entry.get("value"), dict))
    return {str(entry.get("from_name")): entry["value"] for entry in entries}


def _text(value: Mapping[str, Any] | None) -> str:
    found = (value or {}).get("text", "")
    return "\n".join(map(str, found)) if isinstance(found, list) else str(found)


def _choices(value: Mapping[str, Any] | None) -> list[str]:
    found = (value or {}).get("choices", [])
    return [str(name) for name in found] if isinstance(found, list) else []


def _rating(value: Mapping[str, Any] | None) -> int | None:
    found = (value or {}).get("rating")
    return found if isinstance(found, int) and 1 <= found <= 5 else None
