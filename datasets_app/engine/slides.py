"""The figures of a presentation's charts, which Unstructured leaves out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets_app.engine import tables
from datasets_app.engine.elements import CAPTION, TABLE, Element


def charts(path: Path, warnings: list[str]) -> Iterator[Element]:
    """Of each chart its title and its series by category. A warning counts those whose kind cannot be read."""
    from pptx import Presentation

    unread = 0
    with path.open("rb") as stream:
        for number, slide in enumerate(Presentation(stream).slides, start=1):
            for chart in _charts_of(slide.shapes):
                try:
                    title = chart.chart_title.text_frame.text.strip() if chart.has_title else ""
                    parts = [_figures(plot) for plot in chart.plots]
                except (ValueError, KeyError, AttributeError):  # a kind that python-pptx does not know
                    parts = []
                if not any(parts):
                    unread += 1
                    continue
                if title:
                    yield Element(0, CAPTION, title, page=number)
                for rows in filter(None, parts):
                    yield Element(0, TABLE, tables.text_of(rows), page=number, html=tables.html_of(rows))
    if unread:
        warnings.append(f"The figures of {unread} charts were left out: of this kind they cannot be read.")


def _charts_of(shapes: Any) -> Iterator[Any]:
    """Those in groups too."""
    for shape in shapes:
        if shape.has_chart:
            yield shape.chart
        elif hasattr(shape, "shapes"):
            yield from _charts_of(shape.shapes)


def _figures(plot: Any) -> tables.Rows:
    """A row a category, a column a series, and a row of their names; nothing where points have no categories."""
    names = [str(name) for name in plot.categories]
    series = list(plot.series)
    columns = [[f"{value:.15g}" if value is not None else "" for value in each.values] for each in series]
    if not names or not series or any(len(column) > len(names) for column in columns):
        return []
    rows = [
        [name, *(column[place] if place < len(column) else "" for column in columns)]
        for place, name in enumerate(names)
    ]
    return [["", *(each.name for each in series)], *rows]
