"""A withdrawn document: nothing more is made from it, and everything that was made from it says so."""

import pytest
from django.urls import reverse

from datasets_app.models import Document
from datasets_app.services import documents
from datasets_app.services.datasets import start_generation
from datasets_app.services.documents import DocumentError
from datasets_app.services.errors import DatasetError
from datasets_app.services.sealing import approved_rows
from finetune_site.projects.models import AuditEntry
from training_app.models import Run

pytestmark = pytest.mark.django_db


@pytest.fixture
def used(project, owner, version, base):
    """A document that the examples of a sealed version came from, and a run on it."""
    document = Document.objects.create(
        project=project, name="manual.pdf", sha256="2" * 64, size=1, media_type="text/plain", uploaded_by=owner
    )
    version.dataset.examples.update(document=document)
    Run.objects.create(
        project=project, name="R", version=version, base=base, method="lora", config={}, preset="balanced",
        created_by=owner,
    )  # fmt: skip
    return document


def test_everything_made_from_it_is_listed_and_marked(used, version, owner, viewer, client_of):
    run = Run.objects.get()
    client = client_of(viewer)
    page = client.get(reverse("document_models", args=[used.pk])).content.decode()
    assert "48 examples approved" in page and version.get_absolute_url() in page and run.get_absolute_url() in page
    assert "Withdraw the document" not in page
    for url in (version.get_absolute_url(), run.get_absolute_url()):
        assert "withdrew on" not in client.get(url).content.decode()
    client_of(owner).post(reverse("document_withdraw", args=[used.pk]), {"reason": "Wrong <b>figures</b>"})
    for url in (version.get_absolute_url(), run.get_absolute_url()):
        shown = client.get(url).content.decode()
        assert "owner withdrew on" in shown and "Wrong &lt;b&gt;figures&lt;/b&gt;" in shown, url
    assert "Withdrawn by owner" in client.get(used.get_absolute_url()).content.decode()
    listed = client.get(reverse("document_list", args=[used.project_id]), {"state": "withdrawn"}).content.decode()
    assert "manual.pdf" in listed
    assert AuditEntry.objects.get(verb="withdrew").after == {"reason": "Wrong <b>figures</b>"}


def test_nothing_more_is_made_from_it_until_it_is_readmitted(used, version, owner, trainer, client_of):
    assert len(approved_rows(version.dataset)) == 48
    documents.withdraw_document(actor=owner, document=used, reason="Old")
    assert approved_rows(version.dataset) == []
    page = client_of(trainer).get(reverse("seal", args=[version.dataset_id])).content.decode()
    assert "48 approved examples of withdrawn documents are left out" in page
    assert used not in Document.objects.usable()
    used.refresh_from_db()
    with pytest.raises(DatasetError, match="is withdrawn"):
        start_generation(actor=trainer, dataset=version.dataset, documents=[used])
    client_of(owner).post(reverse("document_readmit", args=[used.pk]))
    assert len(approved_rows(version.dataset)) == 48


def test_a_reason_is_asked_for(used, owner):
    with pytest.raises(DocumentError, match="Say why"):
        documents.withdraw_document(actor=owner, document=used, reason="  ")
    used.refresh_from_db()
    assert used.withdrawn_at is None
