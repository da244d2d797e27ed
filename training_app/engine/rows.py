"""Sealed rows: read from their Parquet file, checked against its hash, in the order they were written."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_site.lib.channel import InputError

Message = dict[str, str]
COLUMNS = ("example_id", "split", "kind", "messages", "answer_key", "prompt", "chosen", "rejected", "text")
KINDS = {"chat": "conversations", "preference": "preference pairs", "text": "texts"}


@dataclass(frozen=True)
class Row:
    """One row of a sealed dataset version: a conversation, a preference pair or a text.

    The messages of a pair are its prompt and the chosen answer; a text has none.
    """

    example_id: int
    split: str
    messages: list[Message]
    answer_key: str
    kind: str = "chat"
    rejected: str = ""
    text: str = ""

    @property
    def is_answered(self) -> bool:
        """True when something was asked and the last turn is the assistant's."""
        return len(self.messages) > 1 and self.messages[-1]["role"] == "assistant"

    def with_answer(self, answer: str) -> "Row":
        """The same question with another answer."""
        return replace(self, messages=[*self.messages[:-1], {"role": "assistant", "content": answer}])


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
        file = parquet.ParquetFile(path)
        # Versions that were sealed earlier lack the columns of kinds that came later.
        records = file.read(columns=[name for name in COLUMNS if name in file.schema_arrow.names]).to_pylist()
    except (ArrowException, KeyError, OSError) as error:
        raise InputError(f"The dataset file {path.name} cannot be read: {str(error)[:200]}") from error
    if not records:
        raise InputError("The dataset version has no rows. Approve examples and seal a new version.")
    return [_row(record) for record in records]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _row(record: dict[str, Any]) -> Row:
    kind = record["kind"]
    if kind not in KINDS:
        raise InputError(f"The dataset holds rows of a kind that is not known: {kind!r}.")
    messages = record["messages"] or []
    if kind == "preference":
        turns = (("user", record["prompt"]), ("assistant", record["chosen"]))
        messages = [{"role": role, "content": content} for role, content in turns]
    return Row(
        record["example_id"],
        record["split"],
        messages,
        record.get("answer_key") or "",
        kind,
        record.get("rejected") or "",
        record.get("text") or "",
    )
