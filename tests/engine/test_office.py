"""Office files, e-mails and structured text, made by the programs that own the formats, through the parser itself."""

import contextlib
import csv
import datetime
import hashlib
import io
import json
import shutil
import zipfile
from email.message import EmailMessage

import pytest

from datasets_app.engine import elements, parse
from datasets_app.engine.spec import ParseSpec
from datasets_app.engine.tables import cells
from finetune_site.lib.channel import InputError
from tests.engine.compound import with_stream
from tests.engine.test_parse import SAMPLES, write

TEXT = """# The Orrin pump

It is a pump with two valves, and it was built in Bergen.

## Care

Clean the filter of the pump every 30 days.

| Part | Weight |
|------|--------|
| Housing | 31 kg |
| Rotor | 4 kg |
"""


class Nobody:
    """Whom the parser tells."""

    def emit(self, event, **fields): ...

    def check(self): ...


def read(tmp_path, path):
    """Its elements and the parser's result. In this process, since a new one imports for seconds."""
    out, kept = tmp_path / "out", tmp_path / hashlib.sha256(path.read_bytes()).hexdigest()
    shutil.copy(path, kept)  # the site keeps it so, without a suffix that a library could go by
    with contextlib.chdir(tmp_path):
        result = parse.run(ParseSpec(str(kept), path.name, str(out)), Nobody())
    return elements.read(out / "elements.jsonl"), result


def workbook(path, sheets):
    from openpyxl import Workbook

    book = Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_a_workbook_is_sheets_with_tables_between_empty_rows(tmp_path):
    rows = [
        ["Part", "Weight", "Built"],
        ["Rotor", 4.0, datetime.datetime(2024, 5, 1)],
        ["Housing", 31.25, None],
        [],
        [None, "All weights in kilograms."],
        [],
        ["Oil", "Litres"],
        ["Gearbox", 2.7],
    ]
    found, result = read(tmp_path, workbook(tmp_path / "parts.xlsx", {"Pump": rows, "Empty": [], "Notes": [["Spare"]]}))
    assert [(element.kind, element.page) for element in found] == [
        ("title", 1), ("table", 1), ("text", 1), ("table", 1), ("title", 3), ("text", 3),
    ]  # fmt: skip
    assert cells(found[1].html) == [["Part", "Weight", "Built"], ["Rotor", "4", "2024-05-01"], ["Housing", "31.25", ""]]
    assert found[2].text == "All weights in kilograms."
    assert {tuple(element.section) for element in found} == {("Pump",), ("Notes",)}
    assert result["pages"] == 3


def test_a_long_sheet_is_many_tables_under_the_same_header_and_loses_no_row(tmp_path):
    rows = [["Number", "Name"], *([number, f"part {number}"] for number in range(3000))]
    found, _ = read(tmp_path, workbook(tmp_path / "long.xlsx", {"Parts": rows}))
    tables = [cells(element.html) for element in found if element.kind == "table"]
    assert len(tables) > 10 and all(table[0] == ["Number", "Name"] for table in tables)
    assert [row for table in tables for row in table[1:]] == [[str(a), b] for a, b in rows[1:]]
    assert all(len(element.text) < 1800 for element in found)


def test_a_hundred_columns(tmp_path):
    rows = [[f"c{number}" for number in range(100)], list(range(100))]
    found, _ = read(tmp_path, workbook(tmp_path / "wide.xlsx", {"Wide": rows}))
    assert cells(found[1].html) == [rows[0], [str(number) for number in rows[1]]]
    rows = [[f"c{number}" for number in range(600)], list(range(600))]
    found, result = read(tmp_path, workbook(tmp_path / "wider.xlsx", {"Wider": rows}))
    assert len(cells(found[1].html)[0]) == 500 and "more than 500 columns" in result["warnings"][0]


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("csv", ";"), ("tsv", "\t")])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252", "utf-16"])
def test_delimited_text(tmp_path, suffix, delimiter, encoding):
    rows = [["Mühle", "Öl, in Litern"], ["Wäschbach", "2,5"], ["Größe", 'die "alte"\nvon 1987']]
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter).writerows(rows)
    found, _ = read(tmp_path, write(tmp_path, f"a.{suffix}", stream.getvalue().encode(encoding)))
    assert cells(found[0].html) == [[" ".join(cell.split()) for cell in row] for row in rows]


