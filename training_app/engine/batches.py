"""The order of the rows and how they lie together in one computation: without padding, the shared beginning once.

A step learns from `batch_rows` rows. They are laid end to end in one sequence under a mask that lets each see only
itself, so no arithmetic is spent on padding. Rows of one step usually begin alike (the system prompt): that prefix is
computed once and every row looks back at it. Causal attention makes this exact: loss and gradient are those of the
rows computed one by one.
"""

import functools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from training_app.engine.template import REHEARSED, Tokens

IGNORED = -100  # a target that adds nothing to the cross-entropy


@dataclass(frozen=True)
class Batch:
    """Rows laid end to end. `sources[k]` is the position whose output must predict token `targets[k]`."""

    input_ids: torch.Tensor  # 1, tokens
    position_ids: torch.Tensor  # 1, tokens
    attention_mask: torch.Tensor  # 1, 1, tokens, tokens; true where a token may look
    sources: torch.Tensor  # trained tokens
    targets: torch.Tensor  # trained tokens
    counted: torch.Tensor  # trained tokens; 1 for those of the dataset's rows, 0 for rehearsal and filler
    owners: torch.Tensor  # trained tokens; to which of the rows each belongs
    rows: tuple[Tokens, ...]  # as they lie

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.attention_mask.to(device),
            self.sources.to(device),
            self.targets.to(device),
            self.counted.to(device),
            self.owners.to(device),
            self.rows,
        )

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Add up what belongs to each row: from trained tokens to rows."""
        return torch.zeros(len(self.rows), device=values.device).index_add(0, self.owners, values)


def steps_per_epoch(row_count: int, batch_rows: int) -> int:
    """Steps in which every row is seen once; the last may be smaller."""
    return -(-row_count // batch_rows)


def step_rows(row_count: int, batch_rows: int, seed: int, step: int) -> list[int]:
    """Indices of the rows of one step, counted from 0: a function of its arguments alone, so a resumed run agrees."""
    epoch, place = divmod(step, steps_per_epoch(row_count, batch_rows))
    return _order(row_count, seed, epoch)[place * batch_rows : (place + 1) * batch_rows]


@functools.lru_cache(maxsize=2)
def _order(row_count: int, seed: int, epoch: int) -> list[int]:
    order = list(range(row_count))
    random.Random(f"{seed}:{epoch}").shuffle(order)  # noqa: S311
    return order


def micro_batches(
    rows: list[Tokens], token_limit: int, share_prefix: bool = True, multiple: int = 1, unit: int = 1
) -> Iterator[Batch]:
    """Lay rows together, at most `token_limit` tokens at once unless one unit alone is longer."""
    for group in parts(rows, token_limit, unit):
        yield lay_out(group, share_prefix, multiple)


def parts(rows: list[Tokens], token_limit: int, unit: int = 1) -> Iterator[list[Tokens]]:
    """Which rows are computed at once.

    A unit is so many rows in succession; they stay together and in their order.
    """
    if not rows:
        return
    group: list[Tokens] = []
    size = 0
    # Rows of like length together: a mask of unlike rows wastes more attention.
    for members in sorted(units(rows, unit), key=tokens_of, reverse=True):
        if group and size + tokens_of(members) > token_limit:
            yield group
            group, size = [], 0
        group += members
        size += tokens_of(members)
    yield group


def units(rows: list[Tokens], unit: int) -> list[list[Tokens]]:
    """The rows in groups of so many that follow one another."""
    return [rows[start : start + unit] for start in range(0, len(rows), unit)]


def tokens_of(rows: Iterable[Tokens]) -> int:
    """How many tokens the rows have, each counted whole."""
    return sum(len(row.ids) for row in rows)


def lay_out(rows: list[Tokens], share_prefix: bool = True, multiple: int = 1) -> Batch:
    """One sequence of all rows: the prefix they share, then the rest of each.

    `multiple` rounds the sequence and the trained tokens up with filler that counts for nothing.
    """
    prefix = shared_prefix([row.ids for row in rows]) if share_prefix and len(rows) > 1 else 0
    ids = list(rows[0].ids[:prefix])
    positions = list(range(prefix))
    owners = [-1] * prefix
    sources: list[int] = []
    targets: list[int] = []
    counted: list[float] = []
    owned: list[int] = []
    for number, row in enumerate(rows):
        offset = len(ids) - prefix
        for place in range(1, len(row.ids)):
            if row.trained[place]:
                # The token before it: in the shared beginning, or in this row's own part.
                sources.append(place - 1 if place - 1 < prefix else offset + place - 1)
                targets.append(row.ids[place])
                counted.append(float(row.example_id != REHEARSED))
                owned.append(number)
        ids += row.ids[prefix:]
        positions += range(prefix, len(row.ids))
        owners += [number] * (len(row.ids) - prefix)
    filler = -len(ids) % multiple
    ids += ids[-1:] * filler
    positions += [0] * filler
    owners += [len(rows)] * filler
    lacking = -len(sources) % multiple
    owner = torch.tensor(owners)
    mask = ((owner[:, None] == owner[None, :]) | (owner[None, :] == -1)).tril()
    return Batch(
        torch.tensor([ids]),
        torch.tensor([positions]),
        mask[None, None],
        torch.tensor(sources + [0] * lacking),
        torch.tensor(targets + [IGNORED] * lacking),
        torch.tensor(counted + [0.0] * lacking),
        torch.tensor(owned + [0] * lacking),
        tuple(rows),
    )


def shared_prefix(sequences: list[list[int]]) -> int:
    """How many tokens all sequences have in common at their start; at least one token of each is left over."""
    first, last = min(sequences), max(sequences)
    limit = min(len(sequence) for sequence in sequences) - 1
    for index in range(limit):
        if first[index] != last[index]:
            return index
    return limit
