"""Sealing: which example serves which purpose, and the Parquet file that never changes again.

Two measures, never mixed. *Generalisation*: whole sections are kept out of training (`validation`). *Recall*: of a
fact that is trained in several wordings, one wording is kept out (`recall`). Both choices are stable hashes of what an
example is, so that the next version makes them again and nothing straddles.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from datasets_app.engine import alike
from finetune_site.lib.files import sha256_of

TRAIN, VALIDATION, RECALL = "train", "validation", "recall"
MIN_WORDINGS_FOR_RECALL = 3
TEXT, LONG, SHORT = pyarrow.string(), pyarrow.int64(), pyarrow.int32()
SCHEMA = pyarrow.schema(
    [
        ("example_id", LONG),
        ("text_id", LONG),
        ("split", TEXT),
        ("kind", TEXT),
        ("messages", pyarrow.list_(pyarrow.struct([("role", TEXT), ("content", TEXT)]))),
        ("prompt", TEXT),
        ("chosen", TEXT),
        ("rejected", TEXT),
        ("text", TEXT),
        ("answer_key", TEXT),
        ("fact", TEXT),
        ("wording", TEXT),
        ("document_id", LONG),
        ("document", TEXT),
        ("page_start", SHORT),
        ("page_end", SHORT),
        ("section", TEXT),
        ("section_key", TEXT),
        ("chunk_id", LONG),
        ("quote", TEXT),
        ("generator", TEXT),
        ("model", TEXT),
        ("prompt_version", TEXT),
    ]
)


def assign_splits(
    rows: list[dict[str, Any]], *, validation_share: float = 0.1, recall_share: float = 1.0, joins: bool = True
) -> list[str]:
    """The split of each row, in order. Rows need `document`, `section_key`, `fact`, `wording` and `messages`.

    `validation_share` is the share of groups (document and section; without a section the fact, else the question)
    kept out of training; groups that hold nearly the same question are one, so that nothing that is asked later was
    trained in a few other words; `recall_share` the share of trained facts with three wordings or more of which one is
    asked later. At least one group is always trained.
    """
    groups = [_group(row) for row in rows]
    if joins:
        groups = _joined(groups, [_question(row) for row in rows])
    held_out = _held_out(set(groups), validation_share)
    splits = [VALIDATION if group in held_out else TRAIN for group in groups]
    for index in _recall_rows(rows, splits, recall_share):
        splits[index] = RECALL
    return _without_leaks(rows, splits)


def write_parquet(rows: Iterable[dict[str, Any]], path: Path) -> str:
    """Write sealed rows (keys as in `SCHEMA`) whole, and return the file's SHA-256 in hex."""
    aside = path.with_name(f".{path.name}.part")
    table = pyarrow.Table.from_pylist(list(rows), schema=SCHEMA)
    with aside.open("wb") as stream:
        pyarrow.parquet.write_table(table, stream, compression="zstd")
        stream.flush()
        os.fsync(stream.fileno())
    digest = sha256_of(aside)
    aside.rename(path)
    return digest


def _group(row: dict[str, Any]) -> str:
    """What must stay on one side of the split."""
    if row["section_key"]:
        return f"section/{row['document']}/{row['section_key']}"
    if row["fact"]:
        return f"fact/{row['document']}/{row['fact']}"
    return f"question/{_question(row)}"


def _joined(groups: list[str], questions: list[str]) -> list[str]:
    """Groups of which one holds a question nearly like another's, under one name. Which name it is says nothing of
    whether it is held out: else whatever is repeated most would never be trained."""
    names: dict[str, str] = {}

    def name_of(group: str) -> str:
        while (found := names.get(group, group)) != group:
            group = found
        return group

    for group, place in zip(groups, alike.groups(questions), strict=True):
        one, other = sorted((name_of(group), name_of(groups[place])))
        if one != other:
            names[other] = one
    return [name_of(group) for group in groups]


def _held_out(groups: set[str], share: float) -> set[str]:
    """The groups whose hash falls into the share; where that would hold out all or, of many, none, the nearest."""
    ordered = sorted(groups, key=_fraction)
    chosen = [group for group in ordered if _fraction(group) < share]
    if share > 0 and not chosen and len(groups) >= 5:
        chosen = ordered[:1]
    return set(chosen[: len(groups) - 1])


def _recall_rows(rows: list[dict[str, Any]], splits: list[str], share: float) -> Iterable[int]:
    by_fact: dict[str, dict[str, int]] = defaultdict(dict)
    for index, (row, split) in enumerate(zip(rows, splits, strict=True)):
        if split == TRAIN and row["fact"] and row["kind"] == "chat":
            by_fact[f"{row['document']}/{row['fact']}"][row["wording"]] = index
    for fact, wordings in by_fact.items():
        if len(wordings) >= MIN_WORDINGS_FOR_RECALL and _fraction(f"recall/{fact}") < share:
            yield wordings[min(wordings, key=lambda wording: _fraction(f"{fact}/{wording}"))]


def _without_leaks(rows: list[dict[str, Any]], splits: list[str]) -> list[str]:
    """A question asked later must not be trained word for word: its recall row is trained instead of asked."""
    trained = {_question(row) for row, split in zip(rows, splits, strict=True) if split == TRAIN}
    return [
        TRAIN if split == RECALL and _question(row) in trained else split
        for row, split in zip(rows, splits, strict=True)
    ]


def _question(row: dict[str, Any]) -> str:
    asked = next((turn["content"] for turn in row.get("messages") or [] if turn["role"] != "system"), "")
    text = asked or row.get("prompt") or row.get("text") or ""
    return " ".join(text.lower().split())


def _fraction(text: str) -> float:
    """A stable number in [0, 1) for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
