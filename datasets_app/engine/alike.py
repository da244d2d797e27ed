"""Texts that say nearly the same: MinHash over runs of three words (Broder, On the resemblance and containment of
documents, 1997), candidates by bands, and then the true share of what two have in common.

Texts that differ in a number are never alike: “part 3” and “part 4” are two questions.
"""

import hashlib
import re
from collections.abc import Iterable

import numpy

from datasets_app.engine.evidence import numbers

SHARE = 0.8  # of the runs of words of two texts: from there on they are alike
RUN = 3
HASHES, BANDS = 64, 16  # rows of 4: a pair with a share of 0.8 is missed once in 10,000 times
LEADERS = 20  # of one bucket: a text is held against so many
_PRIME = numpy.uint64((1 << 61) - 1)
_MASK = numpy.uint64((1 << 32) - 1)


def groups(texts: Iterable[str]) -> list[int]:
    """For each text the place of the first one that it is alike to; its own where it is alike to none before it."""
    runs, kept = [], []
    for text in texts:
        runs.append(_runs(text))
        kept.append(frozenset(numbers(text)))
    parents = list(range(len(runs)))
    if not runs:
        return []
    signatures = _signatures(runs)
    rows = HASHES // BANDS
    for band in range(BANDS):
        for members in _buckets(signatures[:, band * rows : (band + 1) * rows]):
            leaders: list[int] = []
            for member in members:
                near = (each for each in leaders if _is_alike(runs, kept, each, member, parents))
                if (leader := next(near, None)) is not None:
                    _join(parents, leader, member)
                elif len(leaders) < LEADERS:
                    leaders.append(member)
    return [_first(parents, place) for place in range(len(parents))]


def _runs(text: str) -> numpy.ndarray:
    """The hashes of its runs of words, each once; of a text of fewer words the one of all of them."""
    words = re.findall(r"\w+", text.lower())
    runs = {" ".join(words[at : at + RUN]) for at in range(max(1, len(words) - RUN + 1))}
    hashes = [int.from_bytes(hashlib.blake2b(run.encode(), digest_size=4).digest(), "big") for run in runs]
    return numpy.unique(numpy.array(hashes, dtype=numpy.uint32))


def _signatures(runs: list[numpy.ndarray]) -> numpy.ndarray:
    """Of each text the least value of its runs under each hash function: texts x HASHES."""
    chance = numpy.random.default_rng(20260101)  # the same in every run: groups must not change by themselves
    factors = chance.integers(1, 1 << 29, HASHES, dtype=numpy.uint64)
    offsets = chance.integers(0, 1 << 61, HASHES, dtype=numpy.uint64)
    found = numpy.empty((len(runs), HASHES), dtype=numpy.uint32)
    for place, each in enumerate(runs):
        mixed = (each.astype(numpy.uint64)[:, None] * factors + offsets) % _PRIME & _MASK
        found[place] = mixed.min(axis=0)
    return found


def _buckets(columns: numpy.ndarray) -> Iterable[list[int]]:
    """The places of texts whose signatures agree in a band, of each band value that two have at least."""
    keys = numpy.ascontiguousarray(columns).view([("", columns.dtype)] * columns.shape[1]).ravel()
    order = numpy.argsort(keys, kind="stable")
    ends = numpy.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
    for members in numpy.split(order, ends):
        if len(members) > 1:
            yield members.tolist()


def _is_alike(runs: list[numpy.ndarray], kept: list[frozenset[str]], one: int, other: int, parents: list[int]) -> bool:
    if _first(parents, one) == _first(parents, other):
        return True
    if kept[one] != kept[other]:
        return False
    common = numpy.intersect1d(runs[one], runs[other], assume_unique=True).size
    return bool(common >= SHARE * (runs[one].size + runs[other].size - common))


def _first(parents: list[int], place: int) -> int:
    while parents[place] != place:
        parents[place] = parents[parents[place]]
        place = parents[place]
    return place


def _join(parents: list[int], one: int, other: int) -> None:
    first, second = sorted((_first(parents, one), _first(parents, other)))
    parents[second] = first
