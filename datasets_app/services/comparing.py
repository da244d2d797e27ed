"""What lies between two sealed versions, row by row."""

from dataclasses import dataclass
from typing import Any

from django.db.models import F, OuterRef, QuerySet, Subquery

from datasets_app.models import DatasetVersion, VersionEntry


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


def _beside(version: DatasetVersion, other: DatasetVersion) -> Any:
    """The entries of a version with what the other has for the same example."""
    same = VersionEntry.objects.filter(version=other, example=OuterRef("example"))
    entries = VersionEntry.objects.filter(version=version).select_related("text", "example")
    return entries.annotate(
        before_text=Subquery(same.values("text")[:1]), before_split=Subquery(same.values("split")[:1])
    )
