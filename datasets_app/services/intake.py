"""How many examples enter at once: from a generator and from a file. Written twice, they are there once."""

from typing import Any

from datasets_app.engine.formats import Row
from datasets_app.models import Chunk, Document, Example, ExampleText, Generation, ImportBatch
from datasets_app.models.examples import Kind, Origin, words_of

_COPIED = (
    "page_start",
    "page_end",
    "section",
    "section_key",
    "quote",
    "quote_start",
    "quote_end",
    "fact",
    "answer_key",
    "generator",
    "model",
    "prompt_version",
)


def add_generated(generation: Generation, rows: list[dict[str, Any]]) -> int:
    """Examples of some passages; rows that are there already are left alone. Returns how many were added."""
    documents = {document.pk: document for document in generation.documents.all()}
    chunks = {
        (chunk.document_id, chunk.index): chunk for chunk in Chunk.objects.filter(document__in=documents).defer("text")
    }
    known = set(
        Example.objects.filter(generation=generation).values_list("document_id", "chunk_index", "fact", "wording")
    )
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
                **{name: row[name] for name in _COPIED},
            ),
            {"text": row["text"]} if row["kind"] == Kind.TEXT else {"messages": row["messages"]},
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
    """After a new parsing: give examples their passage back where their quote still stands in it."""
    orphans = Example.objects.filter(document=document, chunk=None).exclude(quote="")
    if not orphans.exists():
        return
    chunks = list(document.chunks.all())
    for example in orphans.iterator():
        for chunk in chunks:
            start = chunk.text.find(example.quote)
            if start >= 0:
                example.chunk, example.chunk_index = chunk, chunk.index
                example.quote_start, example.quote_end = start, start + len(example.quote)
                example.save(update_fields=["chunk", "chunk_index", "quote_start", "quote_end"])
                break


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
