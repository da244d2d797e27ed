"""Whether what a model says rests on its passage: quotes are looked for word for word, then nearly so; numbers exactly.

What cannot be found is kept and marked, never taken for true: a person decides.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from typing import Any

FUZZY_SHARE = 0.9
EXACT, CLOSE, NONE = "exact", "close", "none"  # how a quote was found
VERIFIED, UNVERIFIED = "verified", "unverified"  # beside `CLOSE`: what this makes of an example
# A space is a thousands' mark only between groups of three: “in 2019 23 people” holds two numbers.
_NUMBER = re.compile(r"\d{1,3}(?:[ \u00a0\u202f']\d{3})+(?!\d)(?:[.,]\d+)?|\d+(?:[.,]\d+)*")
_LIST_MARK = re.compile(r"^\s*\(?\d{1,2}[.)]\s", re.M)


@dataclass(frozen=True)
class Span:
    """A quote and its place: `text[start:end]` of the passage. Without a place `quote` is what the model said."""

    quote: str
    start: int | None
    end: int | None
    match: str


@dataclass(frozen=True)
class Evidence:
    """`support`: verified when every quote stands in the passage word for word, close when one stands there nearly so,
    unverified when there is a doubt. `doubts`: sentences."""

    spans: tuple[Span, ...]
    doubts: tuple[str, ...]
    support: str

    def fields(self) -> dict[str, Any]:
        """As a row of a generator has it; the first quote that was found beside."""
        first = next((span for span in self.spans if span.start is not None), None)
        return {
            "quote": first.quote if first else "",
            "quote_start": first.start if first else None,
            "quote_end": first.end if first else None,
            "evidence": [asdict(span) for span in self.spans],
            "doubts": list(self.doubts),
            "support": self.support,
        }


def weigh(passage: str, quotes: Iterable[str], answer: str, question: str = "") -> Evidence:
    """Hold the quotes and the numbers of an answer against the passage. A number of the question may be said again."""
    spans = tuple(find(passage, quote) for quote in dict.fromkeys(text.strip() for text in quotes) if quote)
    doubts = [f"The passage does not say “{span.quote}”." for span in spans if span.match == NONE]
    if not spans:
        doubts.append("Nothing of the passage is quoted.")
    known = {*numbers(passage), *numbers(question)}
    unknown = [number for number in numbers(answer) if number not in known]
    doubts += [f"The number {number} does not stand in the passage." for number in dict.fromkeys(unknown)]
    is_close = any(span.match == CLOSE for span in spans)
    return Evidence(spans, tuple(doubts), UNVERIFIED if doubts else CLOSE if is_close else VERIFIED)


def at(quote: str, start: int) -> Evidence:
    """Of what was taken out of the passage there."""
    return Evidence((Span(quote, start, start + len(quote), EXACT),), (), VERIFIED)


def find(passage: str, quote: str) -> Span:
    """Where a quote stands: word for word but for space and case, else the run of words that is closest to it."""
    words = quote.split()
    spelled = r"\s+".join(map(re.escape, words))
    if words and (match := re.search(rf"(?<!\w){spelled}(?!\w)", passage, re.I)):
        return Span(match.group(), match.start(), match.end(), EXACT)
    places = [match.span() for match in re.finditer(r"\S+", passage)]
    best: tuple[float, tuple[int, int]] | None = None
    matcher = SequenceMatcher(None, autojunk=False)
    matcher.set_seq2(" ".join(words).lower())
    for first in range(max(0, len(places) - len(words) + 1)) if words else ():
        start, end = places[first][0], places[first + len(words) - 1][1]
        matcher.set_seq1(passage[start:end].lower())
        if matcher.real_quick_ratio() < FUZZY_SHARE or matcher.quick_ratio() < FUZZY_SHARE:
            continue
        ratio = matcher.ratio()
        if best is None or ratio > best[0]:
            best = ratio, (start, end)
    if best and best[0] >= FUZZY_SHARE:
        start, end = best[1]
        if set(numbers(passage[start:end])) >= set(numbers(quote)):  # near in letters is far in a number
            return Span(passage[start:end], start, end, CLOSE)
    return Span(quote, None, None, NONE)


def numbers(text: str) -> list[str]:
    """The numbers of a text, written alike: without thousands' marks, with a point before decimals."""
    return [_plain(match.group()) for match in _NUMBER.finditer(_LIST_MARK.sub("", text))]


def _plain(number: str) -> str:
    parts = re.split(r"[.,\u00a0\u202f' ]", number)
    if len(parts) > 1 and all(len(part) == 3 for part in parts[1:]) and len(parts[0]) <= 3:
        return "".join(parts)  # 1,430 and 1 430 000
    marks = re.sub(r"\d", "", number)
    if len(parts) == 2 and marks in {".", ","}:
        return f"{parts[0]}.{parts[1].rstrip('0')}".rstrip(".")
    if marks and len(set(marks)) > 1 and marks[-1] in ".,":
        return f"{''.join(parts[:-1])}.{parts[-1].rstrip('0')}".rstrip(".")  # 1,430.5
    return number
