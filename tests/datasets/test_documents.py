"""A document as people read it: page by page beside its picture, each piece with its place."""

import re

import pytest
from django.urls import reverse
from django.utils import timezone

from datasets_app.models import Document
from datasets_app.services import documents
from finetune_site.jobs.models import Job
from tests.factories import run_all

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
