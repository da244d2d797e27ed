"""Chunks: passages of one section (or page) that fit a model, with the place of each element in their text."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets_app.engine.elements import FOOTER, HEADER, TITLE, Element
from datasets_app.engine.spec import Reading

SEPARATOR = "\n\n"
Measure = Callable[[str], int]


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


def estimate(reading: Reading) -> Measure:
    """Counts characters, or guesses tokens by them."""
    return lambda text: -(-len(text) // reading.unit_characters)


def make(elements: Iterable[Element], reading: Reading, measure: Measure | None = None) -> Iterator[Chunk]:
    """Elements in order, a new chunk at each heading (or page) and where its size would be passed; no element is cut.

    What overlaps is the last whole elements of the chunk before, of the same section or page. `measure`: what counts
    the length of a text; a guess without one.
    """
    measure = measure or estimate(reading)
    between = measure(SEPARATOR)
    pending: list[Element] = []
    sizes: list[int] = []
    fresh = 0  # how many of them no chunk has yet
    index = 0
    for element in elements:
        if element.kind in {HEADER, FOOTER} or element.is_left_out:
            continue
        begins_anew = bool(pending) and _place(element, reading) != _place(pending[-1], reading)
        length = measure(element.text)
        if pending and (begins_anew or sum(sizes) + between * len(sizes) + length > reading.passage_size):
            if fresh and any(member.kind != TITLE for member in pending):
                yield _chunk(index, pending, reading)
                index += 1
                kept = 0 if begins_anew else _tail(pending, sizes, reading.overlap)
                pending, sizes = pending[len(pending) - kept :], sizes[len(sizes) - kept :]
                fresh = 0
            elif begins_anew:
                pending, sizes = [], []  # a heading with nothing under it: its words live on in the section path
                fresh = 0
        pending.append(element)
        sizes.append(length)
        fresh += 1
    if fresh and any(member.kind != TITLE for member in pending):
        yield _chunk(index, pending, reading)


def _place(element: Element, reading: Reading) -> object:
    return element.page if reading.cut == "page" and element.page else element.section


def _tail(members: list[Element], sizes: list[int], overlap: int) -> int:
    """How many of the last whole elements together are at most that long."""
    kept = 0
    while kept < len(members) and members[-1 - kept].kind != TITLE and sum(sizes[-1 - kept :]) <= overlap:
        kept += 1
    return kept


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


def _chunk(index: int, members: list[Element], reading: Reading) -> Chunk:
    text, spans = "", []
    for member in members:
        text += SEPARATOR if text else ""
        spans.append([member.index, len(text), len(text) + len(member.text)])
        text += member.text
    pages = [member.page for member in members if member.page]
    section = members[-1].section
    # What is kept together when examples are parted into training and testing: the section, or the page it was cut by.
    path = [f"page {pages[0]}"] if reading.cut == "page" and pages else section
    key = hashlib.sha256("\x1f".join(path).encode()).hexdigest()[:16] if path else ""
    return Chunk(index, text, min(pages, default=None), max(pages, default=None), section, key, spans)
