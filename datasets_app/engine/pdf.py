"""PDF: Unstructured for the elements, pypdfium2 for what it does not see (fonts, a probe), pdfplumber for ruled tables,
tesseract for pages that are pictures.

Unstructured's automatic choice is never used: one page full of graphics made it drop the text of a whole document, and
its fast path returns nothing, without a word, for scans, encrypted and damaged files. The probe finds those first.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datasets_app.engine import ocr, tables
from datasets_app.engine.elements import OTHER, TABLE, TEXT, TITLE, Element
from datasets_app.engine.partition import to_elements
from datasets_app.engine.spec import Reading
from finetune_site.lib.channel import Channel, InputError, load_json, write_json

PAGES_AT_ONCE = 20
MIN_CHARACTERS_PER_PAGE = 20
TITLE_MAX_CHARACTERS = 140

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
    characters = sum(document[number - 1].get_textpage().count_chars() for number in chosen)
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
            for number in sorted(scanned & set(numbers)):
                link.check()
                found += ocr.read_picture(_drawn(path, number), number, reading.languages, seen)
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


def _scanned(path: Path, chosen: range, reading: Reading, warnings: list[str]) -> set[int]:
    """The pages that are pictures, as far as they can be read; a warning names those that cannot."""
    import pypdfium2
    import pypdfium2.raw as raw

    if reading.strategy != "auto":
        return set(chosen) if reading.strategy == "ocr" else set()
    document = pypdfium2.PdfDocument(path)
    found = set()
    for number in chosen:
        page = document[number - 1]
        if page.get_textpage().count_chars() < MIN_CHARACTERS_PER_PAGE and any(
            page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=3)
        ):
            found.add(number)
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


def _drawn(path: Path, number: int) -> Any:
    """A page as a picture for recognition, within its limit of points."""
    import pypdfium2

    page = pypdfium2.PdfDocument(path)[number - 1]
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
    try:
        found = partitioner.partition_pdf(filename=str(part), strategy="fast", languages=["eng"])
    except Exception as error:  # its parsers raise whatever a broken page makes them raise
        logging.getLogger(__name__).warning("unstructured: %s: %s", type(error).__name__, error)
        found = []
    elements = []
    for element, piece in zip(to_elements(found), found, strict=True):
        box, system = _box(piece), piece.metadata.coordinates and piece.metadata.coordinates.system
        place = _shares(box, (0, 0, system.width, system.height)) if box and system else None
        elements.append((replace(element, page=(element.page or 1) + first, box=place), box))
    if elements:
        return elements, False
    return [(element, None) for element in _plain(part, first)], True


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


def _ruled_tables(part: Path, first: int) -> dict[int, list[Table]]:
    """Ruled tables by page number; what looks like a table but has one column or mostly empty cells is none."""
    import pdfplumber

    found: dict[int, list[Table]] = {}
    with pdfplumber.open(part) as document:
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
    """The sizes in which lines are set: the evidence for headings, of which Unstructured sees far too many."""

    def __init__(self, path: Path) -> None:
        import pypdfium2

        self._document = pypdfium2.PdfDocument(path)
        self._sizes: dict[int, list[tuple[str, float]]] = {}
        self._body = self._body_size()
        self._levels = self._heading_sizes()

    def correct(self, elements: list[tuple[Element, Any]]) -> list[tuple[Element, Any]]:
        """Titles only where the type is larger than the body's; large short lines become titles."""
        return [(self._corrected(element), box) for element, box in elements]

    def _corrected(self, element: Element) -> Element:
        if element.kind not in {TITLE, TEXT, OTHER} or not element.page:
            return element
        size = self._size_of(element)
        is_large = size is not None and size >= 1.12 * self._body
        if is_large and len(element.text) <= TITLE_MAX_CHARACTERS and re.search(r"[^\W\d]{2}", element.text):
            return replace(element, kind=TITLE, depth=self._depth(size or 0))
        return replace(element, kind=TEXT) if element.kind == TITLE else element

    def _depth(self, size: float) -> int:
        return next((depth for depth, level in enumerate(self._levels) if size >= level - 0.3), len(self._levels))

    def _size_of(self, element: Element) -> float | None:
        wanted = _squeeze(element.text)
        if not wanted:
            return None
        lines = self._lines(element.page or 1)
        whole = [size for text, size in lines if text == wanted]
        parts = [size for text, size in lines if len(text) > 3 and wanted.startswith(text)]
        return max(whole or parts, default=None)

    def _lines(self, page: int) -> list[tuple[str, float]]:
        if page not in self._sizes:
            self._sizes[page] = _sized_lines(self._document[page - 1])
        return self._sizes[page]

    def _body_size(self) -> float:
        """The size in which most characters are set, from a sample of pages."""
        counts: Counter[float] = Counter()
        pages = len(self._document)
        for page in range(1, pages + 1, max(1, pages // 20)):
            for text, size in self._lines(page):
                counts[round(size, 1)] += len(text)
        return counts.most_common(1)[0][0] if counts else 10.0

    def _heading_sizes(self) -> list[int]:
        sizes = {round(size) for lines in self._sizes.values() for text, size in lines if size >= 1.12 * self._body}
        return sorted(sizes, reverse=True)[:6]


def _sized_lines(page: Any) -> list[tuple[str, float]]:
    """Text objects joined into lines by their baseline: (text without spaces, size in points)."""
    import pypdfium2.raw as raw

    lines: dict[int, tuple[str, float]] = {}
    textpage = page.get_textpage()
    buffer_text: list[tuple[int, str, float]] = []
    for position in range(textpage.count_chars()):
        code = raw.FPDFText_GetUnicode(textpage, position)
        size = raw.FPDFText_GetFontSize(textpage, position)
        matrix = raw.FS_MATRIX()
        raw.FPDFText_GetMatrix(textpage, position, matrix)
        if code > 32:
            scale = abs(matrix.d) or abs(matrix.b) or 1.0
            buffer_text.append((round(matrix.f), chr(code), size * scale))
    for baseline, character, size in buffer_text:
        text, largest = lines.get(baseline, ("", 0.0))
        lines[baseline] = (text + character, max(largest, size))
    return [(_squeeze(text), size) for text, size in lines.values()]


def _squeeze(text: str) -> str:
    from datasets_app.engine.elements import clean

    return re.sub(r"\s+", "", clean(text))
