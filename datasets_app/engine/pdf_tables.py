"""Tables of PDFs: those with rules around their cells by pdfplumber, those without by how their cells stand under each
other. Unstructured's fast path finds neither."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from datasets_app.engine import tables
from datasets_app.engine.elements import TABLE, Element
from datasets_app.engine.typography import Line, Piece

MIN_STROKES = 8  # of a table: four lines of two points each, or two boxes
MIN_FILLED = 0.6  # of the cells
MIN_ALIGNED_FILLED = 0.75  # without rules
MIN_ROWS = 3  # without rules
FIGURES, EVEN_ROWS = 0.3, 0.8  # what is no table of figures must have as many cells in most rows
SPACE = 0.15  # of the size of the type: a wider gap parts two words
MAX_CELL = 40  # characters; what is longer is running text that stands beside
TYPICAL_CELL = 25
ROW_STEP = 2.6  # times the size of the type: at most so far is a row under the one before
Box = tuple[float, float, float, float]
Row = list[Piece]
_FIGURE = re.compile(r"[^\w]*\d")


@dataclass(frozen=True)
class Table:
    """A table: its box in points from the top left and as shares of the page, its cells row by row. `is_ruled`: all
    that stands in its box is in its cells."""

    box: Box
    place: list[float] | None
    rows: list[list[str]]
    is_ruled: bool = True

    def holds(self, text: str) -> bool:
        """Whether its cells say all of a text that stands in its box."""
        if self.is_ruled:
            return True
        words = {word for row in self.rows for cell in row for word in cell.split()}
        return words.issuperset(text.split())

    def element(self, page: int | None) -> Element:
        html = tables.html_of(self.rows)
        return Element(0, TABLE, tables.text_of(self.rows), page=page, html=html, box=self.place)


def ruled(part: Path, first: int) -> dict[int, list[Table]]:
    """Ruled tables by page number; what looks like a table but has one column or mostly empty cells is none. `first`:
    how many pages of the file come before the part."""
    import pdfplumber

    found: dict[int, list[Table]] = {}
    numbers = _with_rules(part)
    if not numbers:
        return found
    with pdfplumber.open(part, pages=numbers) as document:
        for page in document.pages:
            for table in page.find_tables():
                extracted = table.extract(x_tolerance_ratio=SPACE)
                rows = [row for cells in extracted for row in _parted([(cell or "").split("\n") for cell in cells])]
                if len(rows) > 1 and len(rows[0]) > 1 and _filled(rows) > MIN_FILLED:
                    found.setdefault(first + page.page_number, []).append(
                        Table(table.bbox, shares(table.bbox, page.bbox), rows)
                    )
            page.close()
    return found


def with_aligned(lines: list[Line], size: tuple[float, float], ruled_ones: list[Table]) -> list[Table]:
    """All tables of a page: beside the ruled ones those without rules, or with some across alone, in which rows close
    under each other have their cells in columns. One that has more columns than those it covers, whose sides are open,
    takes their place. `size` of the page in points."""
    width, height = size
    found = list(ruled_ones)
    for run in _runs(lines):
        if not (table := _table(run, width, height)):
            continue
        covered = [other for other in ruled_ones if _is_inside(_middle(other.box), table.box)]
        meets = [other for other in ruled_ones if _share_ground(other.box, table.box)]
        if all(len(table.rows[0]) > len(other.rows[0]) for other in covered) and len(covered) == len(meets):
            found = [other for other in found if other not in covered]
            found.append(table)
    return found


def merge(elements: list[tuple[Element, Box | None]], found: dict[int, list[Table]]) -> Iterator[Element]:
    """Put each table where its first cell was read, and drop the loose cells."""
    placed: set[int] = set()
    for element, box in elements:
        of_page = found.get(element.page or 0, ())
        table = next((entry for entry in of_page if box and _is_inside(_middle(box), entry.box)), None)
        if table is None or not table.holds(element.text):
            yield element
        elif id(table) not in placed:
            placed.add(id(table))
            yield table.element(element.page)
    for page, entries in found.items():
        for table in entries:
            if id(table) not in placed:
                yield table.element(page)


def shares(box: Box, page: Box) -> list[float] | None:
    """A box as shares of its page."""
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


def _parted(cells: list[list[str]]) -> Iterator[list[str]]:
    """A row of cells with their lines. Where all have the same number of lines, these are rows with no rule between."""
    counts = {len(lines) for lines in cells if any(lines)}
    if len(counts) == 1 and sum(map(any, cells)) > 1:
        for number in range(counts.pop()):
            yield [" ".join(lines[number].split()) if any(lines) else "" for lines in cells]
    else:
        yield [" ".join(" ".join(lines).split()) for lines in cells]


def _runs(lines: list[Line]) -> Iterator[list[Row]]:
    """The short pieces of lines close under each other. A line of running text alone ends a run; text that stands
    beside the cells does not."""
    run: list[Row] = []
    for line in lines:
        row = [piece for piece in line.pieces if len(piece.text) <= MAX_CELL]
        is_far = run and run[-1][0].base - line.pieces[0].base > ROW_STEP * line.size
        if run and (is_far or not row):
            yield run
            run = []
        if len(row) > 1 or (run and row):  # what has one piece alone begins no table
            run.append(row)
    if run:
        yield run


def _table(run: list[Row], width: float, height: float) -> Table | None:
    """The table that a run of rows is, None for one whose pieces only happen to stand so."""
    while run and len(run[-1]) == 1:
        run = run[:-1]
    full = [row for row in run if len(row) > 1]
    if len(full) < MIN_ROWS:
        return None
    count = Counter(map(len, full)).most_common(1)[0][0]
    columns = _columns([row for row in full if len(row) == count])
    if len(columns) != count:
        return None
    rows = list(_filled_rows(run, columns))
    cells = [cell for row in rows for cell in row if cell]
    if len(rows) < MIN_ROWS or _filled(rows) < MIN_ALIGNED_FILLED or median(map(len, cells)) > TYPICAL_CELL:
        return None
    if _is_contents(rows) or (count == 2 and not _is_list_of_figures(rows)):
        return None
    is_even = sum(len(row) == count for row in run) >= EVEN_ROWS * len(full)
    if not is_even and sum(bool(_FIGURE.match(cell)) for cell in cells) < FIGURES * len(cells):
        return None
    used = [piece for row in run for piece in row if _column_of(piece, columns) is not None]
    top = height - max(piece.base + 0.8 * piece.size for piece in used)
    bottom = height - min(piece.base - 0.2 * piece.size for piece in used)
    box = (min(left for left, _ in columns), top, max(right for _, right in columns), bottom)
    return Table(box, shares(box, (0, 0, width, height)), rows, is_ruled=False)


def _filled_rows(run: list[Row], columns: list[tuple[float, float]]) -> Iterator[list[str]]:
    """The rows in their columns. What stands alone under a cell goes on in it, but for the first column's."""
    row: list[str] = []
    for pieces in run:
        filled = _in_columns(pieces, columns)
        if row and sum(map(bool, filled)) == 1 and not filled[0]:
            row = [f"{above} {below}".strip() for above, below in zip(row, filled, strict=True)]
            continue
        if row:
            yield row
        row = filled if any(filled) else []
    if row:
        yield row


