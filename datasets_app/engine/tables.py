"""The cells of a table: out of the HTML that parsers write, and into text and HTML. Standard library only: pages show
tables from these."""

from collections.abc import Iterable, Iterator
from html import escape
from html.parser import HTMLParser

Rows = list[list[str]]


def text_of(rows: Rows) -> str:
    """Cells parted by bars, rows by lines, so that a value can be quoted."""
    return "\n".join(" | ".join(row) for row in rows)


def html_of(rows: Rows) -> str:
    lines = ("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{''.join(lines)}</table>"


def parts(rows: Iterable[list[str]], max_chars: int) -> Iterator[Rows]:
    """A long table in parts of at most about `max_chars` characters of text, each under the first row again."""
    lines = iter(rows)
    header = next(lines, None)
    if header is None:
        return
    part, size = [header], _size(header)
    for row in lines:
        if len(part) > 1 and size + _size(row) > max_chars:
            yield part
            part, size = [header], _size(header)
        part.append(row)
        size += _size(row)
    yield part


def _size(row: list[str]) -> int:
    return sum(map(len, row)) + 3 * len(row)


def cells(html: str) -> list[list[str]]:
    """Rows of cell texts; markup inside a cell is dropped, a cell over several columns is repeated."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return [row for row in reader.rows if any(row)]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self._parts: list[str] | None = None
        self._span = 1

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self._close_cell()
            span = dict(attrs).get("colspan") or "1"
            self._parts, self._span = [], min(int(span), 50) if span.isdecimal() else 1
        elif tag == "br" and self._parts is not None:
            self._parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th", "tr"}:
            self._close_cell()

    def handle_data(self, data: str) -> None:
        if self._parts is not None:
            self._parts.append(data)

    def _close_cell(self) -> None:
        if self._parts is None:
            return
        if not self.rows:
            self.rows.append([])
        text = " ".join("".join(self._parts).split())
        self.rows[-1] += [text] * self._span
        self._parts = None
