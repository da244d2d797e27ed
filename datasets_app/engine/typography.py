"""How a PDF is set: its lines in pieces with their places, sizes and weights, and the headings that follow from that
and from its outline. Unstructured sees far too many headings, and nothing of all this."""

import contextlib
import ctypes
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets_app.engine.elements import CAPTION, LIST_ITEM, OTHER, TEXT, TITLE, Element, clean

TITLE_MAX_CHARACTERS = 140
LARGER, AS_LARGE = 1.12, 0.95  # than the body's type, for a heading, and for a bold one
WIDE = 1.4  # times the size between the beginnings of two signs, and another cell or column begins
MAX_OUTLINE = 3000
BASE_POINTS = 1.0  # by which baselines of one line may differ
_CAPTION = re.compile(r"(?:Figure|Fig\.|Table|Tab\.|Abbildung|Abb\.|Tabelle|Tableau|Figura|Tabla|Chart|Exhibit)\s*\d")
_NUMBERED = re.compile(r"(\d{1,2}(?:\.\d{1,2}){0,4})\.?\s+[^\W\d_].{1,80}(?<![.,;:!?])")


@dataclass(frozen=True)
class Piece:
    """Signs on one baseline without a wide gap: what was printed, from where to where and at which height in points
    from the page's lower left, its size in points, whether it begins and ends in bold."""

    text: str
    left: float
    right: float
    base: float
    size: float
    is_bold: bool

    @cached_property
    def squeezed(self) -> str:
        """Its text without spaces, as it is compared."""
        return squeeze(self.text)


@dataclass(frozen=True)
class Line:
    """The pieces on one baseline, from left to right. Of two columns of text they may be of both."""

    pieces: tuple[Piece, ...]
    squeezed: str

    @property
    def size(self) -> float:
        return max(piece.size for piece in self.pieces)

    @property
    def is_bold(self) -> bool:
        return all(piece.is_bold for piece in self.pieces)

    @property
    def is_of_contents(self) -> bool:
        """Whether it ends with a number that stands apart, as the lines of a table of contents do."""
        return len(self.pieces) > 1 and self.pieces[-1].text.isdecimal()


