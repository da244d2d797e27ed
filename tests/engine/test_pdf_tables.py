"""Tables without rules, and what only looks like one; headings by outline and number, in PDFs made by reportlab."""

import io

import pytest
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from datasets_app.engine import pdf_tables
from datasets_app.engine.elements import CAPTION, LIST_ITEM, TEXT, TITLE, Element
from datasets_app.engine.typography import Fonts

PARTS = [
    ["Part", "Weight", "Built"],
    ["Rotor", "4 kg", "Bergen"],
    ["Housing", "31 kg", "Oslo"],
    ["Shaft", "9 kg", "Oslo"],
]
FIGURES = [["Source articles", "28,009"], ["Clusters", "5,543"], ["Patterns", "643,767"], ["Kept", "302"]]
CONTENTS = [["Introduction", "1"], ["The pump", "4"], ["The filter", "9"], ["Care", "12"], ["Index", "40"]]
PROSE = "the pump moves water up the hill all day"


@pytest.fixture
def drawn(tmp_path):
    """Draws a page and gives the fonts of it."""

    def draw(work):
        stream = io.BytesIO()
        canvas = Canvas(stream, pagesize=A4)
        work(canvas)
        canvas.save()
        path = tmp_path / "a.pdf"
        path.write_bytes(stream.getvalue())
        return Fonts(path)

    return draw


def columns(rows, places, size=10):
    def work(canvas):
        canvas.setFont("Helvetica", size)
        for number, row in enumerate(rows):
            for text, left in zip(row, places, strict=True):
                canvas.drawString(left, 700 - 14 * number, text)

    return work


def tables_of(fonts, ruled_ones=()):
    found = pdf_tables.with_aligned(fonts.lines(1), fonts.size_of(1), list(ruled_ones))
    return [table.rows for table in found]


@pytest.mark.parametrize(("rows", "places"), [(PARTS, (72, 200, 300)), (FIGURES, (72, 200))])
def test_cells_under_each_other_are_a_table(drawn, rows, places):
    fonts = drawn(columns(rows, places))
    assert tables_of(fonts) == [rows]
    [table] = pdf_tables.with_aligned(fonts.lines(1), fonts.size_of(1), [])
    left, top, right, bottom = table.box
    assert 71 < left < 73 and right < 360 and 841.9 - 712 < top < 841.9 - 700 and bottom < 841.9 - 655


@pytest.mark.parametrize(
    ("rows", "places"),
    [
        (CONTENTS, (72, 500)),
        ([[PROSE, PROSE]] * 12, (72, 300)),
        ([["-", "a point"], ["-", "another"], ["-", "the last"], ["-", "one more"]], (72, 100)),
        (PARTS[:2], (72, 200, 300)),
    ],
    ids=["contents", "two columns of text", "a list", "two rows"],
)
def test_what_only_looks_like_one_is_none(drawn, rows, places):
    assert tables_of(drawn(columns(rows, places))) == []


def test_columns_outside_of_the_rules_come_in_and_a_whole_ruled_table_stays(drawn):
    fonts = drawn(columns(PARTS, (72, 200, 300)))
    inner = pdf_tables.Table((195, 130, 360, 190), None, [row[1:] for row in PARTS])
    assert tables_of(fonts, [inner]) == [PARTS]
    whole = pdf_tables.Table((70, 130, 360, 190), None, [["one", "two", "three"]] * 4)
    assert tables_of(fonts, [whole]) == [whole.rows]


def test_lines_of_a_cell_are_rows_only_where_every_cell_has_as_many():
    assert list(pdf_tables._parted([["a", "b"], ["1", "2"], [""]])) == [["a", "1", ""], ["b", "2", ""]]
    assert list(pdf_tables._parted([["a", "b"], ["1"]])) == [["a b", "1"]]
    assert list(pdf_tables._parted([["a", "b"], [""]])) == [["a b", ""]]


def test_headings_by_outline_and_number(drawn):
    def work(canvas):
        canvas.setFont("Helvetica", 10)
        for number, text in enumerate(
            ["2 The pump", "Care", "2.1 Oil", "2.1 kg of oil", "Figure 3 – Oil", *[PROSE] * 9]
        ):
            canvas.drawString(72, 750 - 20 * number, text)
        for level, title in enumerate(("The pump", "Care")):
            canvas.bookmarkPage(title)
            canvas.addOutlineEntry(title, title, level)

    fonts = drawn(work)

    def told(text, kind=TEXT):
        [(right, _)] = fonts.correct([(Element(0, kind, text, page=1), None)])
        return right.kind, right.depth

    assert told("2 The pump", LIST_ITEM) == (TITLE, 0)
    assert told("Care") == (TITLE, 1)
    assert told("2.1 Oil") == (TITLE, 1)
    assert told("2.1 kg of oil")[0] == TEXT
    assert told("Figure 3 – Oil", TITLE)[0] == CAPTION
    assert told(PROSE, TITLE)[0] == TEXT


def test_what_stands_between_the_rows_is_not_lost(drawn):
    rows = [
        ["Part", "Weight", "Note"], ["Rotor", "4 kg", "cast iron,"], ["", "", "oil proof"], ["Engines below", "", ""],
        ["Housing", "31 kg", "steel"], ["Shaft", "9 kg", "steel"], ["Pin", "1 kg", "steel"], ["Cap", "2 kg", "tin"],
    ]  # fmt: skip
    fonts = drawn(columns(rows, (72, 200, 300)))
    [table] = pdf_tables.with_aligned(fonts.lines(1), fonts.size_of(1), [])
    assert table.rows[1:3] == [["Rotor", "4 kg", "cast iron, oil proof"], ["Engines below", "", ""]]
    box = (80.0, table.box[1] + 5, 90.0, table.box[1] + 9)
    pieces = [(Element(0, TEXT, "Rotor 4 kg", page=1), box), (Element(0, TEXT, "Stands nowhere else", page=1), box)]
    assert [element.text[:19] for element in pdf_tables.merge(pieces, {1: [table]})] == [
        "Part | Weight | Not", "Stands nowhere else",
    ]  # fmt: skip


def test_a_page_whose_box_begins_elsewhere_and_signs_beyond_16_bits(tmp_path):
    import pypdfium2

    stream = io.BytesIO()
    canvas = Canvas(stream, pagesize=A4)
    columns(PARTS, (72, 200, 300))(canvas)
    canvas.save()
    document = pypdfium2.PdfDocument(stream.getvalue())
    document[0].set_mediabox(20, 100, 595, 842)
    document.save(tmp_path / "moved.pdf")
    fonts = Fonts(tmp_path / "moved.pdf")
    [table] = pdf_tables.with_aligned(fonts.lines(1), fonts.size_of(1), [])
    assert fonts.size_of(1) == (575, 742) and 51 < table.box[0] < 53 and 742 - 612 < table.box[1] < 742 - 600


def test_an_amount_that_begins_a_line_is_no_heading(drawn):
    fonts = drawn(columns([[PROSE]] * 12, (72,)))
    texts = ["2 The pump", "2.1 Oil", "2.5 Liter einfüllen", "2.2 Water", "10.30 Uhr Treffpunkt", "3.1 Later"]
    pieces = [(Element(0, TITLE if text == texts[0] else TEXT, text, page=1), None) for text in texts]
    fonts.learn([pieces[0][0]])
    kinds = [element.kind for element, _ in fonts.correct(pieces[1:])]
    assert kinds == [TITLE, TEXT, TITLE, TEXT, TEXT]
