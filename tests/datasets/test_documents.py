"""A document as people read it: page by page beside its picture, each piece with its place."""

import re

import pytest
from django.urls import reverse
from django.utils import timezone

from datasets_app.models import Document, ReadingDefault
from datasets_app.services import documents
from finetune_site.jobs.models import Job
from tests.factories import run_all, words

pytestmark = pytest.mark.django_db


@pytest.fixture
def manual(project, trainer):
    from tests.engine.test_parse import SAMPLES

    content = (SAMPLES / "kestrel-40-manual.pdf").read_bytes()
    made = documents.upload_document(actor=trainer, project=project, name="manual.pdf", blocks=[content]).document
    run_all()
    made.refresh_from_db()
    return made


def page_of(client, document, **query) -> str:
    return client.get(document.get_absolute_url(), query).content.decode()


def test_it_is_read_page_by_page_and_each_piece_has_its_place(manual, viewer, client_of):
    client = client_of(viewer)
    first = page_of(client, manual)
    assert reverse("document_picture", args=[manual.pk, 1]) in first and 'rel="next"' in first
    assert 'rel="prev"' not in first
    fourth = page_of(client, manual, only=4)
    assert "Lorvan 150" in fourth and "Lorvan 150" not in first
    shown = set(re.findall(r'data-mark="(e\d+)"', fourth))
    assert shown == set(re.findall(r'class="element [^"]*" id="(e\d+)"', fourth))
    assert f"Page {manual.pages} as it looks" in page_of(client, manual, only=999)
    whole = page_of(client, manual, only="")
    assert "data-mark" not in whole and "Lorvan 150" in whole
    assert whole.count(">passage ") == manual.chunks.count() and 0 < fourth.count(">passage ") < 5
    for odd in ("0", "-1", "x", "9" * 40, "²"):
        assert client.get(manual.get_absolute_url(), {"only": odd}).status_code == 200


def test_a_page_is_drawn_once_and_kept(manual, viewer, client_of, settings, monkeypatch):
    client, url = client_of(viewer), reverse("document_picture", args=[manual.pk, 4])
    answer = client.get(url)
    assert answer["Content-Type"] == "image/png" and answer.content.startswith(b"\x89PNG")
    assert "private" in answer["Cache-Control"]
    monkeypatch.setattr("datasets_app.services.pages.Engine", None)
    assert client.get(url).content == answer.content
    assert client.get(reverse("document_picture", args=[manual.pk, manual.pages + 1])).status_code == 404
    assert client.get(reverse("document_picture", args=[manual.pk, 0])).status_code == 404


def test_what_cannot_be_drawn_is_no_error(manual, viewer, client_of):
    manual.path.write_bytes(b"%PDF-1.7 nothing more")
    assert client_of(viewer).get(reverse("document_picture", args=[manual.pk, 2])).status_code == 404
    manual.path.unlink()
    assert client_of(viewer).get(reverse("document_picture", args=[manual.pk, 3])).status_code == 404


def test_pictures_go_with_the_last_document_of_their_content(
    manual, owner, viewer, client_of, django_capture_on_commit_callbacks
):
    client_of(viewer).get(reverse("document_picture", args=[manual.pk, 1]))
    assert list(manual.picture_folder.glob("*.png"))
    with django_capture_on_commit_callbacks(execute=True):
        documents.delete_document(actor=owner, document=manual)
    assert not manual.picture_folder.exists()


