"""From Unstructured's elements to ours, and its partitioners for formats without pages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets_app.engine import elements as kinds
from datasets_app.engine.elements import Element

_KIND = {
    "Title": kinds.TITLE,
    "NarrativeText": kinds.TEXT,
    "Text": kinds.TEXT,
    "UncategorizedText": kinds.TEXT,
    "ListItem": kinds.LIST_ITEM,
    "Table": kinds.TABLE,
    "CodeSnippet": kinds.CODE,
    "FigureCaption": kinds.CAPTION,
    "Header": kinds.HEADER,
    "Footer": kinds.FOOTER,
    "PageNumber": kinds.FOOTER,
}
TEXT_BLOCK_CHARACTERS = 50_000


def to_elements(found: list[Any]) -> list[Element]:
    """Our elements, one for each of Unstructured's, in order; an unknown category is `other`."""
    return [
        Element(
            index=0,
            kind=_KIND.get(element.category, kinds.OTHER),
            text=_table_text(element) if element.category == "Table" else element.text or "",
            page=element.metadata.page_number,
            depth=element.metadata.category_depth,
            html=element.metadata.text_as_html if element.category == "Table" else None,
        )
        for element in found
    ]


def read_docx(path: Path) -> Iterator[Element]:
    from unstructured.partition.docx import partition_docx

    yield from to_elements(partition_docx(filename=str(path), languages=["eng"]))


def read_html(path: Path) -> Iterator[Element]:
    from unstructured.partition.html import partition_html

    yield from _without_pages(partition_html(text=decode(path), languages=["eng"]))


def read_markdown(path: Path) -> Iterator[Element]:
    from unstructured.partition.md import partition_md

    yield from _without_pages(partition_md(text=decode(path), languages=["eng"]))


def read_text(path: Path) -> Iterator[Element]:
    """In blocks of whole paragraphs: the language model takes memory by the length of what it is given."""
    from unstructured.partition.text import partition_text

    block: list[str] = []
    size = 0
    for paragraph in _paragraphs(decode(path)):
        block.append(paragraph)
        size += len(paragraph)
        if size > TEXT_BLOCK_CHARACTERS:
            yield from _without_pages(partition_text(text="\n\n".join(block), languages=["eng"]))
            block, size = [], 0
    if block:
        yield from _without_pages(partition_text(text="\n\n".join(block), languages=["eng"]))


def decode(path: Path) -> str:
    """The text of a file in any encoding: a byte-order mark, UTF-8, else the best guess."""
    content = path.read_bytes()
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    try:
        return content.decode()
    except UnicodeDecodeError:
        from charset_normalizer import from_bytes

        best = from_bytes(content[:1_000_000]).best()
        return content.decode(best.encoding if best else "cp1252", errors="replace")


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.replace("\r\n", "\n").split("\n\n"):
        for start in range(0, len(paragraph), TEXT_BLOCK_CHARACTERS):
            if piece := paragraph[start : start + TEXT_BLOCK_CHARACTERS].strip():
                yield piece


def _without_pages(found: list[Any]) -> Iterator[Element]:
    """These formats have no pages; a number there would be made up."""
    for element in to_elements(found):
        yield Element(0, element.kind, element.text, None, element.depth, [], element.html)


def _table_text(element: Any) -> str:
    """Cells parted by bars, rows by lines, so that a value can be quoted; Unstructured glues them with spaces."""
    from datasets_app.engine.tables import cells

    rows = cells(element.metadata.text_as_html or "")
    return "\n".join(" | ".join(row) for row in rows) or element.text or ""
