"""Chunks: passages of one section that fit a model's attention, with the place of each element in their text."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets_app.engine.elements import FOOTER, HEADER, TITLE, Element

SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Chunk:
    """`text[start:end]` of each span (element index, start, end) is that element's text."""

    index: int
    text: str
    page_start: int | None
    page_end: int | None
    section: list[str]
    section_key: str
    spans: list[list[int]] = field(default_factory=list)


def make(elements: Iterable[Element], max_chars: int) -> Iterator[Chunk]:
    """Elements in order, a new chunk at each heading and where `max_chars` would be passed; no element is cut."""
    pending: list[Element] = []
    index = 0
    for element in elements:
        if element.kind in {HEADER, FOOTER}:
            continue
        begins_anew = element.section != (pending[-1].section if pending else element.section)
        size = sum(len(member.text) + len(SEPARATOR) for member in pending)
        if pending and (begins_anew or size + len(element.text) > max_chars):
            if any(member.kind != TITLE for member in pending):
                yield _chunk(index, pending)
                index += 1
                pending = []
            elif begins_anew:
                pending = []  # a heading with nothing under it: its words live on in the section path
        pending.append(element)
    if any(member.kind != TITLE for member in pending):
        yield _chunk(index, pending)


def write(chunks: Iterable[Chunk], path: Path) -> int:
    """One JSON object a line; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8") as stream:
        for chunk in chunks:
            stream.write(json.dumps(asdict(chunk), ensure_ascii=False) + "\n")
            count += 1
    return count


def read(path: Path) -> list[Chunk]:
    with path.open(encoding="utf-8") as stream:
        return [Chunk(**json.loads(line)) for line in stream]


def _chunk(index: int, members: list[Element]) -> Chunk:
    text, spans = "", []
    for member in members:
        text += SEPARATOR if text else ""
        spans.append([member.index, len(text), len(text) + len(member.text)])
        text += member.text
    pages = [member.page for member in members if member.page]
    section = members[-1].section
    key = hashlib.sha256("\x1f".join(section).encode()).hexdigest()[:16] if section else ""
    return Chunk(index, text, min(pages, default=None), max(pages, default=None), section, key, spans)