def test_the_list_is_filtered(project, trainer, viewer, client_of):
    def add(name, content, state, **fields):
        made = documents.upload_document(actor=trainer, project=project, name=name, blocks=[content]).document
        Job.objects.filter(pk=made.job_id).update(state=state)
        Document.objects.filter(pk=made.pk).update(**fields)

    add("Pump manual.md", b"# Pump", "succeeded", parsed_at=timezone.now())
    add("Pump prices.csv", b"a,b", "failed")
    add("Mill.txt", b"Mill", "queued")
    client, url = client_of(viewer), reverse("document_list", args=[project.pk])

    def listed(**chosen) -> list[str]:
        page = client.get(url, chosen).content.decode()
        return [name for name in ("Pump manual.md", "Pump prices.csv", "Mill.txt") if name in page]

    assert listed() == ["Pump manual.md", "Pump prices.csv", "Mill.txt"]
    assert listed(words="PUMP man") == ["Pump manual.md"]
    assert listed(kind="text/csv") == ["Pump prices.csv"]
    assert listed(state="read") == ["Pump manual.md"]
    assert listed(state="waiting") == ["Mill.txt"]
    assert listed(state="unread") == ["Pump prices.csv"]
    assert "No document matches" in client.get(url, {"words": "turbine"}).content.decode()
    assert len(listed(state="nonsense", kind="nonsense")) == 3


def test_a_sheet_is_called_so(project, trainer, viewer, client_of, tmp_path):
    from tests.engine.test_office import workbook

    path = workbook(tmp_path / "parts.xlsx", {"Pump": [["Part", "Weight"], ["Rotor", 4]], "Notes": [["Spare"]]})
    blocks = [path.read_bytes()]
    made = documents.upload_document(actor=trainer, project=project, name="parts.xlsx", blocks=blocks).document
    run_all()
    page = page_of(client_of(viewer), Document.objects.get(pk=made.pk))
    assert "Excel workbook" in page and "2 sheets" in page and "sheet 2" in page and "data-mark" not in page
    assert "Spare" not in page_of(client_of(viewer), made, only=1)


def reading_form(**changed):
    usual = {"strategy": "auto", "languages": "eng", "first_page": 1, "last_page": 0, "finds_tables": "on"}
    return {**usual, "cut": "section", "overlap": 0, "passage_size": 1800, **changed}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"first_page": 99}, "page 99 is not among them"),
        ({"languages": "xx"}, "but not xx"),
        ({"strategy": "layout"}, "needs a layout model"),
    ],
)
def test_what_surely_cannot_be_read_is_told_before_it_is_tried(manual, trainer, client_of, changed, told):
    client, url = client_of(trainer), reverse("document_reading", args=[manual.pk])
    sent = reading_form(**changed)
    part = client.post(url, {**sent, "act": "preview"}, headers={"HX-Request": "true"})
    assert told in words(part) and "<html" not in part.content.decode()
    page = client.post(url, {**sent, "act": "read", "is_default": "on"})
    assert page.status_code == 422 and told in words(page)
    manual.refresh_from_db()
    assert manual.reading == {} and not manual.is_busy and not ReadingDefault.objects.exists()
    assert client.post(url, reading_form(act="read", first_page=2)).url == manual.get_absolute_url()


def test_a_preview_says_what_only_another_reading_will_show(manual, trainer, client_of):
    client, url = client_of(trainer), reverse("document_reading", args=[manual.pk])
    asks = {"headers": {"HX-Request": "true"}}
    told = "These are cut from what was read last."
    assert told in words(client.post(url, reading_form(act="preview", strategy="ocr"), **asks))
    assert told not in words(client.post(url, reading_form(act="preview", passage_size=900), **asks))


def test_what_was_read_stays_in_use_when_another_reading_fails(manual, trainer, viewer, client_of):
    documents.parse_again(actor=trainer, document=manual)
    manual.path.write_bytes(b"%PDF-1.7 damaged")
    run_all()
    manual.refresh_from_db()
    assert manual.job.state == "failed" and manual.elements.exists()
    client = client_of(viewer)
    assert "stays in use. Change how it is read" in words(client.get(manual.get_absolute_url()))
    assert "What was read before stays in use." in words(client.get(reverse("document_row", args=[manual.pk])))


def test_more_text_than_is_read_of_a_file_is_refused_before_it_is_a_document(project, trainer, client_of):
    assert "at most 5 million characters" in words(client_of(trainer).get(reverse("document_list", args=[project.pk])))
    with pytest.raises(documents.DocumentError, match=r"has 21 MB of text; at most 5 million characters"):
        documents.upload_document(actor=trainer, project=project, name="log.txt", blocks=[b"a line\n" * 3_000_000])
    assert not Document.objects.exists()
