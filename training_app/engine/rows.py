"""Sealed rows: read from their Parquet file, checked against its hash, in the order they were written."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from finetune_site.lib.channel import InputError

Message = dict[str, str]
COLUMNS = ["example_id", "split", "kind", "messages", "answer_key"]


@dataclass(frozen=True)
class Row:
    """One conversation of a sealed dataset version."""

    example_id: int
    split: str
    messages: list[Message]
    answer_key: str


def read_rows(data_path: str, data_sha256: str) -> list[Row]:
    """Every row of the version; `InputError` when the file is not the sealed one or holds what cannot be trained."""
    import pyarrow.parquet as parquet
    from pyarrow import ArrowException

    path = Path(data_path)
    if not path.is_file():
        raise InputError(f"The dataset file {path.name} is missing. Seal the version again.")
    if data_sha256 and file_sha256(path) != data_sha256:
        raise InputError(f"The dataset file {path.name} has changed since it was sealed: its SHA-256 differs.")
    try:
        records = parquet.read_table(path, columns=COLUMNS).to_pylist()
    except (ArrowException, KeyError, OSError) as error:
        raise InputError(f"The dataset file {path.name} cannot be read: {str(error)[:200]}") from error
    if any(record["kind"] != "chat" for record in records):
        raise InputError("The dataset holds preference rows. Supervised fine-tuning learns from chat rows only.")
    if not records:
        raise InputError("The dataset version has no rows. Approve examples and seal a new version.")
    return [
        Row(record["example_id"], record["split"], record["messages"], record["answer_key"] or "") for record in records
    ]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
