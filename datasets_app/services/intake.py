"""How many examples enter at once: from a generator and from a file. Written twice, they are there once."""

import re
from typing import Any

from datasets_app.engine import evidence
from datasets_app.engine.formats import Row
from datasets_app.models import Chunk, Document, Example, ExampleText, Generation, GenerationCall, ImportBatch
from datasets_app.models.examples import Origin, Support, words_of

_COPIED = (
    "page_start",
    "page_end",
    "section",
    "section_key",
    "support",
    "evidence",
    "doubts",
    "quote",
    "quote_start",
    "quote_end",
    "fact",
    "answer_key",
    "generator",
    "model",
    "prompt_version",
)


CONTENTS = ("messages", "prompt", "chosen", "rejected", "text")


def content_of(row: dict[str, Any]) -> dict[str, Any]:
    """What of a generator's row is the example itself."""
    return {name: row[name] for name in CONTENTS if name in row}


def add_calls(generation: Generation, work: int, calls: list[dict[str, Any]]) -> None:
    """Requests of a job; those that are there already are left alone."""
    GenerationCall.objects.bulk_create(
        [
            GenerationCall(
                generation=generation,
                document_id=call["document"],
                chunk_index=call["chunk"],
                work=work,
                problem=call["problem"][:300],
                **{name: call[name] for name in ("number", "prompt", "answer", "tokens_in", "tokens_out", "seconds")},
            )
            for call in calls
        ],
        batch_size=500,
        ignore_conflicts=True,
    )


def add_generated(generation: Generation, rows: list[dict[str, Any]], work: int = 0) -> int:
    """Examples of some passages that a job, `work`, made; rows that are there already are left alone. Returns how many
    were added."""
    places = {row["chunk"] for row in rows}
    documents = Document.objects.in_bulk({row["document"] for row in rows})
    chunks = {
        (chunk.document_id, chunk.index): chunk
        for chunk in Chunk.objects.filter(document__in=documents, index__in=places).defer("text")
    }
    made = Example.objects.filter(generation=generation, chunk_index__in=places)
    known = set(made.values_list("document_id", "chunk_index", "fact", "wording"))
    calls: dict[tuple[Any, ...], GenerationCall] = {
        (call.document_id, call.chunk_index, call.number): call
        for call in generation.calls.filter(work=work, chunk_index__in=places).only("document", "chunk_index", "number")
    }
    pairs = [
        (
            Example(
                dataset_id=generation.dataset_id,
                kind=row["kind"],
                origin=Origin.GENERATED,
                author_id=generation.created_by_id,
                generation=generation,
                document=documents[row["document"]],
                document_name=documents[row["document"]].name,
                chunk=chunks.get((row["document"], row["chunk"])),
                chunk_index=row["chunk"],
                wording=row["wording"][:60],
                tag=row.get("tag", ""),
                call=calls.get((row["document"], row["chunk"], row.get("call"))),
                **{name: row[name] for name in _COPIED},
            ),
            content_of(row),
        )
        for row in rows
        if (row["document"], row["chunk"], row["fact"], row["wording"][:60]) not in known
    ]
    return _create(pairs, generation.created_by_id)


def add_imported(batch: ImportBatch, rows: list[Row]) -> int:
    """Examples of some lines of a file; lines that are there already are left alone."""
    known = set(batch.examples.filter(import_line__in=[row.line for row in rows]).values_list("import_line", flat=True))
    pairs = [
        (
            Example(
                dataset_id=batch.dataset_id,
                kind=row.kind,
                origin=Origin.IMPORTED,
                author_id=batch.created_by_id,
                batch=batch,
                import_line=row.line,
                document_name=batch.name,
            ),
            row.content,
        )
        for row in rows
        if row.line not in known
    ]
    return _create(pairs, batch.created_by_id)


def find_chunks_again(document: Document) -> None:
    """After a new parsing: give examples their passage back where all their quotes still stand in it; the others are
    stale from then on, until a later parsing brings the words back."""
    orphans = Example.objects.filter(document=document, chunk=None, generation__isnull=False).exclude(quote="")
    if not orphans.exists():
        return
    chunks = list(document.chunks.all())
    for example in orphans.iterator():
        placed = [span for span in example.spans if span["start"] is not None]
        # Of the same section first: short quotes stand in many passages.
        for chunk in sorted(chunks, key=lambda chunk: chunk.section_key != example.section_key):
            starts = [_start(chunk.text, span["quote"]) for span in placed]
            if min(starts) >= 0:
                _move(example, chunk, dict(zip((span["quote"] for span in placed), starts, strict=True)))
                break
        else:
            example.support = Support.STALE
            example.save(update_fields=["support"])


def _start(text: str, quote: str) -> int:
    """Where whole words stand; -1 where they do not."""
    match = re.search(rf"(?<!\w){re.escape(quote)}(?!\w)", text)
    return match.start() if match else -1


def _move(example: Example, chunk: Chunk, starts: dict[str, int]) -> None:
    """To the passage where its quotes stand now."""
    spans = [
        {**span, "start": starts[span["quote"]], "end": starts[span["quote"]] + len(span["quote"])}
        if span["quote"] in starts
        else span
        for span in example.spans
    ]
    example.chunk, example.chunk_index, example.evidence = chunk, chunk.index, spans
    example.page_start, example.page_end = chunk.page_start, chunk.page_end
    example.section, example.section_key = chunk.section, chunk.section_key
    example.quote_start, example.quote_end = starts[example.quote], starts[example.quote] + len(example.quote)
    is_close = any(span["match"] == evidence.CLOSE for span in spans)
    example.support = Support.UNVERIFIED if example.doubts else Support.CLOSE if is_close else Support.VERIFIED
    example.save(
        update_fields=[
            "chunk", "chunk_index", "evidence", "page_start", "page_end", "section", "section_key", "quote_start",
            "quote_end", "support",
        ]
    )  # fmt: skip


def _create(pairs: list[tuple[Example, dict[str, Any]]], author: int) -> int:
    examples = Example.objects.bulk_create([example for example, _ in pairs], batch_size=500)
    texts = ExampleText.objects.bulk_create(
        [
            ExampleText(example=example, content=content, search=words_of(content), author_id=author)
            for example, (_, content) in zip(examples, pairs, strict=True)
        ],
        batch_size=500,
    )
    for example, text in zip(examples, texts, strict=True):
        example.text = text
    Example.objects.bulk_update(examples, ["text"], batch_size=500)
    return len(examples)