def _columns(rows: list[Row]) -> list[tuple[float, float]]:
    """From where to where each column goes: what stands over and under each other is one."""
    spans = sorted((piece.left, piece.right) for row in rows for piece in row)
    columns: list[tuple[float, float]] = []
    for left, right in spans:
        if columns and left < columns[-1][1]:
            columns[-1] = (columns[-1][0], max(columns[-1][1], right))
        else:
            columns.append((left, right))
    return columns


def _in_columns(row: Row, columns: list[tuple[float, float]]) -> list[str]:
    """The cells of a row; what stands beside all columns is none of it."""
    cells = [""] * len(columns)
    for piece in row:
        place = _column_of(piece, columns)
        if place is not None:
            cells[place] = f"{cells[place]} {piece.text}".strip()
    return cells


def _column_of(piece: Piece, columns: list[tuple[float, float]]) -> int | None:
    """The column that it shares most with."""
    shared = [min(piece.right, right) - max(piece.left, left) for left, right in columns]
    return shared.index(max(shared)) if max(shared) > 0 else None


def _is_list_of_figures(rows: list[list[str]]) -> bool:
    """Whether two columns are names and figures."""
    return sum(bool(_FIGURE.match(row[1])) for row in rows) >= MIN_FILLED * len(rows)


def _is_contents(rows: list[list[str]]) -> bool:
    """Whether it lists titles, perhaps with their numbers, and pages, which never fall."""
    pages = [row[-1] for row in rows if row[-1]]
    is_numbered = len(rows[0]) == 3 and all(re.fullmatch(r"[\dA-Z.]{0,9}", row[0]) for row in rows)
    if not (len(rows[0]) == 2 or is_numbered) or not all(page.isdecimal() for page in pages):
        return False
    return all(int(before) <= int(after) for before, after in pairwise(pages))


def _filled(rows: list[list[str]]) -> float:
    cells = [cell for row in rows for cell in row]
    return sum(map(bool, cells)) / len(cells)


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _share_ground(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _is_inside(point: tuple[float, float], box: Box) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]
