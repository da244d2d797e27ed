"""Parse one uploaded file: what is it, is it sane, its elements, its chunks. The caller limits memory and time."""

import importlib.metadata
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datasets_app.engine import chunks, elements, media_type, partition, pdf, slim
from datasets_app.engine.elements import Element
from datasets_app.engine.spec import ParseSpec
from finetune_site.lib.channel import Channel, InputError


def run(spec: ParseSpec, link: Channel) -> dict[str, Any]:
    """Write `elements.jsonl` and `chunks.jsonl`; `InputError` says why a file cannot be used."""
    path, out = Path(spec.input_path), Path(spec.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    kind = media_type.sniff(path, spec.filename)
    pages = _check(spec, path, kind)
    link.emit("started", media_type=kind, pages=pages)
    warnings = [text for text in [slim.prepare()] if text]
    os.chdir(out)  # what the parsers write on the way stays here
    raw = _read(kind, path, pages, link, warnings)
    found = list(elements.finish(_within(raw, spec), spec.max_element_chars))
    characters = sum(len(element.text) for element in found)
    if not any(element.kind not in {elements.HEADER, elements.FOOTER} for element in found):
        raise InputError("No text was found in the file. If it is a scan or a picture, run text recognition first.")
    elements.write(found, out / "elements.jsonl")
    count = chunks.write(chunks.make(found, spec.chunk_max_chars), out / "chunks.jsonl")
    for text in warnings:
        link.emit("warning", message=text)
    return {
        "media_type": kind,
        "parser": f"unstructured {importlib.metadata.version('unstructured')}",
        "pages": pages,
        "elements": len(found),
        "chunks": count,
        "characters": characters,
        "warnings": warnings,
    }


def _check(spec: ParseSpec, path: Path, kind: str) -> int:
    """Refuse what would cost too much before it costs; returns the number of pages, 0 where there are none."""
    if kind == media_type.PDF:
        return pdf.probe(path, spec.max_pages).pages
    if kind == media_type.DOCX:
        _check_archive(spec, path)
    elif path.stat().st_size > 4 * spec.max_characters:
        raise InputError(
            f"The file has {path.stat().st_size / 1e6:.0f} MB of text; at most {spec.max_characters / 1e6:.0f} million "
            "characters are read from one file. Split it into parts."
        )
    return 0


def _check_archive(spec: ParseSpec, path: Path) -> None:
    """An Office file is an archive: count and weigh its members before anything unpacks them."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    size = sum(member.file_size for member in members)
    packed = max(1, sum(member.compress_size for member in members))
    largest = max((member.file_size for member in members if member.filename.endswith(".xml")), default=0)
    if len(members) > spec.max_archive_members or size > spec.max_uncompressed_bytes or largest > 100_000_000:
        raise InputError(
            f"The file unpacks to {size / 1e6:.0f} MB in {len(members)} parts, which is far more than a document. "
            "It is damaged or made to do harm; save it again from its program."
        )
    if size > 20_000_000 and size / packed > spec.max_archive_ratio:
        raise InputError(
            f"The file unpacks to {size // packed} times its size, as archives made to do harm do. "
            "Save it again from its program."
        )


def _read(kind: str, path: Path, pages: int, link: Channel, warnings: list[str]) -> Iterator[Element]:
    if kind == media_type.PDF:
        return pdf.read(path, pages, link, warnings)
    readers = {
        media_type.DOCX: partition.read_docx,
        media_type.HTML: partition.read_html,
        media_type.MARKDOWN: partition.read_markdown,
        media_type.TEXT: partition.read_text,
    }
    return readers[kind](path)


def _within(raw: Iterable[Element], spec: ParseSpec) -> Iterator[Element]:
    """Pass elements on until there are too many of them or of their characters."""
    characters = 0
    for count, element in enumerate(raw, start=1):
        characters += len(element.text)
        if count > spec.max_elements or characters > spec.max_characters:
            raise InputError(
                f"The document has more than {spec.max_elements:,} paragraphs or {spec.max_characters:,} characters. "
                "Split it into parts."
            )
        yield element
