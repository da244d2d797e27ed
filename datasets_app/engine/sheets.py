"""Spreadsheets and delimited text: a sheet is a page and a section of its name, its blocks of rows are tables.

Read row by row, so that memory does not grow with the sheet. Values are as the sheet last computed them; formulas are
never evaluated, and macros are not looked at.
"""

import csv
import datetime
import io
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from datasets_app.engine import tables
from datasets_app.engine.elements import TABLE, TEXT, TITLE, Element
from datasets_app.engine.partition import decode
from finetune_site.lib.channel import InputError

MAX_COLUMNS = 500
TABLE_CHARS = 1500
CELL_CHARS = 2000
LOOKED_AT_ROWS = 1000
SHARED_STRINGS = "xl/sharedStrings.xml"


def read_delimited(path: Path, delimiter: str) -> Iterator[Element]:
    """CSV or TSV; a CSV may be parted by semicolons, as some countries' programs write it."""
    text = decode(path)
    if delimiter == "," and text[:5000].count(";") > text[:5000].count(","):
        delimiter = ";"
    csv.field_size_limit(10_000_000)
    yield from _blocks(_cells_of(text, delimiter), page=None)


def read_xlsx(path: Path, warnings: list[str]) -> Iterator[Element]:
    from openpyxl import load_workbook

    with _with_shared_strings(path).open("rb") as stream:  # by its name alone, which has no suffix, it is refused
        book = load_workbook(stream, read_only=True, data_only=True)
        for number, sheet in enumerate(book.worksheets, start=1):
            sheet.reset_dimensions()  # what a file says of its size may be made up
            yield from _sheet(sheet.title, _rows(sheet, warnings), number)


def _with_shared_strings(path: Path) -> Path:
    """A workbook whose texts stand in its cells may name a list of shared ones that it has not: openpyxl wants it."""
    with zipfile.ZipFile(path) as book:
        if SHARED_STRINGS in book.namelist() or SHARED_STRINGS.encode() not in book.read("[Content_Types].xml"):
            return path
    made = Path.cwd() / "workbook.xlsx"
    shutil.copyfile(path, made)
    with zipfile.ZipFile(made, "a") as book:
        book.writestr(SHARED_STRINGS, '<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"/>')
    return made


def _rows(sheet: Any, warnings: list[str]) -> Iterator[list[str]]:
    has_more = False
    for row in sheet.iter_rows(values_only=True):
        has_more = has_more or any(value is not None for value in row[MAX_COLUMNS:])
        yield [_shown(value) for value in row[:MAX_COLUMNS]]
    if has_more:
        warnings.append(f"The sheet “{sheet.title}” has more than {MAX_COLUMNS} columns; the others were left out.")


def _cells_of(text: str, delimiter: str) -> Iterator[list[str]]:
    """Cells that are quoted may follow their delimiter at a distance."""
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter != "\t")


def read_xls(path: Path) -> Iterator[Element]:
    import xlrd

    try:
        opened = xlrd.open_workbook(str(path), on_demand=True)
    except xlrd.XLRDError as error:
        if "encrypted" in str(error).lower():
            raise InputError("The workbook is encrypted with a password. Save a copy without one.") from error
        raise
    with opened as book:
        for number, name in enumerate(book.sheet_names(), start=1):
            sheet = book.sheet_by_name(name)
            yield from _sheet(name, (_old_row(sheet, at, book.datemode) for at in range(sheet.nrows)), number)
            book.unload_sheet(name)


def table_elements(rows: Iterable[list[str]], page: int | None) -> Iterator[Element]:
    """A table as elements that fit a passage each."""
    for part in tables.parts(rows, TABLE_CHARS):
        yield Element(0, TABLE, tables.text_of(part), page=page, html=tables.html_of(part))


def _sheet(name: str, rows: Iterable[list[str]], number: int) -> Iterator[Element]:
    blocks = _blocks(rows, number)
    first = next(blocks, None)
    if first is not None:  # of an empty sheet its name says nothing
        yield Element(0, TITLE, name, page=number, depth=0)
        yield first
        yield from blocks


def _blocks(rows: Iterable[list[str]], page: int | None) -> Iterator[Element]:
    """Rows between empty ones are a table; those of one column are text."""
    for is_filled, block in groupby(map(_trimmed, rows), key=bool):
        if is_filled:
            yield from _block(block, page)


def _block(rows: Iterator[list[str]], page: int | None) -> Iterator[Element]:
    head = list(islice(rows, LOOKED_AT_ROWS))
    first = min(next(at for at, cell in enumerate(row) if cell) for row in head)
    width = max(map(len, head)) - first
    if width == 1:
        for row in chain(head, rows):
            yield Element(0, TEXT, " ".join(filter(None, row)), page=page)
        return
    yield from table_elements((row[first:] + [""] * (first + width - len(row)) for row in chain(head, rows)), page)


def _trimmed(row: list[str]) -> list[str]:
    last = max((at for at, cell in enumerate(row) if cell.strip()), default=-1)
    return [cell.strip()[:CELL_CHARS] for cell in row[: last + 1]]


def _shown(value: Any) -> str:
    """A value as a reader of the sheet would write it."""
    if value is None:
        return ""
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        value = value.date()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return repr(round(value, 10)) if isinstance(value, float) else str(value)


def _old_row(sheet: Any, at: int, datemode: int) -> list[str]:
    import xlrd

    shown = []
    for cell in sheet.row(at)[:MAX_COLUMNS]:
        if cell.ctype == xlrd.XL_CELL_DATE:
            try:
                shown.append(_shown(xlrd.xldate.xldate_as_datetime(cell.value, datemode)))
            except (ValueError, OverflowError):
                shown.append(_shown(cell.value))
        elif cell.ctype == xlrd.XL_CELL_BOOLEAN:
            shown.append(str(bool(cell.value)))
        else:
            shown.append("" if cell.ctype == xlrd.XL_CELL_ERROR else _shown(cell.value))
    return shown
