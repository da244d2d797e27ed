"""Which passages, pages and tags have how many examples, and what is thin."""

from collections import Counter
from dataclasses import dataclass

from django.db.models import Count

from datasets_app.models import Chunk, Dataset, Document, State

LISTED_GAPS = 40
CHUNKS_PER_PAGE = 20  # of the list of passages, to which the gaps lead


@dataclass(frozen=True)
class Covered:
    """One document: its passages, those with an example that is not rejected, those with an approved one, examples in
    all, and where the first passages without one stand: their place, from 1, the page of the list of passages, their
    page in the document and their section."""

    document: Document
    passages: int
    covered: int
    approved: int
    examples: int
    gaps: list[tuple[int, int, int | None, str]]

    @property
    def has_more(self) -> bool:
        """Whether more passages lack examples than are listed."""
        return self.passages > self.covered + len(self.gaps)

    @property
    def percent(self) -> int:
        return round(100 * self.covered / self.passages) if self.passages else 0


def by_document(dataset: Dataset, documents: list[Document]) -> list[Covered]:
    """Of each of some documents what the dataset has made of it."""
    kept = dataset.examples.filter(document__in=documents, chunk__isnull=False).exclude(state=State.REJECTED)
    rows = kept.order_by().values_list("document", "chunk_index", "state").annotate(count=Count("pk"))
    counts: dict[int, Counter[int]] = {document.pk: Counter() for document in documents}
    approved: dict[int, set[int]] = {document.pk: set() for document in documents}
    for key, index, state, count in rows:
        counts[key][index] += count
        if state == State.APPROVED:
            approved[key].add(index)
    passages: dict[int, list[tuple[int, int | None, list[str]]]] = {document.pk: [] for document in documents}
    chunks = Chunk.objects.filter(document__in=documents).order_by("document", "index")
    for key, index, page, section in chunks.values_list("document", "index", "page_start", "section"):
        passages[key].append((index, page, section))
    return [
        Covered(
            document,
            len(passages[document.pk]),
            len(counts[document.pk]),
            len(approved[document.pk]),
            counts[document.pk].total(),
            [
                (index + 1, index // CHUNKS_PER_PAGE + 1, page, section[-1] if section else "")
                for index, page, section in passages[document.pk]
                if index not in counts[document.pk]
            ][:LISTED_GAPS],
        )
        for document in documents
    ]


def by_tag(dataset: Dataset) -> list[tuple[str, int, int]]:
    """Each tag with its examples that are not rejected, and those that are approved."""
    rows = dataset.examples.exclude(tag="").exclude(state=State.REJECTED).order_by("tag").values_list("tag", "state")
    counts, approved = Counter[str](), Counter[str]()
    for tag, state, count in rows.annotate(count=Count("pk")):
        counts[tag] += count
        approved[tag] += count * (state == State.APPROVED)
    return [(tag, counts[tag], approved[tag]) for tag in sorted(counts)]
