"""What was read of a document becomes rows: its pieces as people corrected them, and the passages cut from them."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.db import transaction
from django.utils import timezone

from datasets_app.engine import chunks as engine_chunks
from datasets_app.engine import corrections as engine_corrections
from datasets_app.engine import elements as engine_elements
from datasets_app.engine.spec import Reading
from datasets_app.measures import measure_of
from datasets_app.models import Chunk, Correction, Document, Element, Parsing
from datasets_app.services import intake

KEPT_PARSINGS = 3
_FIELDS = ("index", "kind", "text", "page", "depth", "section", "html", "box", "is_left_out")


@transaction.atomic
def store(document: Document, folder: Path, result: dict[str, Any]) -> None:
    """Replace what was read before by what lies in the parser's folder, with the corrections that are found again."""
    locked = Document.objects.select_for_update().get(pk=document.pk)
    path = folder / "elements.jsonl"
    figures = {name: result[name] for name in ("parser", "pages", "characters", "health")}
    Parsing.objects.create(
        document=locked, reading=locked.reading, packed=gzip.compress(path.read_bytes(), mtime=0), **figures
    )
    kept = locked.parsings.values("pk")[:KEPT_PARSINGS]
    locked.parsings.exclude(pk__in=kept).delete()
    read = engine_elements.read(path)
    found = list(engine_elements.numbered(corrected(locked, read)))
    locked.elements.all().delete()
    Element.objects.bulk_create((Element(document=locked, **vars(entry)) for entry in found), batch_size=1000)
    _cut(locked, found)
    Document.objects.filter(pk=locked.pk).update(parsed_at=timezone.now(), warnings=result["warnings"], **figures)


@transaction.atomic
def recut(document: Document) -> None:
    """File its pieces under their headings and cut them into passages again, after people changed either."""
    locked = Document.objects.select_for_update().get(pk=document.pk)
    rows = {row.index: row for row in locked.elements.all()}
    found = list(engine_elements.numbered(pieces(locked)))
    moved = []
    for entry in found:
        if rows[entry.index].section != entry.section:
            rows[entry.index].section = entry.section
            moved.append(rows[entry.index])
    Element.objects.bulk_update(moved, ["section"], batch_size=1000)
    _cut(locked, found)


def pieces(document: Document) -> list[engine_elements.Element]:
    """Its pieces as they stand, in order."""
    return [engine_elements.Element(**row) for row in document.elements.values(*_FIELDS)]


def preview(document: Document, reading: Reading) -> Iterator[engine_chunks.Chunk]:
    """The passages that other settings would cut."""
    return engine_chunks.make(pieces(document), reading, measure_of(reading))


def corrected(document: Document, read: list[engine_elements.Element]) -> list[engine_elements.Element]:
    """Pieces as people want them; every correction notes where it found its own, or that it did not."""
    rows = {row.pk: row for row in document.corrections.all()}
    wanted = {key: as_engine_knows_it(row) for key, row in rows.items()}
    places = engine_corrections.find(read, wanted.values())
    excluded = set(document.excluded_pages)
    found = [replace(element, is_left_out=element.page in excluded) if excluded else element for element in read]
    for key, position in places.items():
        found[position] = wanted[key].applied_to(found[position])
    document.corrections.update(element_index=None)  # two of them may have changed places
    for key, row in rows.items():
        row.element_index = places.get(key)
    Correction.objects.bulk_update(rows.values(), ["element_index"], batch_size=1000)
    return found


def as_engine_knows_it(row: Correction) -> engine_corrections.Correction:
    return engine_corrections.Correction(
        key=row.pk,
        page=row.page,
        text=row.text,
        occurrence=row.occurrence,
        box=row.box,
        new_text=row.new_text,
        new_kind=row.new_kind,
        new_depth=row.new_depth,
        is_left_out=row.is_left_out,
    )


def unpacked(parsing: Parsing) -> list[engine_elements.Element]:
    """The pieces of a kept reading."""
    lines = gzip.decompress(bytes(parsing.packed)).decode().splitlines()
    return [engine_elements.Element(**json.loads(line)) for line in lines]


def _cut(document: Document, found: list[engine_elements.Element]) -> None:
    document.chunks.all().delete()
    reading = document.reading_settings
    made = engine_chunks.make(found, reading, measure_of(reading))
    Chunk.objects.bulk_create((Chunk(document=document, **vars(entry)) for entry in made), batch_size=1000)
    intake.find_chunks_again(document)
