"""The two halves of sealing: the file, then the rows. And what a version would be, before it is sealed."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings

from datasets_app.engine import seal
from datasets_app.models import Dataset, DatasetVersion, Example, State, VersionEntry
from finetune_site import bucket

NOT_SEALED = "The version is not sealed yet. Wait for its job."


@dataclass(frozen=True)
class Sealed:
    """What was written: the file's hash and size, the counts, and each example with its text and split."""

    sha256: str
    size: int
    counts: dict[str, Any]
    entries: list[tuple[int, int, str]]


def approved_rows(dataset: Dataset) -> list[dict[str, Any]]:
    """The approved examples in the columns of the sealed file, but for the split; none of a withdrawn document."""
    examples = dataset.examples.filter(state=State.APPROVED, document__withdrawn_at=None)
    examples = examples.select_related("text").order_by("pk")
    return [_row(example) for example in examples.iterator(chunk_size=1000)]


def split_rows(
    rows: list[dict[str, Any]], validation_share: float, recall_share: float, *, joins: bool = True
) -> list[dict[str, Any]]:
    """Without `joins` alike questions may part: enough for a first look at very many."""
    splits = seal.assign_splits(rows, validation_share=validation_share, recall_share=recall_share, joins=joins)
    return [{**row, "split": split} for row, split in zip(rows, splits, strict=True)]


def count_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows by split and by kind, and of how many documents, sections and facts they speak."""
    splits = Counter(row["split"] for row in rows)
    return {
        "rows": len(rows),
        **{name: splits[name] for name in (seal.TRAIN, seal.VALIDATION, seal.RECALL)},
        "kinds": dict(Counter(row["kind"] for row in rows)),
        "documents": len({row["document"] for row in rows if row["document"]}),
        "sections": len({(row["document"], row["section_key"]) for row in rows if row["section_key"]}),
        "facts": len({(row["document"], row["fact"]) for row in rows if row["fact"]}),
    }


def write_file(version: DatasetVersion) -> Sealed:
    """Write the Parquet file under the name of its content."""
    rows = split_rows(approved_rows(version.dataset), version.validation_share, version.recall_share)
    folder = Path(settings.MEDIA_ROOT) / "versions"
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".version-{version.pk}"
    digest = seal.write_parquet(rows, aside)
    target = folder / digest[:2] / f"{digest}.parquet"
    target.parent.mkdir(exist_ok=True)
    aside.rename(target)
    bucket.put(target)
    entries = [(row["example_id"], row["text_id"], row["split"]) for row in rows]
    return Sealed(digest, target.stat().st_size, count_rows(rows), entries)


def keep(version: DatasetVersion, sealed: Sealed, now: datetime) -> None:
    """The version's rows; call it in one transaction. A second time it changes nothing."""
    moved = DatasetVersion.objects.filter(pk=version.pk, sealed_at=None).update(
        sealed_at=now, sha256=sealed.sha256, size=sealed.size, counts=sealed.counts
    )
    if moved:
        VersionEntry.objects.bulk_create(
            [VersionEntry(version=version, example_id=e, text_id=t, split=s) for e, t, s in sealed.entries],
            batch_size=1000,
        )


def _row(example: Example) -> dict[str, Any]:
    assert example.text is not None
    content = example.text.content
    return {
        "example_id": example.pk,
        "text_id": example.text_id,
        "kind": example.kind,
        "messages": content.get("messages"),
        "prompt": content.get("prompt"),
        "chosen": content.get("chosen"),
        "rejected": content.get("rejected"),
        "text": content.get("text"),
        "document_id": example.document_id,
        "document": example.document_name,
        "section": " > ".join(example.section),
        "chunk_id": example.chunk_id,
        **{
            name: getattr(example, name)
            for name in (
                "answer_key", "fact", "wording", "page_start", "page_end", "section_key", "quote", "generator", "model",
                "prompt_version",
            )
        },
    }  # fmt: skip
