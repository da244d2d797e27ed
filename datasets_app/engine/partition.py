"""From Unstructured's elements to ours, and its partitioners for everything but PDF."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets_app.engine import elements as kinds
from datasets_app.engine import media_type, slides, slim, tables
from datasets_app.engine.elements import Element

_KIND = {
    "Title": kinds.TITLE,
    "NarrativeText": kinds.TEXT,
    "Text": kinds.TEXT,
    "UncategorizedText": kinds.TEXT,
    "EmailAddress": kinds.TEXT,
    "Address": kinds.TEXT,
    "ListItem": kinds.LIST_ITEM,
    "Table": kinds.TABLE,
    "CodeSnippet": kinds.CODE,
    "FigureCaption": kinds.CAPTION,
    "Header": kinds.HEADER,
    "Footer": kinds.FOOTER,
    "PageNumber": kinds.FOOTER,
}
_SPECIAL_DOCX = re.compile(
    rb"application/vnd\.(?:ms-word\.(?:document|template)\.macroEnabled(?:Template)?"
    rb"|openxmlformats-officedocument\.wordprocessingml\.template)\.main\+xml"
)
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?\n(?:---|\.\.\.)[ \t]*\n", re.DOTALL)
TEXT_PARSER = "unstructured.partition.text"
TEXT_BLOCK_CHARACTERS = 50_000
# Tags say what is a heading in the one, styles in the other.
HTML_PARSER, DOCX_PARSER = "unstructured.partition.html.parser", "unstructured.partition.docx"
GUESSED_BYTES = 4  # from so many on that are no ASCII an encoding can be guessed; a few are Western Europe's


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

    with slim.without_tagging(DOCX_PARSER):
        found = partition_docx(filename=str(_as_plain_docx(path)), languages=["eng"])
    yield from to_elements(found)


def _as_plain_docx(path: Path) -> Path:
    """A document with macros, or a template, as one without: python-docx opens no other. Nothing runs macros."""
    with zipfile.ZipFile(path) as source:
        types = source.read("[Content_Types].xml")
        plain = _SPECIAL_DOCX.sub(media_type.DOCX.encode() + b".main+xml", types)
        if plain == types:
            return path
        made = Path.cwd() / "plain.docx"
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
            for member in source.infolist():
                content = plain if member.filename == "[Content_Types].xml" else source.read(member)
                target.writestr(member.filename, content)
    return made


def read_pptx(path: Path, warnings: list[str]) -> Iterator[Element]:
    """A slide is a page; its notes follow it, then the figures of its charts as tables."""
    from unstructured.partition.pptx import partition_pptx

    with slim.without_tagging("unstructured.partition.pptx", but_for_titles=True):
        found = to_elements(partition_pptx(filename=str(path), include_slide_notes=True, languages=["eng"]))
    charts = list(slides.charts(path, warnings))
    yield from sorted([*found, *charts], key=lambda element: element.page or 0)


def read_odt(path: Path) -> Iterator[Element]:
    from unstructured.partition.odt import partition_odt

    with slim.without_tagging(DOCX_PARSER):  # pandoc makes one of it
        found = partition_odt(filename=str(path), languages=["eng"])
    yield from _without_pages(found)


def read_by_pandoc(path: Path, form: str) -> Iterator[Element]:
    """`form` as pandoc names it."""
    yield from from_html(_by_pandoc(path, form))


def _by_pandoc(path: Path, form: str) -> str:
    """What pandoc turns into HTML. It fetches and includes nothing; `RuntimeError` when it does not understand it."""
    import pypandoc

    return str(pypandoc.convert_file(str(path), "html", format=form, sandbox=True))


def read_rst(path: Path) -> Iterator[Element]:
    """By pandoc, which keeps what Sphinx adds to the language; by docutils itself what pandoc does not understand."""
    try:
        html = _by_pandoc(path, "rst")
    except RuntimeError:
        html = _by_docutils(decode(path))
    yield from from_html(html)


def _by_docutils(text: str) -> str:
    from docutils.core import publish_string

    # No file is included, no markup taken as it is, and what is wrong is left out of the text.
    safe = {"file_insertion_enabled": False, "raw_enabled": False, "_disable_config": True}
    still = {"report_level": 5, "halt_level": 5, "embed_stylesheet": False, "math_output": "LaTeX"}
    return str(publish_string(text, writer="html5", settings_overrides={**safe, **still, "output_encoding": "unicode"}))


def read_xml(path: Path) -> Iterator[Element]:
    from unstructured.partition.xml import partition_xml

    yield from _without_pages(partition_xml(text=decode(path), languages=["eng"]))


def read_html(path: Path) -> Iterator[Element]:
    yield from from_html(decode(path))


def from_html(text: str) -> Iterator[Element]:
    from unstructured.partition.html import partition_html

    with slim.without_tagging(HTML_PARSER):
        found = partition_html(text=text, languages=["eng"])
    yield from _without_pages(found)


def read_markdown(path: Path) -> Iterator[Element]:
    from unstructured.partition.md import partition_md

    with slim.without_tagging(HTML_PARSER):
        found = partition_md(text=_FRONT_MATTER.sub("", decode(path)), languages=["eng"])
    yield from _without_pages(found)


def read_text(path: Path) -> Iterator[Element]:
    yield from from_text(decode(path))


def from_text(text: str) -> Iterator[Element]:
    """In blocks of whole paragraphs: the language model takes memory by the length of what it is given."""
    block: list[str] = []
    size = 0
    for paragraph in _paragraphs(text):
        block.append(paragraph)
        size += len(paragraph)
        if size > TEXT_BLOCK_CHARACTERS:
            yield from _from_block(block)
            block, size = [], 0
    if block:
        yield from _from_block(block)


def _from_block(paragraphs: list[str]) -> Iterator[Element]:
    from unstructured.partition.text import partition_text

    with slim.without_tagging(TEXT_PARSER, but_for_titles=True):
        found = partition_text(text="\n\n".join(paragraphs), languages=["eng"])
    yield from _without_pages(found)


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

        is_too_little = sum(byte > 127 for byte in content[:1_000_000]) < GUESSED_BYTES
        best = None if is_too_little else from_bytes(content[:1_000_000]).best()
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
    return tables.text_of(tables.cells(element.metadata.text_as_html or "")) or element.text or ""