class Fonts:
    """The evidence for headings in one file.

    A heading is a short line that the outline names, that is larger than the body's, or bold where the body is not and
    no sentence, or whose number follows that of the heading before.
    """

    def __init__(self, path: Path) -> None:
        import pypdfium2

        self._document = pypdfium2.PdfDocument(path)
        self._lines: dict[int, list[Line]] = {}
        self._body = self._body_size()
        self._sizes = self._heading_sizes()
        self._outline = self._outlined_titles()
        self._levels = self._outlined_sizes()  # the size in which each level of the outline is set
        self._number: tuple[int, ...] = ()  # of the last heading that has one
        self._numbered: dict[int, int] = {}  # the depth of headings whose number has so many parts, as last seen

    def correct(self, elements: list[tuple[Element, Any]]) -> list[tuple[Element, Any]]:
        """Titles only where outline or type say so; short lines that are set as headings become titles."""
        corrected = []
        for element, box in elements:
            right = self._corrected(element)
            self.learn([right])
            corrected.append((right, box))
        return corrected

    def learn(self, elements: list[Element]) -> None:
        """Note the numbers of headings that were corrected before, here or by an attempt that was ended."""
        for element in elements:
            if element.kind == TITLE and (number := _number_of(element.text)):
                self._number = number
                self._numbered[len(number)] = element.depth or 0

    def lines(self, page: int) -> list[Line]:
        """The lines of a page, from 1; none of one that cannot be read."""
        import pypdfium2

        if page not in self._lines:
            try:
                self._lines[page] = _set_lines(self._document[page - 1])
            except pypdfium2.PdfiumError:
                self._lines[page] = []
        return self._lines[page]

    def size_of(self, page: int) -> tuple[float, float]:
        """Width and height of a page in points."""
        left, bottom, right, top = _box_of(self._document[page - 1])
        return right - left, top - bottom

    def is_turned(self, page: int) -> bool:
        """Whether a page is shown turned: its lines are not, so nothing can be told of their places."""
        return bool(self._document[page - 1].get_rotation())

    def _corrected(self, element: Element) -> Element:
        if element.kind not in {TITLE, TEXT, OTHER, LIST_ITEM} or not element.page:
            return element
        is_short = len(element.text) <= TITLE_MAX_CHARACTERS and bool(re.search(r"[^\W\d]{2}", element.text))
        if is_short and (level := self._outlined_level(element.page, squeeze(element.text))) is not None:
            return replace(element, kind=TITLE, depth=level)
        if element.kind == LIST_ITEM:
            return element
        if is_short and _CAPTION.match(element.text):
            return replace(element, kind=CAPTION, depth=None)
        size, is_bold = self._type_of(element)
        if size >= LARGER * self._body and is_short:
            return replace(element, kind=TITLE, depth=self._depth(size))
        if is_bold and size >= AS_LARGE * self._body and is_short and element.text.strip()[-1] not in ".,;:!?":
            return replace(element, kind=TITLE, depth=self._depth(size) if self._levels else len(self._sizes))
        if is_short and (number := _number_of(element.text)) and self._follows(number):
            return replace(element, kind=TITLE, depth=self._numbered_depth(len(number)))
        return replace(element, kind=TEXT) if element.kind == TITLE else element

    def _follows(self, number: tuple[int, ...]) -> bool:
        """Whether a number of several parts is the next after the last heading's: 3.2 after 3.1 or 3.1.4, 3.1.1 after
        3.1. An amount that begins a line hardly ever is."""
        *above, last = number
        if not above or tuple(above) != self._number[: len(above)]:
            return False
        before = self._number[len(above)] if len(self._number) > len(above) else 0
        return last == before + 1

    def _numbered_depth(self, parts: int) -> int:
        """One more than that of a heading with one part less in its number."""
        above = max((known for known in self._numbered if known <= parts), default=parts)
        return self._numbered.get(above, parts - 1) + parts - above

    def _depth(self, size: float) -> int:
        """By the sizes of the outline's levels where there is one, else by all sizes of headings."""
        if self._levels:
            same = [level for level, known in self._levels.items() if abs(known - size) <= 0.3]
            larger = [level + 1 for level, known in self._levels.items() if known > size]
            return min(same) if same else max(larger, default=0)
        return next((depth for depth, known in enumerate(self._sizes) if size >= known - 0.3), len(self._sizes))

    def _type_of(self, element: Element) -> tuple[float, bool]:
        """The size of its largest line, 0 where none is found; whether all its lines are bold and the body is not."""
        wanted = squeeze(element.text)
        lines = self.lines(element.page or 1) if wanted else []
        parts = [piece for line in lines if not line.is_of_contents for piece in line.pieces]
        every: list[Line | Piece] = [*lines, *parts]
        found = [entry for entry in every if entry.squeezed == wanted]
        found = found or [entry for entry in every if len(entry.squeezed) > 3 and wanted.startswith(entry.squeezed)]
        is_bold = bool(found) and all(entry.is_bold for entry in found) and not self._is_body_bold
        return max((entry.size for entry in found), default=0.0), is_bold

    def _body_size(self) -> float:
        """The size in which most characters are set, from a sample of pages."""
        counts: Counter[float] = Counter()
        bold: Counter[bool] = Counter()
        pages = len(self._document)
        for page in range(1, pages + 1, max(1, pages // 20)):
            for line in self.lines(page):
                counts[round(line.size, 1)] += len(line.squeezed)
                bold[line.is_bold] += len(line.squeezed)
        self._is_body_bold = bold[True] > 0.4 * bold.total()
        return counts.most_common(1)[0][0] if counts else 10.0

    def _heading_sizes(self) -> list[int]:
        lines = (line for lines in self._lines.values() for line in lines)
        sizes = {round(line.size) for line in lines if line.size >= LARGER * self._body}
        return sorted(sizes, reverse=True)[:6]

    def _outlined_titles(self) -> dict[int, list[tuple[str, int]]]:
        """By page the titles that the outline names there, squeezed, with their levels from 0."""
        import pypdfium2

        found: dict[int, list[tuple[str, int]]] = {}
        with contextlib.suppress(pypdfium2.PdfiumError):
            for count, entry in enumerate(self._document.get_toc(max_depth=6)):
                place = entry.get_dest()
                page = place.get_index() if place else None
                if page is not None and (title := squeeze(entry.get_title())):
                    found.setdefault(page + 1, []).append((title, entry.level))
                if count >= MAX_OUTLINE:
                    break
        return found

    def _outlined_level(self, page: int, squeezed: str) -> int | None:
        """An outline often leaves the number before a title out, and points to the end of the page before."""
        for title, level in [*self._outline.get(page, []), *self._outline.get(page - 1, [])]:
            if squeezed == title or (
                squeezed.endswith(title) and re.fullmatch(r"[\dA-Z.():-]{1,9}", squeezed[: -len(title)])
            ):
                return level
        return None

    def _outlined_sizes(self) -> dict[int, float]:
        seen: dict[int, Counter[float]] = {}
        for page in list(self._outline)[:50]:
            for line in self.lines(page):
                level = self._outlined_level(page, line.squeezed)
                if level is not None:
                    seen.setdefault(level, Counter())[round(line.size, 1)] += 1
        return {level: sizes.most_common(1)[0][0] for level, sizes in seen.items()}


def _number_of(text: str) -> tuple[int, ...]:
    """The number of a section that begins a heading; empty where there is none."""
    numbered = _NUMBERED.fullmatch(text)
    if not numbered or not text[numbered.end(1) :].lstrip(". ")[0].isupper():
        return ()
    return tuple(map(int, numbered[1].split(".")))


def squeeze(text: str) -> str:
    return re.sub(r"\s+", "", clean(text))


def _box_of(page: Any) -> tuple[float, float, float, float]:
    """Its own media box, in which Unstructured places what it finds, or the box that it has of the pages above it."""
    box: tuple[float, float, float, float] = page.get_mediabox(fallback_ok=False) or page.get_bbox()
    return box


def _set_lines(page: Any) -> list[Line]:
    """The signs of a page joined into lines by their baseline, from the top, and into pieces by the gaps in them."""
    textpage = page.get_textpage()
    left, bottom, _, _ = _box_of(page)
    lines = []
    for signs in _on_one_base(sorted(_signs(textpage, left, bottom), key=lambda sign: -sign.base)):
        pieces = tuple(_piece(textpage, part) for part in _parts(signs))
        in_order = sorted(signs, key=lambda sign: sign.position)
        lines.append(Line(pieces, squeeze("".join(sign.text for sign in in_order))))
    return lines


def _on_one_base(signs: "list[_Sign]") -> "Iterator[list[_Sign]]":
    line: list[_Sign] = []
    for sign in signs:
        if line and line[0].base - sign.base > BASE_POINTS:
            yield line
            line = []
        line.append(sign)
    if line:
        yield line


@dataclass(frozen=True)
class _Sign:
    """One character: its position in the page's text, whether a space is before it, where it begins, its size."""

    position: int
    text: str
    is_spaced: bool
    left: float
    base: float
    size: float


def _signs(textpage: Any, zero: float, floor: float) -> Iterator[_Sign]:
    """The signs of a page but its spaces. `zero`, `floor`: the lower left of its box, where its own figures may not be
    zero. A sign beyond 16 bits comes in two halves."""
    import pypdfium2.raw as raw

    matrix, left, base = raw.FS_MATRIX(), ctypes.c_double(), ctypes.c_double()
    is_spaced, half = False, 0
    for position in range(textpage.count_chars()):
        code = raw.FPDFText_GetUnicode(textpage, position)
        if code <= 32 or code == 0xA0:
            is_spaced = True
            continue
        if 0xD800 <= code < 0xDC00:
            half = code
            continue
        if 0xDC00 <= code < 0xE000:
            code = 0x10000 + ((half - 0xD800) << 10) + (code - 0xDC00) if half else 0xFFFD
        half = 0
        raw.FPDFText_GetMatrix(textpage, position, matrix)  # of what it was printed with; its own place is its origin
        raw.FPDFText_GetCharOrigin(textpage, position, left, base)
        size = raw.FPDFText_GetFontSize(textpage, position) * (abs(matrix.d) or abs(matrix.b) or 1.0)
        yield _Sign(position, chr(code), is_spaced, left.value - zero, base.value - floor, size)
        is_spaced = False


def _parts(signs: list[_Sign]) -> Iterator[list[_Sign]]:
    """The signs of a line by their place, parted where a gap is wide."""
    part: list[_Sign] = []
    for sign in sorted(signs, key=lambda sign: (sign.left, sign.position)):
        if part and sign.left - part[-1].left > WIDE * max(part[-1].size, 1.0):
            yield part
            part = []
        part.append(sign)
    yield part


def _piece(textpage: Any, part: list[_Sign]) -> Piece:
    order = sorted(part, key=lambda sign: sign.position)  # from right to left the first sign stands last
    text = "".join(f" {sign.text}" if sign.is_spaced else sign.text for sign in order).strip()
    size = max(sign.size for sign in part)
    is_bold = all(_is_bold(textpage, sign.position) for sign in (order[0], order[-1]))
    before, _, after, _ = textpage.get_charbox(part[-1].position)
    return Piece(text, part[0].left, part[-1].left + max(after - before, 0.0), part[0].base, size, is_bold)


def _is_bold(textpage: Any, position: int) -> bool:
    """By the weight that the font states, or else by its name: TeX's bold fonts state none."""
    import pypdfium2.raw as raw

    if raw.FPDFText_GetFontWeight(textpage, position) >= 600:
        return True
    name = ctypes.create_string_buffer(128)
    raw.FPDFText_GetFontInfo(textpage, position, name, 128, None)
    return bool(re.search(rb"bold|black|heavy|cmbx|-bd|nimb.*medi", name.value, re.IGNORECASE))
