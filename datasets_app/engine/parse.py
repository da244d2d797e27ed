"""Parse one uploaded file: what is it, is it sane, its elements, its chunks. The caller limits memory and time."""

import importlib.metadata
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets_app.engine import chunks, elements, health, media_type, names, readers, slim
from datasets_app.engine.elements import Element
from datasets_app.engine.spec import ParseSpec, Reading
from finetune_site.lib.channel import Channel, InputError


def run(spec: ParseSpec, link: Channel) -> dict[str, Any]:
    """Write `elements.jsonl` and `chunks.jsonl`; `InputError` says why a file cannot be used."""
    path, out = Path(spec.input_path), Path(spec.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    reading = Reading(**spec.reading)
    kind = media_type.sniff(path, spec.filename)
    pages = readers.check(kind, path, spec, reading)
    link.emit("started", media_type=kind, pages=pages)
    warnings = [text for text in [slim.prepare(with_layout_models=reading.strategy == "layout")] if text]
    os.chdir(out)  # what the parsers write on the way stays here
    reader = readers.Readers(spec, reading, link, warnings)
    dropped = elements.Dropped()
    found = list(
        elements.finish(
            _within(reader.read(kind, path, pages), reading, spec),
            spec.max_element_chars,
            reading.passage_size * reading.unit_characters,
            dropped,
            keeps_running_heads=reading.keeps_running_heads,
        )
    )
    characters = sum(len(element.text) for element in found)
    if not found:
        hint = " If it is a scan, choose text recognition and parse it again." if kind == media_type.PDF else ""
        raise InputError(f"No text was found in the file.{hint}")
    if not any(chunks.make(found, reading)):  # headings, heads and feet alone: the parser took text for them
        warnings.append("Every line looked like a heading, or like a head or foot of the page. All are read as text.")
        found = list(elements.numbered(replace(each, kind=elements.TEXT, depth=None) for each in found))
    elements.write(found, out / "elements.jsonl")
    count = chunks.write(chunks.make(found, reading), out / "chunks.jsonl")
    pages = pages or max((element.page or 0 for element in found), default=0)
    told = health.describe(found, reading.pages(pages) if pages else range(0), dropped, reader.recognised)
    if reading.finds_names:
        told["names"] = names.find(found, told["language"], warnings, partial(_tell, link))
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
        "health": told,
    }


def _tell(link: Channel, done: int, total: int) -> None:
    link.check()
    link.emit("progress", done=done, total=total, unit="pieces for names")


def _within(raw: Iterable[Element], reading: Reading, spec: ParseSpec) -> Iterator[Element]:
    """Pass the elements of the chosen pages on until there are too many of them or of their characters."""
    characters = 0
    last = reading.last_page or math.inf
    chosen = (element for element in raw if not element.page or reading.first_page <= element.page <= last)
    for count, element in enumerate(chosen, start=1):
        characters += len(element.text)
        if count > spec.max_elements or characters > spec.max_characters:
            raise InputError(
                f"The document has more than {spec.max_elements:,} paragraphs or {spec.max_characters:,} characters. "
                "Split it into parts."
            )
        yield element