def test_slides_with_their_tables_and_notes(tmp_path):
    from pptx import Presentation
    from pptx.util import Inches

    deck = Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[1])
    first.shapes.title.text = "The Orrin pump"
    first.placeholders[1].text = "It has two valves"
    first.notes_slide.notes_text_frame.text = "Say that it was built in Bergen."
    second = deck.slides.add_slide(deck.slide_layouts[5])
    second.shapes.title.text = "Weights"
    table = second.shapes.add_table(2, 2, Inches(1), Inches(2), Inches(4), Inches(1)).table
    for at, text in enumerate(("Part", "Weight", "Rotor", "4 kg")):
        table.cell(at // 2, at % 2).text = text
    deck.save(tmp_path / "pump.pptx")
    found, result = read(tmp_path, tmp_path / "pump.pptx")
    assert result["pages"] == 2
    assert next((element.text, element.page) for element in found if element.kind == "title") == ("The Orrin pump", 1)
    assert any("built in Bergen" in element.text and element.page == 1 for element in found)
    [weights] = [element for element in found if element.kind == "table"]
    assert cells(weights.html) == [["Part", "Weight"], ["Rotor", "4 kg"]] and weights.page == 2
    assert weights.section == ["Weights"]


@pytest.mark.parametrize("suffix", ["odt", "epub", "rtf", "rst", "org"])
def test_what_pandoc_writes_is_read(tmp_path, suffix):
    import pypandoc

    path = tmp_path / f"pump.{suffix}"
    standalone = ["--standalone", "--metadata=title:Pumps"]
    pypandoc.convert_text(TEXT, suffix, format="markdown", outputfile=str(path), extra_args=standalone)
    found, _ = read(tmp_path, path)
    care = next(element for element in found if "every 30 days" in element.text)
    assert care.section[-1] == "Care" and care.page is None
    [weights] = [element for element in found if element.kind == "table"]
    assert cells(weights.html)[-2:] == [["Housing", "31 kg"], ["Rotor", "4 kg"]]


def mail(*attachments, html=""):
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "mill@example.org", "shop@example.org", "The pump leaks"
    message["Date"] = "Mon, 03 Nov 2025 10:00:00 +0100"
    message.set_content("Dear shop,\n\nthe pump of the mill leaks since Monday. It weighs 31 kg.\n")
    if html:
        message.set_content(html, subtype="html")
    for name, content in attachments:
        message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    return message


def test_a_mail_with_its_attachments(tmp_path):
    inner = mail(("parts.csv", b"Part,Weight\nRotor,4 kg\n"))
    outer = mail(
        ("../../manual.docx", (SAMPLES / "kestrel-40-manual.docx").read_bytes()),
        ("setup.exe", b"MZ" + bytes(3000)),
        ("fwd.eml", inner.as_bytes()),
    )
    found, result = read(tmp_path, write(tmp_path, "mail.eml", outer.as_bytes()))
    assert found[0].text == "The pump leaks" and "From: mill@example.org" in found[1].text
    assert any("leaks since Monday" in element.text for element in found)
    gearbox = next(element for element in found if "Lorvan 150" in element.text)
    assert "Attachment: ../../manual.docx" in gearbox.section
    assert any(element.kind == "table" and "Rotor | 4 kg" in element.text for element in found)
    assert [text for text in result["warnings"] if "setup.exe" in text and "Windows program" in text]
    assert not list(tmp_path.parent.glob("manual.docx")) and not list((tmp_path / "out").glob("attachment-*"))


def test_a_mail_of_html_alone_and_never_its_script(tmp_path):
    message = mail(html="<html><body><h1>Leak</h1><p>The pump leaks since Monday.</p><script>alert(1)</script></body>")
    found, _ = read(tmp_path, write(tmp_path, "mail.eml", message.as_bytes()))
    assert any("leaks since Monday" in element.text for element in found)
    assert not any("alert" in element.text for element in found)


def test_mails_within_mails_end_somewhere(tmp_path):
    message = mail()
    for _ in range(8):
        message = mail(("fwd.eml", message.as_bytes()))
    _, result = read(tmp_path, write(tmp_path, "mail.eml", message.as_bytes()))
    assert any("packed too deeply" in text for text in result["warnings"])


def test_json_is_headings_tables_and_named_values(tmp_path):
    value = {
        "machine": "Orrin",
        "weight": {"value": 31, "unit": "kg"},
        "parts": [{"name": "Rotor", "kg": 4}, {"name": "Housing", "kg": 27, "note": "cast"}],
        "colours": ["red", "grün"],
    }
    found, _ = read(tmp_path, write(tmp_path, "pump.json", json.dumps(value)))
    assert found[0].text == "machine: Orrin"
    weight = next(element for element in found if "31" in element.text)
    assert weight.text == "value: 31\nunit: kg" and weight.section == ["weight"]
    [parts] = [element for element in found if element.kind == "table"]
    assert cells(parts.html) == [["name", "kg", "note"], ["Rotor", "4", ""], ["Housing", "27", "cast"]]
    assert [element.text for element in found if element.kind == "list_item"] == ["red", "grün"]
    lines = "\n".join(json.dumps(part) for part in value["parts"])
    found, _ = read(tmp_path, write(tmp_path, "parts.jsonl", lines))
    assert cells(found[0].html)[1] == ["Rotor", "4", ""]


def test_xml_gives_its_text_and_nothing_from_elsewhere(tmp_path):
    secret = write(tmp_path, "secret.txt", "the secret of the mill")
    found, _ = read(
        tmp_path, write(tmp_path, "a.xml", "<?xml version='1.0'?><m><p>The pump leaks since Monday.</p></m>")
    )
    assert any("leaks since Monday" in element.text for element in found)
    outside = f"<!DOCTYPE m [<!ENTITY x SYSTEM 'file://{secret.resolve()}'>]><m><p>It says &x; here today.</p></m>"
    try:
        found, _ = read(tmp_path, write(tmp_path, "b.xml", f"<?xml version='1.0'?>{outside}"))
    except InputError:
        return
    assert found and not any("secret of the mill" in element.text for element in found)


def laughs():
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return f'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY l0 "lol">{entities}]><l>&l9;</l>'


def packed(tmp_path, name, members):
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda tmp: write(tmp, "a.json", '{"a": 1,'), "not valid JSON"),
        (lambda tmp: write(tmp, "a.jsonl", '{"a": 1}\n{"a":\n'), "Line 2"),
        (lambda tmp: write(tmp, "a.json", "[" * 100_000 + "]" * 100_000), "nested too deeply"),
        (lambda tmp: write(tmp, "a.xml", laughs()), "cannot be read as XML"),
        (lambda tmp: packed(tmp, "a.xlsx", {"xl/workbook.xml": "<workbook"}), "cannot be read as Excel workbook"),
        (lambda tmp: packed(tmp, "a.pptx", {"ppt/presentation.xml": "x"}), "cannot be read as PowerPoint"),
        (lambda tmp: packed(tmp, "a.epub", {"mimetype": "application/epub+zip"}), "cannot be read as EPUB"),
        (lambda tmp: packed(tmp, "a.xlsx", {"xl/workbook.xml": "a" * 150_000_000}), "made to do harm"),
        (lambda tmp: packed(tmp, "a.zip", {"a.txt": "text"}), "is a ZIP archive"),
        (lambda tmp: write(tmp, "a.doc", with_stream("WordDocument")), "Word document"),
        (lambda tmp: write(tmp, "a.xls", with_stream("Workbook")), "cannot be read as"),
        (lambda tmp: write(tmp, "a.xls", with_stream("EncryptedPackage")), "encrypted"),
    ],
    ids=[
        "cut JSON", "cut JSON lines", "deep JSON", "XML bomb", "broken workbook", "broken slides", "empty book",
        "workbook bomb", "zip", "old Word", "broken old workbook", "encrypted",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path, make, sentence):
    with pytest.raises(InputError, match=sentence):
        read(tmp_path, make(tmp_path))
