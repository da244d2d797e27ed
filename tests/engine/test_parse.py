"""Parsing as the site does it: a process of its own under limits, on good files and on files made to do harm."""

import json
import zipfile
from pathlib import Path

import pytest

from datasets_app.engine import chunks, elements
from datasets_app.jobs import ENGINE, PRELOAD
from finetune_site.lib.kernel import Limits
from finetune_site.lib.process import Engine

SAMPLES = Path("datasets_app/samples")
LIMITS = Limits(memory_bytes=6 * 2**30, cpu_seconds=300, file_bytes=200 * 2**20, wall_seconds=900, open_files=512)


def engine_on(spec, limits=LIMITS):
    """The parser as a runner starts it."""
    return Engine(ENGINE, ["parse", str(spec)], log_path=spec.with_name("log"), limits=limits, preload=PRELOAD)


def parse(tmp_path, path, **fields):
    """Run the parser; returns its outcome and its folder."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"input_path": str(path), "filename": path.name, "out_dir": str(out), **fields}))
    with engine_on(spec) as engine:
        return engine.run(lambda event: None, lambda: False), out


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", ["kestrel-40-manual.pdf", "kestrel-40-manual.docx"])
def test_the_sample_manual_comes_through_with_headings_tables_and_pages(tmp_path, name):
    outcome, out = parse(tmp_path, (SAMPLES / name).resolve())
    assert outcome.returncode == 0, outcome.log_tail
    found = elements.read(out / "elements.jsonl")
    tables = [element for element in found if element.kind == "table"]
    assert len(tables) == 9
    gearbox = next(table for table in tables if "Lorvan 150" in table.text)
    assert gearbox.section[-1] == "The Brannick gearbox"
    assert "<td>Lorvan 150</td>" in (gearbox.html or "")
    assert gearbox.page == (4 if name.endswith("pdf") else None)
    for chunk in chunks.read(out / "chunks.jsonl"):
        by_index = {element.index: element for element in found}
        assert all(chunk.text[start:end] == by_index[index].text for index, start, end in chunk.spans)
        assert len({tuple(by_index[index].section) for index, _, _ in chunk.spans}) == 1


def test_each_piece_of_a_pdf_stands_where_its_box_says(tmp_path):
    import pypdfium2

    path = (SAMPLES / "kestrel-40-manual.pdf").resolve()
    _, out = parse(tmp_path, path)
    document = pypdfium2.PdfDocument(path)
    placed = right = 0
    for element in elements.read(out / "elements.jsonl"):
        page = document[element.page - 1]
        width, height = page.get_size()
        left, top, right_edge, bottom = element.box
        within = page.get_textpage().get_text_bounded(
            left * width - 2, height * (1 - bottom) - 2, right_edge * width + 2, height * (1 - top) + 2
        )
        words = set(element.text.replace("|", " ").split())
        placed += len(words)
        right += len(words & set(elements.clean(within).split()))
    assert placed > 500 and right > 0.97 * placed, (right, placed)


def title(number):
    """Another word on each page: what differs by a figure alone is a running head."""
    return "Mill " + "".join(chr(ord("a") + int(digit)) for digit in f"{number:04}")


def pages(path, count):
    """A PDF of so many pages, each with a heading and a sentence of its own."""
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(path))
    for number in range(1, count + 1):
        canvas.setFont("Helvetica-Bold", 18)
        canvas.drawString(72, 760, title(number))
        canvas.setFont("Helvetica", 11)
        canvas.drawString(
            72, 720, f"The pump of the {title(number)} weighs {number} kilograms and needs oil every day."
        )
        canvas.showPage()
    canvas.save()
    return path


def test_what_was_read_before_a_kill_is_not_read_again(tmp_path):
    path = pages(tmp_path / "long.pdf", 500).resolve()
    out = tmp_path / "out"
    out.mkdir()
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"input_path": str(path), "filename": path.name, "out_dir": str(out)}))
    with engine_on(spec) as engine:
        while (event := engine.next_event(300)) and event.get("done", 0) < 240:
            pass
    assert event, (tmp_path / "log").read_text()  # it was killed there, in the middle
    kept = {file.name: file.stat().st_mtime_ns for file in out.glob("*-pages-*.json")}
    assert 12 <= len(kept) < 25
    outcome, _ = parse(tmp_path, path)
    assert outcome.returncode == 0, outcome.log_tail
    assert kept.items() <= {file.name: file.stat().st_mtime_ns for file in out.glob("*-pages-*.json")}.items()
    found = elements.read(out / "elements.jsonl")
    titles = [(element.page, element.text) for element in found if element.kind == "title"]
    assert titles == [(number, title(number)) for number in range(1, 501)]
    assert sum("needs oil every day" in element.text for element in found) == 500


def test_html_keeps_its_table_and_never_its_script(tmp_path):
    page = "<html><body><h1>The Orrin pump</h1><p>It is a pump with two valves.</p><script>alert(1)</script>"
    page += "<table><tr><td>weight</td><td>12 kg</td></tr><tr><td>colour</td><td>red</td></tr></table></body></html>"
    outcome, out = parse(tmp_path, write(tmp_path, "a.html", page))
    assert outcome.returncode == 0, outcome.log_tail
    texts = [element.text for element in elements.read(out / "elements.jsonl")]
    assert "weight | 12 kg\ncolour | red" in texts
    assert not any("alert" in text for text in texts)


def test_markdown_headings_are_its_sections(tmp_path):
    text = (
        "# The Orrin pump\n\nIt is a pump with two valves.\n\n## Care\n\nClean the filter of the pump every 30 days.\n"
    )
    outcome, out = parse(tmp_path, write(tmp_path, "a.md", text))
    assert outcome.returncode == 0, outcome.log_tail
    last = elements.read(out / "elements.jsonl")[-1]
    assert last.section == ["The Orrin pump", "Care"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_plain_text_in_any_encoding(tmp_path, encoding):
    text = (
        "Die Mühle läuft über den Zufluss. Sie braucht täglich vier Liter Öl für das Getriebe. Größe: 3 Meter.\n\n" * 4
    )
    outcome, out = parse(tmp_path, write(tmp_path, "a.txt", text.encode(encoding)))
    assert outcome.returncode == 0, outcome.log_tail
    assert "Mühle läuft über" in (out / "elements.jsonl").read_text(encoding="utf-8")


def bomb(path):
    """A DOCX of 200 MB of paragraphs in under a megabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        with archive.open("word/document.xml", "w", force_zip64=True) as stream:
            for _ in range(200):
                stream.write(b"<w:p><w:r><w:t>a</w:t></w:r></w:p>" * 30_000)
    return path


