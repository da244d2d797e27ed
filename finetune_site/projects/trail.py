"""A project's trail as a file: CSV for people's tables, JSON Lines for programs."""

import csv
import io
import json
import tempfile
from collections.abc import Generator
from typing import IO, Any

from finetune_site.projects.models import AuditEntry, AuditQuerySet

BLOCK_BYTES = 2**20
FORMATS = {"csv": "CSV", "jsonl": "JSON Lines"}
COLUMNS = ("at", "who", "verb", "subject", "before", "after")
# A table program takes a cell that begins so for a formula and computes it (OWASP, CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def written(entries: AuditQuerySet, format: str) -> IO[bytes]:
    """A file without a name that holds `entries` in one of `FORMATS`, to be read from its start."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  whoever sends it closes it
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    rows = (_row(entry) for entry in entries.iterator())
    if format == "csv":
        table = csv.writer(text)
        table.writerow(COLUMNS)
        table.writerows([_cell(row[name]) for name in COLUMNS] for row in rows)
    else:
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    text.detach()
    file.seek(0)
    return file


def pieces(file: IO[bytes]) -> Generator[bytes]:
    """The file's content, which is closed at the end."""
    with file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _row(entry: AuditEntry) -> dict[str, Any]:
    return {
        "at": entry.at.isoformat(),
        "who": str(entry.actor or ""),
        "verb": entry.verb,
        "subject": entry.subject,
        "before": entry.before,
        "after": entry.after,
    }


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.startswith(FORMULA) else text
