"""PDF: Unstructured for the elements, pypdfium2 for what it does not see (fonts, a probe), pdfplumber for ruled tables,
tesseract for pages that are pictures.

Unstructured's automatic choice is never used: one page full of graphics made it drop the text of a whole document, and
its fast path returns nothing, without a word, for scans, encrypted and damaged files. The probe finds those first.
"""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from datasets_app.engine import ocr, tables
from datasets_app.engine.elements import OTHER, TABLE, TEXT, TITLE, Element
from datasets_app.engine.partition import to_elements
from datasets_app.engine.spec import Reading
from finetune_site.lib.channel import Channel, InputError, load_json, write_json

PAGES_AT_ONCE = 20
MIN_STROKES = 8  # of a table: four lines of two points each, or two boxes
MIN_CHARACTERS_PER_PAGE = 20
TITLE_MAX_CHARACTERS = 140

_SPACED = re.compile(r"(?:[\u3040-\u30ff\u4e00-\u9fff] ){2}")
_BETWEEN = re.compile(r"(?<=[\u3000-\u30ff\u4e00-\u9fff]) +(?=[\u3000-\u30ff\u4e00-\u9fff])")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Table:
    """A ruled table: its box in points from the top left and as shares of the page, its cells row by row."""

    box: Box
    place: list[float] | None
    rows: list[list[str]]


