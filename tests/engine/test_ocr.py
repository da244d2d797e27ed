"""Scans and pictures: the sample manual's own pages, photographed, read back by text recognition."""

import shutil
from collections import Counter

import pypdfium2
import pytest

from datasets_app.engine import elements, ocr
from tests.engine.test_parse import SAMPLES, parse, write

MANUAL = SAMPLES / "kestrel-40-manual.pdf"
needs_tesseract = pytest.mark.skipif(not shutil.which("tesseract"), reason="tesseract is not installed")


def picture(number, turn=0):
    """A page of the manual as a scanner would give it, turned by so many quarters to the left."""
    page = pypdfium2.PdfDocument(MANUAL)[number - 1]
    return page.render(scale=200 / 72, grayscale=True).to_pil().rotate(90 * turn, expand=True)


def words(text):
    return Counter("".join(sign if sign.isalnum() else " " for sign in text.lower()).split())


def share_found(number, found):
    """Of the words that stand on a page, how many were recognised."""
    there = words(pypdfium2.PdfDocument(MANUAL)[number - 1].get_textpage().get_text_bounded())
    return (there & words(" ".join(element.text for element in found))).total() / there.total()


@needs_tesseract
@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_picture_is_read_however_it_lies(tmp_path, turn):
    path = tmp_path / "scan.png"
    picture(2, turn).save(path)
    outcome, out = parse(tmp_path, path)
    assert outcome.returncode == 0, outcome.log_tail
    found = elements.read(out / "elements.jsonl")
    assert share_found(2, found) > 0.95
    first, last = found[0].box, found[-1].box
    corner = (first[0] + first[2]) / 2, (first[1] + first[3]) / 2
    end = (last[0] + last[2]) / 2, (last[1] + last[3]) / 2
    # Text runs down the page, and with it whichever way the page was turned.
    assert [end[1] > corner[1], end[0] > corner[0], end[1] < corner[1], end[0] < corner[0]][turn]


@needs_tesseract
def test_pages_of_a_pdf_that_are_pictures_are_read_among_those_that_are_text(tmp_path):
    source = pypdfium2.PdfDocument(MANUAL)
    mixed = pypdfium2.PdfDocument.new()
    mixed.import_pages(source, [0])
    picture(2).save(tmp_path / "scan.pdf")
    mixed.import_pages(pypdfium2.PdfDocument(tmp_path / "scan.pdf"))
    mixed.import_pages(source, [2])
    mixed.save(tmp_path / "mixed.pdf")
    outcome, out = parse(tmp_path, tmp_path / "mixed.pdf")
    assert outcome.returncode == 0, outcome.log_tail
    found = elements.read(out / "elements.jsonl")
    assert [element.page for element in found] == sorted(element.page for element in found)
    for page, number in ((1, 1), (2, 2), (3, 3)):
        assert share_found(number, [element for element in found if element.page == page]) > 0.9, page
    assert result_of(out)["health"]["recognised"]["pages"] == [2]


@needs_tesseract
def test_a_tiff_of_several_pages(tmp_path):
    first, second = picture(2), picture(3)
    first.save(tmp_path / "scan.tiff", save_all=True, append_images=[second])
    outcome, out = parse(tmp_path, tmp_path / "scan.tiff", reading={"first_page": 2})
    assert outcome.returncode == 0, outcome.log_tail
    found = elements.read(out / "elements.jsonl")
    assert {element.page for element in found} == {2} and share_found(3, found) > 0.95


@needs_tesseract
def test_a_language_that_is_not_installed_is_named_with_its_package(tmp_path):
    path = tmp_path / "scan.png"
    picture(2).save(path)
    outcome, _ = parse(tmp_path, path, reading={"languages": ["eng", "tlh"]})
    assert outcome.returncode == 2
    assert "tesseract-ocr-tlh" in outcome.failure["message"]


@pytest.mark.parametrize(("name", "reading"), [("scan.png", {}), ("scan.pdf", {}), ("scan.pdf", {"strategy": "ocr"})])
def test_without_the_program_its_package_is_named(tmp_path, monkeypatch, name, reading):
    picture(2).save(tmp_path / name)
    monkeypatch.setenv("PATH", "/nowhere")
    outcome, _ = parse(tmp_path, tmp_path / name, reading=reading)
    assert outcome.returncode == 2
    assert ocr.PACKAGE in outcome.failure["message"]


def test_a_damaged_picture_and_one_of_too_many_points(tmp_path):
    from PIL import Image

    whole = tmp_path / "scan.png"
    picture(2).save(whole)
    outcome, _ = parse(tmp_path, write(tmp_path, "cut.png", whole.read_bytes()[:5000]))
    assert outcome.returncode == 2, outcome.log_tail
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    outcome, _ = parse(tmp_path, tmp_path / "huge.png")
    assert outcome.returncode == 2
    assert "million points" in outcome.failure["message"]


def result_of(out):
    import json

    return json.loads((out / "result.json").read_text())
