"""The cells of a table, out of the HTML that parsers write. Standard library only: pages show tables from these."""

from html.parser import HTMLParser


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
