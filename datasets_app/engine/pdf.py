"""PDF: Unstructured for the elements, pypdfium2 for what it does not see (type, outline, a probe), tables beside them,
tesseract for pages that are pictures.

Unstructured's automatic choice is never used: one page full of graphics made it drop the text of a whole document, and
its fast path returns nothing, without a word, for scans, encrypted and damaged files. The probe finds those first.
"""

import logging
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from datasets_app.engine import ocr, partition, pdf_tables, slim
from datasets_app.engine.elements import TEXT, TITLE, Element
from datasets_app.engine.pdf_tables import Box
from datasets_app.engine.spec import Reading
from datasets_app.engine.typography import Fonts
from finetune_site.lib.channel import Channel, InputError, load_json, write_json

Partition = Callable[[Path], list[Any]]  # Unstructured's elements of a PDF
Placed = tuple[Element, Box | None]
PAGES_AT_ONCE = 20
MIN_CHARACTERS_PER_PAGE = 20

_SPACED = re.compile(r"(?:[\u3040-\u30ff\u4e00-\u9fff] ){2}")
_BETWEEN = re.compile(r"(?<=[\u3000-\u30ff\u4e00-\u9fff]) +(?=[\u3000-\u30ff\u4e00-\u9fff])")


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
    if reading.strategy in {"ocr", "layout"}:
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
    path: Path,
    pages: int,
    reading: Reading,
    link: Channel,
    warnings: list[str],
    report: ocr.Report,
    by_look: Partition | None = None,
) -> Iterator[Element]:
    """Elements page range by page range, so that memory stays bounded and progress is real. Each range is kept in the
    folder of the results as soon as it is read: another attempt goes on where this one was ended. `by_look`: what finds
    the elements where the pages are read by their look."""
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
            if fonts:
                fonts.learn(found)
        else:
            seen = ocr.Report()
            found, is_plain = _printed(path, numbers, fonts, reading, by_look) if fonts else ([], False)
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


def _printed(
    path: Path, numbers: range, fonts: Fonts, reading: Reading, by_look: Partition | None
) -> tuple[list[Element], bool]:
    """What stands on some pages, and whether it could only be read as plain text."""
    logging.getLogger("pdfminer").setLevel(logging.ERROR)
    first = numbers.start - 1
    part = _extract(path, first, numbers.stop - 1)
    pieces, is_plain = _partition(by_look or _by_text, part, first)
    tables = pdf_tables.ruled(part, first) if reading.finds_tables else {}
    if reading.finds_tables:
        for number in numbers:
            if not fonts.is_turned(number):
                lines, size = fonts.lines(number), fonts.size_of(number)
                tables[number] = pdf_tables.with_aligned(lines, size, tables.get(number, []))
    by_type = fonts.correct(pieces)
    found = list(pdf_tables.merge(_as_seen(pieces, by_type) if by_look else by_type, tables))
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


def _by_text(part: Path) -> list[Any]:
    import unstructured.partition.pdf as partitioner
    import unstructured.partition.utils.constants  # noqa: F401  the module is complete before it is patched

    partitioner.is_pdf_too_complex = lambda *_, **__: False
    with slim.without_tagging(partition.TEXT_PARSER):  # `Fonts` tells headings by their type
        return list(partitioner.partition_pdf(filename=str(part), strategy="fast", languages=["eng"]))


def _as_seen(pieces: list[Placed], by_type: list[Placed]) -> list[Placed]:
    """Headings where the layout says so, as deep as their type says."""
    return [
        (replace(seen, depth=typed.depth if typed.kind == TITLE else 0) if seen.kind == TITLE else seen, box)
        for (seen, box), (typed, _) in zip(pieces, by_type, strict=True)
    ]


def _partition(by: Partition, part: Path, first: int) -> tuple[list[Placed], bool]:
    """Elements with their boxes; plain text of the pages where Unstructured fails or finds nothing."""
    import pypdfium2

    try:
        found = by(part)
    except Exception as error:  # its parsers raise whatever a broken page makes them raise
        logging.getLogger(__name__).warning("unstructured: %s: %s", type(error).__name__, error)
        found = []
    elements = []
    source = pypdfium2.PdfDocument(part)
    for element, piece in zip(partition.to_elements(found), found, strict=True):
        box, system = _box(piece), piece.metadata.coordinates and piece.metadata.coordinates.system
        place = pdf_tables.shares(box, (0, 0, system.width, system.height)) if box and system else None
        text = _reread(source[(element.page or 1) - 1], place, element.text)
        elements.append((replace(element, text=text, page=(element.page or 1) + first, box=place), box))
    if elements:
        return elements, False
    return [(element, None) for element in _plain(part, first)], True


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
