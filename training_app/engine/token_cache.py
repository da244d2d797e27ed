"""Tokenised rows kept beside the base model: a look, the run after it, a restart and every member need them anew.

A cache that outlives what it was made from would train on wrong tokens without a word. So its name is a hash of all
that decides the tokens: the rows' file, the tokenizer's file, what its chat template writes today, the settings, the
versions of the libraries, and the code that tokenises.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training_app.engine.rows import file_sha256
from training_app.engine.template import Tokens, render

FOLDER = "tokens"
KEPT_FILES = 20
CODE = ("lesson.py", "rows.py", "template.py", "token_cache.py")
PROBE = [{"role": "user", "content": "Question?"}, {"role": "assistant", "content": "Answer."}]

Splits = dict[str, list[Tokens]]


def cached(
    base_dir: str, data_path: str, tokenizer: Any, settings: dict[str, Any], make: Callable[[], Splits]
) -> Splits:
    """The splits as kept from the last time; else those of `make`, which are kept for the next.

    A folder that cannot be written keeps nothing, and a damaged file is made anew.
    """
    path = Path(base_dir) / FOLDER / f"{_key(base_dir, data_path, tokenizer, settings)}.parquet"
    found = _read(path)
    if found is None:
        found = make()
        with contextlib.suppress(OSError):  # a base folder that is only read, a full disk
            _write(path, found)
            _forget(path.parent)
    return found


def _key(base_dir: str, data_path: str, tokenizer: Any, settings: dict[str, Any]) -> str:
    facts = {
        "data": file_sha256(Path(data_path)),
        "tokenizer": [file_sha256(path) for path in sorted(Path(base_dir).glob("tokenizer*"))],
        "template": tokenizer.chat_template,
        "written": render(tokenizer, PROBE),  # some templates write the date
        "settings": settings,
        "libraries": [version(name) for name in ("transformers", "tokenizers", "jinja2")],
        "code": [file_sha256(Path(__file__).with_name(name)) for name in CODE],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> Splits | None:
    import pyarrow.parquet as parquet
    from pyarrow import ArrowException

    try:
        table = parquet.read_table(path, page_checksum_verification=True)
        os.utime(path)
    except (ArrowException, OSError):
        return None
    columns = table.to_pydict()
    made: Splits = {split: [] for split in json.loads(table.schema.metadata[b"splits"])}
    for split, *values in zip(*columns.values(), strict=True):
        made[split].append(Tokens(*values))
    return made


def _write(path: Path, splits: Splits) -> None:
    """Appears whole, by rename."""
    import pyarrow
    import pyarrow.parquet as parquet

    fields = [
        ("split", pyarrow.string()),
        ("example_id", pyarrow.int64()),
        ("ids", pyarrow.list_(pyarrow.int32())),
        ("trained", pyarrow.list_(pyarrow.bool_())),
        ("truncated", pyarrow.bool_()),
        ("skipped_answers", pyarrow.int32()),
    ]
    rows = [(split, row) for split, part in splits.items() for row in part]
    columns = [[split for split, _ in rows], *([getattr(row, name) for _, row in rows] for name, _ in fields[1:])]
    schema = pyarrow.schema(fields, metadata={"splits": json.dumps(list(splits))})
    path.parent.mkdir(exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    arrays = [pyarrow.array(column, kind) for column, (_, kind) in zip(columns, fields, strict=True)]
    parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), aside, write_page_checksum=True)
    aside.rename(path)


def _forget(folder: Path) -> None:
    """Only the files used last stay."""
    files = sorted(folder.glob("*.parquet"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[KEPT_FILES:]:
        path.unlink(missing_ok=True)