def encrypted(tmp_path):
    import pikepdf

    path = tmp_path / "locked.pdf"
    with pikepdf.open(SAMPLES / "kestrel-40-manual.pdf") as document:
        document.save(path, encryption=pikepdf.Encryption(owner="o", user="secret"))
    return path


def large_text(path):
    with path.open("wb") as stream:
        for _ in range(200):
            stream.write(b"All work and no play. " * 47_663)
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda tmp: write(tmp, "cut.pdf", (SAMPLES / "kestrel-40-manual.pdf").read_bytes()[:6000]),
            "damaged or cut short",
        ),
        (encrypted, "encrypted with a password"),
        (lambda tmp: write(tmp, "empty.txt", b""), "is empty"),
        (lambda tmp: large_text(tmp / "huge.txt"), "million characters"),
        (lambda tmp: bomb(tmp / "bomb.docx"), "made to do harm"),
        (lambda tmp: write(tmp, "setup.pdf", b"MZ" + b"\x00" * 3000), "Windows program"),
        (lambda tmp: write(tmp, "a.docx", b"PK\x03\x04 nothing"), "damaged archive"),
    ],
    ids=["truncated", "encrypted", "empty", "200 MB text", "zip bomb", "exe as pdf", "broken docx"],
)
def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path, make, sentence):
    outcome, _ = parse(tmp_path, make(tmp_path).resolve())
    assert outcome.returncode == 2, outcome.log_tail
    assert sentence in outcome.failure["message"]


