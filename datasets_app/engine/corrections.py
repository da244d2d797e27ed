"""What people corrected in a document, found again in another reading of the same file. Standard library only."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from datasets_app.engine import tables
from datasets_app.engine.elements import TABLE, Element

ALIKE, ALIKE_IN_PLACE, SAME_PLACE = 0.85, 0.5, 0.6


@dataclass(frozen=True)
class Correction:
    """`page`, `text`, `occurrence` (so many pieces of that text stand before it on its page) and `box`: the piece as it
    was read. What is empty of the rest stays as it was read."""

    key: int
    page: int | None
    text: str
    occurrence: int = 0
    box: list[float] | None = None
    new_text: str = ""
    new_kind: str = ""
    new_depth: int | None = None
    is_left_out: bool = False

    def applied_to(self, element: Element) -> Element:
        """The piece as the person wants it."""
        text = self.new_text or element.text
        kind = self.new_kind or element.kind
        html = element.html
        if kind != TABLE:
            html = None
        elif self.new_text or html is None:
            html = tables.html_of([[cell.strip() for cell in line.split("|")] for line in text.split("\n")])
        depth = self.new_depth if self.new_kind else element.depth
        left_out = self.is_left_out or element.is_left_out
        return replace(element, text=text, kind=kind, depth=depth, html=html, is_left_out=left_out)


def find(elements: Sequence[Element], corrections: Iterable[Correction]) -> dict[int, int]:
    """Of each correction's key the position of its piece; those that cannot be found are missing.

    First the same words at the same place, then the same words anywhere if they stand there once, then words that are
    much alike on the same page, where a box that lies on the other counts for them.
    """
    by_page: dict[tuple[int | None, str], list[int]] = defaultdict(list)
    by_text: dict[str, list[int]] = defaultdict(list)
    of_page: dict[int | None, list[int]] = defaultdict(list)
    for position, element in enumerate(elements):
        by_page[element.page, element.text].append(position)
        by_text[element.text].append(position)
        of_page[element.page].append(position)
    waiting, found, taken = list(corrections), dict[int, int](), set[int]()

    def settle(guess: Callable[[Correction], int | None]) -> None:
        for correction in list(waiting):
            position = guess(correction)
            if position is not None and position not in taken:
                found[correction.key] = position
                taken.add(position)
                waiting.remove(correction)

    def same(correction: Correction) -> int | None:
        there = by_page[correction.page, correction.text]
        return there[correction.occurrence] if correction.occurrence < len(there) else None

    def moved(correction: Correction) -> int | None:
        there = by_text[correction.text]
        return there[0] if len(there) == 1 else None

    def alike(correction: Correction) -> int | None:
        scored = [
            (score, position)
            for position in of_page[correction.page]
            if position not in taken and (score := _likeness(correction, elements[position]))
        ]
        return max(scored)[1] if scored else None

    settle(same)
    settle(moved)
    settle(alike)
    return found


def _likeness(correction: Correction, element: Element) -> float:
    """0: another piece."""
    shorter, longer = sorted((len(correction.text), len(element.text)))
    if shorter < ALIKE_IN_PLACE * longer:
        return 0.0
    matcher = SequenceMatcher(None, correction.text, element.text, autojunk=False)
    if matcher.quick_ratio() < ALIKE_IN_PLACE:
        return 0.0
    ratio = matcher.ratio()
    is_there = _overlap(correction.box, element.box) >= SAME_PLACE
    return ratio if ratio >= (ALIKE_IN_PLACE if is_there else ALIKE) else 0.0


def _overlap(one: list[float] | None, other: list[float] | None) -> float:
    """The share of both boxes together that both cover."""
    if not one or not other:
        return 0.0
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / (_area(one) + _area(other) - both)


def _area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
