"""What lies between two sealed versions, row by row."""

import difflib
import itertools
import re
from dataclasses import dataclass
from typing import Any

from django.db.models import F, OuterRef, QuerySet, Subquery

from datasets_app.models import DatasetVersion, ExampleText, VersionEntry
from datasets_app.models.examples import parts_of

COMPARED_WORDS = 2000  # word by word, which takes the square of them; longer texts are shown whole


@dataclass(frozen=True)
class Piece:
    """Words of an edited text: `how` is "kept", "removed" or "added"."""

    how: str
    words: str


@dataclass(frozen=True)
class Difference:
    """Entries of the later version that are new or carry another text or split, and entries of the earlier one that
    are gone. An entry of `edited` or `moved` has `before_text` and `before_split`."""

    added: QuerySet[VersionEntry]
    removed: QuerySet[VersionEntry]
    edited: QuerySet[VersionEntry]
    moved: QuerySet[VersionEntry]


def compare_versions(before: DatasetVersion, after: DatasetVersion) -> Difference:
    """Of one dataset or of two: examples are the same when they are the same row."""
    known = _beside(after, before)
    both = known.exclude(before_text=None)
    return Difference(
        added=known.filter(before_text=None),
        removed=_beside(before, after).filter(before_text=None),
        edited=both.exclude(before_text=F("text")),
        moved=both.filter(before_text=F("text")).exclude(before_split=F("split")),
    )


def edits(before: ExampleText, after: ExampleText) -> list[tuple[str, list[Piece]]]:
    """The parts of an example that were edited, by name (a role, or chosen, say), word by word."""
    return edits_of(before.content, after.content)


def edits_of(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, list[Piece]]]:
    """The same between two contents."""
    pairs = itertools.zip_longest(parts_of(before), parts_of(after), fillvalue=("", ""))
    return [(new[0] or old[0], _pieces(old[1], new[1])) for old, new in pairs if old != new]


def _pieces(before: str, after: str) -> list[Piece]:
    old, new = re.findall(r"\s*\S+|\s+$", before), re.findall(r"\s*\S+|\s+$", after)
    if max(len(old), len(new)) > COMPARED_WORDS:
        return [piece for piece in (Piece("removed", before), Piece("added", after)) if piece.words]
    pieces = []
    for how, old_from, old_to, new_from, new_to in difflib.SequenceMatcher(
        None, old, new, autojunk=False
    ).get_opcodes():
        if how == "equal":
            pieces.append(Piece("kept", "".join(old[old_from:old_to])))
            continue
        found = Piece("removed", "".join(old[old_from:old_to])), Piece("added", "".join(new[new_from:new_to]))
        pieces += [piece for piece in found if piece.words]
    return pieces


def _beside(version: DatasetVersion, other: DatasetVersion) -> Any:
    """The entries of a version with what the other has for the same example."""
    same = VersionEntry.objects.filter(version=other, example=OuterRef("example"))
    entries = VersionEntry.objects.filter(version=version).select_related("text", "example")
    return entries.annotate(
        before_text=Subquery(same.values("text")[:1]), before_split=Subquery(same.values("split")[:1])
    )