def test_a_file_that_hangs_the_parser_is_ended_by_its_limits(tmp_path):
    """100,000 open brackets keep the Markdown library busy for minutes."""
    path = write(tmp_path, "a.md", "[" * 100_000)
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"input_path": str(path), "filename": "a.md", "out_dir": str(tmp_path / "out")}))
    (tmp_path / "out").mkdir()
    limits = Limits(memory_bytes=6 * 2**30, cpu_seconds=8, wall_seconds=30)
    with engine_on(spec, limits) as engine:
        outcome = engine.run(lambda event: None, lambda: False)
    assert outcome.timed_out or outcome.returncode < 0


def test_nothing_is_downloaded_where_the_language_model_is_missing(monkeypatch):
    import unstructured.nlp.tokenize as tokenize

    from datasets_app.engine import slim

    for name in ("_install_spacy_model", "_get_nlp", "_SPACY_MODEL_NAME"):
        monkeypatch.setattr(tokenize, name, getattr(tokenize, name))  # put back afterwards
    monkeypatch.setattr(slim, "language_model", lambda: "")
    assert "as it was tried is installed" in slim.prepare()
    with pytest.raises(RuntimeError, match="nothing is downloaded"):
        tokenize._install_spacy_model()
    assert tokenize.sent_tokenize("One pump. Two pumps.") == ["One pump.", "Two pumps."]


def test_the_copy_of_the_language_model_is_used_only_as_it_was_looked_at(monkeypatch, tmp_path):
    from datasets_app.engine import slim

    assert slim.language_model() == slim.COPY
    monkeypatch.setattr(slim, "COPY_SHA256", "0" * 64)
    assert slim.language_model.__wrapped__() == ""
    (tmp_path / f"{slim.SPACY_MODEL}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert slim.language_model.__wrapped__() == slim.SPACY_MODEL


def test_what_pandoc_does_not_understand_is_read_without_what_it_names(tmp_path):
    secret = write(tmp_path, "secret.txt", "nobody shall know")
    hostile = f".. include:: {secret}\n\n.. raw:: html\n\n   <b>raw</b>\n\n.. csv-table::\n   :file: {secret}\n"
    path = write(
        tmp_path, "guide.rst", f"Title\n=====\n\nSee `this`__.\n\n{hostile}\n__\n\nThe valve opens at 12 bar.\n"
    )
    outcome, out = parse(tmp_path, path)
    assert outcome.returncode == 0, outcome.log_tail
    texts = [element.text for element in elements.read(out / "elements.jsonl")]
    assert texts[0] == "Title" and texts[-1] == "The valve opens at 12 bar."
    assert not any("nobody shall" in text or "raw" in text for text in texts)


@pytest.mark.parametrize(("top", "kind"), [(0.03, "header"), (0.94, "footer")])
def test_what_stands_on_many_pages_is_a_running_head_or_foot_by_its_place(top, kind):
    pages = range(1, 7)
    lines = [elements.Element(0, "text", "Kestrel 40 manual", page, box=[0.1, top, 0.5, top + 0.02]) for page in pages]
    texts = [
        elements.Element(0, "text", f"Words of page {'abcdef'[page - 1]}.", page, box=[0.1, 0.4, 0.9, 0.5])
        for page in pages
    ]
    found = list(elements.finish([*lines, *texts], 20_000, 4000, elements.Dropped()))
    assert [element.kind for element in found if "manual" in element.text] == [kind] * 6
    assert {element.kind for element in found if "Words" in element.text} == {"text"}