def probe(path: Path, max_pages: int, reading: Reading) -> int:
    """Open the file and count its pages; `InputError` says what is wrong with one that cannot be read as is asked."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise InputError(
                "The PDF is encrypted with a password. Save a copy without one and upload that."
            ) from error
        raise InputError(
            "The PDF is damaged or cut short: it cannot be opened. Export or download it again."
        ) from error
    pages = len(document)
    if not pages:
        raise InputError("The PDF has no page.")
    chosen = reading.pages(pages)
    if len(chosen) > max_pages:
        raise InputError(f"The PDF has {len(chosen)} pages; at most {max_pages} are read. Split it into parts.")
    if reading.strategy == "ocr":
        ocr.check(reading.languages)
        return pages
    counts = [_characters(document, number) for number in chosen]
    if all(count is None for count in counts):
        raise InputError("The PDF is damaged: none of its pages can be read. Export or download it again.")
    characters = sum(count or 0 for count in counts)
    if characters < MIN_CHARACTERS_PER_PAGE * len(chosen) / 4:
        told = f"The PDF has {len(chosen)} pages but hardly any text ({characters} characters): it is probably a scan. "
        if reading.strategy == "text":
            raise InputError(told + "Choose text recognition for it, and parse it again.")
        try:
            ocr.check(reading.languages)
        except InputError as error:
            raise InputError(told + str(error)) from error
    return pages


def read(
    path: Path, pages: int, reading: Reading, link: Channel, warnings: list[str], report: ocr.Report
) -> Iterator[Element]:
    """Elements page range by page range, so that memory stays bounded and progress is real. Each range is kept in the
    folder of the results as soon as it is read: another attempt goes on where this one was ended."""
    import pypdfium2

    chosen = reading.pages(pages)
    scanned = _scanned(path, chosen, reading, warnings)
    fonts = Fonts(path) if len(scanned) < len(chosen) else None
    plain = 0
    for first in range(chosen.start, chosen.stop, PAGES_AT_ONCE):
        link.check()
        numbers = range(first, min(first + PAGES_AT_ONCE, chosen.stop))
        kept = Path.cwd() / f"{path.name[:40]}-pages-{first}.json"
        if kept.exists():
            told = load_json(kept)
            found, is_plain = [Element(**fields) for fields in told["elements"]], told["is_plain"]
            seen = ocr.Report(**told["recognised"])
        else:
            seen = ocr.Report()
            found, is_plain = _printed(path, numbers, fonts, reading) if fonts else ([], False)
            found = [element for element in found if element.page not in scanned]
            document = pypdfium2.PdfDocument(path)
            for number in sorted(scanned & set(numbers)):
                link.check()
                found += ocr.read_picture(_drawn(document[number - 1]), number, reading.languages, seen)
                link.emit("progress", done=number - chosen.start + 1, total=len(chosen), unit="pages")
            found.sort(key=lambda element: element.page or 0)
            rows = [asdict(element) for element in found]
            write_json(kept, {"is_plain": is_plain, "elements": rows, "recognised": asdict(seen)})
        plain += is_plain
        report.add(seen)
        yield from found
        link.emit("progress", done=numbers.stop - chosen.start, total=len(chosen), unit="pages")
    if plain:
        warnings.append("Some pages could only be read as plain text; headings and lists on them are not told apart.")


def _characters(document: Any, number: int) -> int | None:
    """How many characters a page has as text; None for one that cannot be read."""
    import pypdfium2

    try:
        return int(document[number - 1].get_textpage().count_chars())
    except pypdfium2.PdfiumError:
        return None


def _scanned(path: Path, chosen: range, reading: Reading, warnings: list[str]) -> set[int]:
    """The pages that are pictures, as far as they can be read; a warning names those that cannot."""
    import pypdfium2
    import pypdfium2.raw as raw

    if reading.strategy != "auto":
        return set(chosen) if reading.strategy == "ocr" else set()
    document = pypdfium2.PdfDocument(path)
    found = set()
    for number in chosen:
        count = _characters(document, number)
        if count is not None and count < MIN_CHARACTERS_PER_PAGE:
            pictures = document[number - 1].get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=3)
            found |= {number} if any(pictures) else set()
    if found:
        try:
            ocr.check(reading.languages)
        except InputError as error:
            some = ", ".join(map(str, sorted(found)[:20]))
            warnings.append(f"Pages that are pictures were not read: {some}{'…' if len(found) > 20 else ''}. {error}")
            return set()
    return found


def _printed(path: Path, numbers: range, fonts: "Fonts", reading: Reading) -> tuple[list[Element], bool]:
    """What stands as text on some pages, and whether it could only be read as plain text."""
    import unstructured.partition.pdf as partitioner
    import unstructured.partition.utils.constants  # noqa: F401  the module is complete before it is patched

    partitioner.is_pdf_too_complex = lambda *_, **__: False
    logging.getLogger("pdfminer").setLevel(logging.ERROR)
    first = numbers.start - 1
    part = _extract(path, first, numbers.stop - 1)
    pieces, is_plain = _partition(partitioner, part, first)
    tables_found = _ruled_tables(part, first) if reading.finds_tables else {}
    found = list(_merge(fonts.correct(pieces), tables_found))
    part.unlink()
    return found, is_plain


def _drawn(page: Any) -> Any:
    """A page as a picture for recognition, within its limit of points."""
    width, height = page.get_size()
    scale = min(ocr.DPI / 72, (ocr.MAX_PIXELS / max(width * height, 1)) ** 0.5)
    return page.render(scale=scale, grayscale=True).to_pil()


def _extract(path: Path, first: int, last: int) -> Path:
    """A PDF of the pages `first` to `last - 1`, beside the results."""
    import pypdfium2

    part = Path.cwd() / f"pages-{first}.pdf"
    source, target = pypdfium2.PdfDocument(path), pypdfium2.PdfDocument.new()
    target.import_pages(source, list(range(first, last)))
    target.save(part)
    return part


def _partition(partitioner: Any, part: Path, first: int) -> tuple[list[tuple[Element, Any]], bool]:
    """Elements with their boxes; plain text of the pages where Unstructured fails or finds nothing."""
    import pypdfium2

    try:
        with _without_tagging():
            found = partitioner.partition_pdf(filename=str(part), strategy="fast", languages=["eng"])
    except Exception as error:  # its parsers raise whatever a broken page makes them raise
        logging.getLogger(__name__).warning("unstructured: %s: %s", type(error).__name__, error)
        found = []
    elements = []
    source = pypdfium2.PdfDocument(part)
    for element, piece in zip(to_elements(found), found, strict=True):
        box, system = _box(piece), piece.metadata.coordinates and piece.metadata.coordinates.system
        place = _shares(box, (0, 0, system.width, system.height)) if box and system else None
        text = _reread(source[(element.page or 1) - 1], place, element.text)
        elements.append((replace(element, text=text, page=(element.page or 1) + first, box=place), box))
    if elements:
        return elements, False
    return [(element, None) for element in _plain(part, first)], True


@contextmanager
def _without_tagging() -> Iterator[None]:
    """Half of Unstructured's time goes into tagging parts of speech, to tell headings from sentences by their grammar.
    `Fonts` tells them by their type, so every line that is no item of a list may pass for a sentence."""
    text: Any = import_module("unstructured.partition.text")
    by_grammar = text.is_possible_narrative_text
    text.is_possible_narrative_text = lambda *_, **__: True
    try:
        yield
    finally:
        text.is_possible_narrative_text = by_grammar


def _reread(page: Any, place: list[float] | None, text: str) -> str:
    """The text as pdfium has it, where the engine is known to fail: letters it found no Unicode for, and words from
    right to left, which it writes from left to right. Between the signs of a vertical line it puts spaces."""
    if _SPACED.search(text):
        return _BETWEEN.sub("", text)
    letters = [sign for sign in text if sign.isalpha()]
    is_leftward = sum(unicodedata.bidirectional(sign) in {"R", "AL"} for sign in letters) > 0.3 * len(letters)
    if place is None or not ("(cid:" in text or (letters and is_leftward)):
        return text
    width, height = page.get_size()
    margin = 1.0
    left, top, right, bottom = place
    again = page.get_textpage().get_text_bounded(
        left * width - margin, (1 - bottom) * height - margin, right * width + margin, (1 - top) * height + margin
    )
    return again if again.strip() else text


def _plain(part: Path, first: int) -> Iterator[Element]:
    import pypdfium2

    for number, page in enumerate(pypdfium2.PdfDocument(part)):
        text = page.get_textpage().get_text_bounded()
        for paragraph in re.split(r"(?:\r?\n\s*){2,}", text):
            if paragraph.strip():
                yield Element(0, TEXT, paragraph, page=first + number + 1)


def _box(element: Any) -> Box | None:
    coordinates = element.metadata.coordinates
    if not coordinates or not coordinates.points:
        return None
    xs, ys = zip(*coordinates.points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _shares(box: Box, page: Box) -> list[float] | None:
    left, top, right, bottom = page
    if right <= left or bottom <= top:
        return None
    across = [(x - left) / (right - left) for x in (box[0], box[2])]
    down = [(y - top) / (bottom - top) for y in (box[1], box[3])]
    return [round(min(max(share, 0.0), 1.0), 4) for share in (across[0], down[0], across[1], down[1])]


def _with_rules(part: Path) -> list[int]:
    """The pages, from 1, on which enough is drawn to rule a table: two rows of two columns take a few lines."""
    import pypdfium2
    import pypdfium2.raw as raw

    drawn = []
    for number, page in enumerate(pypdfium2.PdfDocument(part), start=1):
        strokes = 0
        for path in page.get_objects(filter=[raw.FPDF_PAGEOBJ_PATH], max_depth=4):
            strokes += max(raw.FPDFPath_CountSegments(path), 0)
            if strokes >= MIN_STROKES:
                drawn.append(number)
                break
    return drawn


def _ruled_tables(part: Path, first: int) -> dict[int, list[Table]]:
    """Ruled tables by page number; what looks like a table but has one column or mostly empty cells is none."""
    import pdfplumber

    found: dict[int, list[Table]] = {}
    numbers = _with_rules(part)
    if not numbers:
        return found
    with pdfplumber.open(part, pages=numbers) as document:
        for page in document.pages:
            for table in page.find_tables():
                rows = [[" ".join((cell or "").split()) for cell in row] for row in table.extract()]
                cells = [cell for row in rows for cell in row]
                if len(rows) > 1 and len(rows[0]) > 1 and sum(map(bool, cells)) > 0.6 * len(cells):
                    found.setdefault(first + page.page_number, []).append(
                        Table(table.bbox, _shares(table.bbox, page.bbox), rows)
                    )
            page.close()
    return found


def _merge(elements: list[tuple[Element, Any]], ruled: dict[int, list[Table]]) -> Iterator[Element]:
    """Put each table where its first cell was read, and drop the loose cells."""
    placed: set[int] = set()
    for element, box in elements:
        table = next((entry for entry in ruled.get(element.page or 0, ()) if box and _is_inside(box, entry.box)), None)
        if table is None:
            yield element
        elif id(table) not in placed:
            placed.add(id(table))
            yield _table_element(table, element.page)
    for page, entries in ruled.items():
        for table in entries:
            if id(table) not in placed:
                yield _table_element(table, page)


def _is_inside(box: tuple[float, ...], table: tuple[float, ...]) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return table[0] <= x <= table[2] and table[1] <= y <= table[3]


def _table_element(table: Table, page: int | None) -> Element:
    html = tables.html_of(table.rows)
    return Element(0, TABLE, tables.text_of(table.rows), page=page, html=html, box=table.place)


class Fonts:
    """The sizes and weights in which lines are set: the evidence for headings, of which Unstructured sees far too many.

    A heading is a short line that is larger than the body's, or bold where the body is not and no sentence.
    """

    def __init__(self, path: Path) -> None:
        import pypdfium2

        self._document = pypdfium2.PdfDocument(path)
        self._sizes: dict[int, list[Line]] = {}
        self._body = self._body_size()
        self._levels = self._heading_sizes()

    def correct(self, elements: list[tuple[Element, Any]]) -> list[tuple[Element, Any]]:
        """Titles only where the type says so; short lines that are set as headings become titles."""
        return [(self._corrected(element), box) for element, box in elements]

    def _corrected(self, element: Element) -> Element:
        if element.kind not in {TITLE, TEXT, OTHER} or not element.page:
            return element
        size, is_bold = self._type_of(element)
        is_short = len(element.text) <= TITLE_MAX_CHARACTERS and bool(re.search(r"[^\W\d]{2}", element.text))
        if size >= 1.12 * self._body and is_short:
            return replace(element, kind=TITLE, depth=self._depth(size))
        if is_bold and size >= 0.95 * self._body and is_short and element.text.strip()[-1] not in ".,;:!?":
            return replace(element, kind=TITLE, depth=len(self._levels))
        return replace(element, kind=TEXT) if element.kind == TITLE else element

    def _depth(self, size: float) -> int:
        return next((depth for depth, level in enumerate(self._levels) if size >= level - 0.3), len(self._levels))

    def _type_of(self, element: Element) -> tuple[float, bool]:
        """The size of its largest line, 0 where none is found; whether all its lines are bold and the body is not."""
        wanted = _squeeze(element.text)
        lines = self._lines(element.page or 1) if wanted else []
        found = [line for line in lines if line.text == wanted]
        found = found or [line for line in lines if len(line.text) > 3 and wanted.startswith(line.text)]
        is_bold = bool(found) and all(line.is_bold for line in found) and not self._is_body_bold
        return max((line.size for line in found), default=0.0), is_bold

    def _lines(self, page: int) -> "list[Line]":
        import pypdfium2

        if page not in self._sizes:
            try:
                self._sizes[page] = _set_lines(self._document[page - 1])
            except pypdfium2.PdfiumError:  # a page that cannot be read has no lines
                self._sizes[page] = []
        return self._sizes[page]

    def _body_size(self) -> float:
        """The size in which most characters are set, from a sample of pages."""
        counts: Counter[float] = Counter()
        bold: Counter[bool] = Counter()
        pages = len(self._document)
        for page in range(1, pages + 1, max(1, pages // 20)):
            for line in self._lines(page):
                counts[round(line.size, 1)] += len(line.text)
                bold[line.is_bold] += len(line.text)
        self._is_body_bold = bold[True] > 0.4 * bold.total()
        return counts.most_common(1)[0][0] if counts else 10.0

    def _heading_sizes(self) -> list[int]:
        lines = (line for lines in self._sizes.values() for line in lines)
        sizes = {round(line.size) for line in lines if line.size >= 1.12 * self._body}
        return sorted(sizes, reverse=True)[:6]


@dataclass(frozen=True)
class Line:
    """A printed line: its text without spaces, its size in points, whether it begins and ends in bold."""

    text: str
    size: float
    is_bold: bool


def _set_lines(page: Any) -> list[Line]:
    """Text objects joined into lines by their baseline."""
    import pypdfium2.raw as raw

    textpage = page.get_textpage()
    lines: dict[int, list[tuple[int, str, float]]] = {}
    matrix = raw.FS_MATRIX()
    for position in range(textpage.count_chars()):
        code = raw.FPDFText_GetUnicode(textpage, position)
        if code <= 32:
            continue
        raw.FPDFText_GetMatrix(textpage, position, matrix)
        size = raw.FPDFText_GetFontSize(textpage, position) * (abs(matrix.d) or abs(matrix.b) or 1.0)
        lines.setdefault(round(matrix.f), []).append((position, chr(code), size))
    return [
        Line(
            _squeeze("".join(sign for _, sign, _ in line)),
            max(size for _, _, size in line),
            all(_is_bold(textpage, position) for position in (line[0][0], line[-1][0])),
        )
        for line in lines.values()
    ]


def _is_bold(textpage: Any, position: int) -> bool:
    """By the weight that the font states, or else by its name: TeX's bold fonts state none."""
    import ctypes

    import pypdfium2.raw as raw

    if raw.FPDFText_GetFontWeight(textpage, position) >= 600:
        return True
    name = ctypes.create_string_buffer(128)
    raw.FPDFText_GetFontInfo(textpage, position, name, 128, None)
    return bool(re.search(rb"bold|black|heavy|cmbx|-bd|nimb.*medi", name.value, re.IGNORECASE))


def _squeeze(text: str) -> str:
    from datasets_app.engine.elements import clean

    return re.sub(r"\s+", "", clean(text))
