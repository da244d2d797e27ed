"""The parsed form of a document: elements in reading order, each under its heading path, cleaned of noise."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from datasets_app.engine import tables

TITLE, TEXT, LIST_ITEM, TABLE, CODE, CAPTION = "title", "text", "list_item", "table", "code", "caption"
HEADER, FOOTER, OTHER = "header", "footer", "other"
NAMES = {  # as people read them
    TITLE: "heading", TEXT: "text", LIST_ITEM: "list item", TABLE: "table", CODE: "code", CAPTION: "caption",
    HEADER: "running head", FOOTER: "running foot", OTHER: "other",
}  # fmt: skip
RUNNING = (HEADER, FOOTER)
_REPEATED_SHARE, _REPEATED_MIN = 0.2, 3


@dataclass(frozen=True)
class Element:
    """One piece of a document: `page` from 1 where the format has pages, `section` the headings it stands under, `box`
    its place on the page: left, top, right and bottom as shares of the page's width and height. What a person left out
    is in no passage and no heading path."""

    index: int
    kind: str
    text: str
    page: int | None = None
    depth: int | None = None
    section: list[str] = field(default_factory=list)
    html: str | None = None
    box: list[float] | None = None
    is_left_out: bool = False


def clean(text: str) -> str:
    """Compatibility forms resolved (ligatures, wide letters), soft hyphens removed, white space folded per line."""
    text = unicodedata.normalize("NFKC", text).replace("\u00ad", "").replace("\x00", "")
    return "\n".join(line for line in (re.sub(r"[^\S\n]+", " ", line).strip() for line in text.split("\n")) if line)


def is_noise(text: str) -> bool:
    """Dot leaders, rulers, lone page numbers, text whose letters could not be decoded."""
    letters = sum(character.isalnum() for character in text)
    if re.search(r"(\.\s?){5,}", text) or "(cid:" in text:
        return True
    return letters < 0.4 * len(text) or bool(re.fullmatch(r"[ivxlc\d\s./-]+", text) and len(text) < 6)


@dataclass
class Dropped:
    """What `finish` left out or set aside, in pieces."""

    noise: int = 0
    running_heads: int = 0


def finish(
    raw: Iterable[Element], max_chars: int, table_chars: int, dropped: Dropped, *, keeps_running_heads: bool = False
) -> Iterator[Element]:
    """Clean, drop noise, mark repeated lines as header or footer, split what is too long (tables between rows), number,
    and file each element under its headings."""
    return numbered(
        part
        for element in _sifted(raw, dropped, keeps_running_heads=keeps_running_heads)
        for part in _parts(element, max_chars, table_chars)
    )


def _sifted(raw: Iterable[Element], dropped: Dropped, *, keeps_running_heads: bool) -> Iterator[Element]:
    cleaned = [replace(element, text=clean(element.text)) for element in raw]
    repeated = _repeated(cleaned)
    for element in cleaned:
        if not element.text or (element.kind != TABLE and is_noise(element.text)):
            dropped.noise += bool(element.text)
            continue
        if element.kind not in {HEADER, FOOTER, TABLE} and _shape(element) in repeated:
            is_low = element.box is not None and element.box[1] + element.box[3] > 1
            element = replace(element, kind=FOOTER if is_low else HEADER)
        if element.kind in {HEADER, FOOTER}:
            dropped.running_heads += not keeps_running_heads
            element = replace(element, kind=TEXT) if keeps_running_heads else element
        yield element


def numbered(elements: Iterable[Element]) -> Iterator[Element]:
    """In their order, each under the headings before it."""
    headings: list[tuple[int, str]] = []
    for index, element in enumerate(elements):
        if element.kind == TITLE and not element.is_left_out:
            depth = element.depth or 0
            headings = [entry for entry in headings if entry[0] < depth] + [(depth, element.text.replace("\n", " "))]
        yield replace(element, index=index, section=[text for _, text in headings])


def write(elements: Iterable[Element], path: Path) -> None:
    """One JSON object a line."""
    with path.open("w", encoding="utf-8") as stream:
        for element in elements:
            stream.write(json.dumps(asdict(element), ensure_ascii=False) + "\n")


def read(path: Path) -> list[Element]:
    with path.open(encoding="utf-8") as stream:
        return [Element(**json.loads(line)) for line in stream]


def _repeated(elements: list[Element]) -> set[str]:
    """Shapes of short lines that stand on many pages: running heads and feet."""
    pages = {element.page for element in elements if element.page}
    if len(pages) < 4:
        return set()
    seen = Counter(shape for shape, _ in {(_shape(each), each.page) for each in elements if len(each.text) < 120})
    return {shape for shape, count in seen.items() if count >= max(_REPEATED_MIN, _REPEATED_SHARE * len(pages))}


def _shape(element: Element) -> str:
    """Running heads differ by their page's number; headings that differ by a number are different headings."""
    return f"title {element.text}" if element.kind == TITLE else re.sub(r"\d+", "#", element.text)


def _parts(element: Element, max_chars: int, table_chars: int) -> Iterator[Element]:
    """A long table in several, each with its first row; a long text in several; else the element itself."""
    if element.kind == TABLE and element.html and len(element.text) > table_chars:
        for rows in tables.parts(tables.cells(element.html), table_chars):
            text = clean(tables.text_of(rows))
            yield replace(element, text=text[:max_chars], html=tables.html_of(rows))
        return
    for part in _split(element.text, max_chars):
        yield replace(element, text=part)


def _split(text: str, size: int) -> Iterator[str]:
    """Parts of at most `size` characters, cut at white space where there is any."""
    while len(text) > size:
        cut = max(text.rfind(" ", size // 2, size), text.rfind("\n", size // 2, size))
        cut = cut if cut > 0 else size
        yield text[:cut].strip()
        text = text[cut:].strip()
    if text:
        yield text
