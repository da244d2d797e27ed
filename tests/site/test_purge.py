"""`manage.py purge` removes what no row points at, and nothing else."""

import io
import os
import time
from pathlib import Path

import pytest
from django.core.management import call_command

from datasets_app.models import Document
from datasets_app.services import documents
from datasets_app.services.storage import orphans, remove_orphan
from finetune_site.projects.services import create_project, delete_project

pytestmark = pytest.mark.django_db


@pytest.fixture
def folder(settings, tmp_path):
    settings.DATA_DIR, settings.MEDIA_ROOT = tmp_path, tmp_path / "files"
    return tmp_path


def upload(owner, project, text: bytes) -> Document:
    return documents.upload_document(actor=owner, project=project, name="a.txt", blocks=[text]).document


def age(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (time.time() - 7200,) * 2)


def purge(*options: str) -> str:
    said = io.StringIO()
    call_command("purge", *options, stdout=said)
    return said.getvalue()


def test_a_deleted_project_leaves_files_that_purge_removes(folder, owner, project):
    kept = upload(owner, project, b"This one stays.\n").path
    other = create_project(actor=owner, name="Other")
    lost = upload(owner, other, b"This one goes.\n")
    gone = lost.path
    shared = upload(owner, other, b"This one stays.\n").path
    run, young = folder / "runs" / "999", folder / "files" / "documents" / ".upload-cut-off"
    run.mkdir(parents=True)
    (run / "log.txt").write_text("old")
    young.write_text("half")
    kept_picture, picture = (doc.picture_folder / "1-1000.png" for doc in (Document.objects.get(project=project), lost))
    for path in (kept_picture, picture):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"png")
    delete_project(actor=owner, project=other)
    age(kept, gone, run, kept_picture, picture)

    assert str(gone) in purge("--dry-run")
    assert gone.exists()
    assert "3 files and folders" in purge()
    assert (gone.exists(), run.exists(), picture.exists()) == (False, False, False)
    assert (kept.exists(), shared.exists(), young.exists(), kept_picture.exists()) == (True, True, True, True)
    assert "0 files" in purge()


def test_a_file_that_came_back_while_purge_looked_stays(folder, owner, project):
    other = create_project(actor=owner, name="Other")
    gone = upload(owner, other, b"This one goes.\n").path
    delete_project(actor=owner, project=other)
    age(gone)
    [(path, _)] = list(orphans())
    upload(owner, project, b"This one goes.\n")
    age(gone)
    remove_orphan(path)
    assert gone.exists()


@pytest.mark.django_db(transaction=True)
def test_the_last_document_of_a_content_takes_the_file_with_it(folder, owner, project):
    other = create_project(actor=owner, name="Other")
    first, second = upload(owner, project, b"The same words.\n"), upload(owner, other, b"The same words.\n")
    Document.objects.update(job=None)
    documents.delete_document(actor=owner, document=Document.objects.get(pk=first.pk))
    assert second.path.exists()
    documents.delete_document(actor=owner, document=Document.objects.get(pk=second.pk))
    assert not second.path.exists()
