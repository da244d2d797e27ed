"""A ZIP archive: each of its files is a document or has its sentence; nothing is written where the archive says."""

import io
import zipfile

import pytest

from datasets_app.models import Document
from datasets_app.services.documents import upload

pytestmark = pytest.mark.django_db


def archive(files, **options):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, **options) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return stream.getvalue()


def send(project, trainer, content, name="all.zip"):
    return upload(actor=trainer, project=project, name=name, blocks=[content])


def test_every_file_is_a_document_or_told(project, trainer, tmp_path):
    inner = archive({"c.txt": "Inner words."})
    got = send(
        project,
        trainer,
        archive({
            "manuals/a.md": "# A\n\nThe pump is red.",
            "../../escape.txt": "Words that stand above.",
            "C:\\windows\\b.csv": "part,weight\nrotor,4\n",
            "program.exe": b"MZ\x90\x00",
            "nested.zip": inner,
            "again.md": "# A\n\nThe pump is red.",
            "__MACOSX/._a.md": "x",
            "folder/": "",
        }),
    )  # fmt: skip
    names = {received.name: received for received in got}
    assert {name for name, received in names.items() if received.is_new} == {"a.md", "escape.txt", "b.csv"}
    assert names["again.md"].document == names["a.md"].document and not names["again.md"].is_new
    assert "Windows program" in names["program.exe"].error and "ZIP archive" in names["nested.zip"].error
    assert len(got) == 6 and Document.objects.count() == 3
    assert not list(tmp_path.parent.rglob("escape.txt"))


def test_bombs_and_crowds_are_not_unpacked(project, trainer, settings):
    settings.UPLOAD_MAX_BYTES = 10**6
    [got] = send(project, trainer, archive({f"{n}.txt": b"0" * 10**6 for n in range(9)}))
    assert "It is not unpacked" in got.error
    settings.UPLOAD_MAX_FILES = 3
    [got] = send(project, trainer, archive({f"{n}.txt": f"Words {n}." for n in range(4)}))
    assert "at most 3 are taken" in got.error
    [got] = send(project, trainer, archive({}))
    assert "ZIP" in got.error or "holds no file" in got.error
    assert not Document.objects.exists()


def test_a_member_that_lies_about_its_size_or_is_damaged_is_told(project, trainer):
    content = bytearray(archive({"a.txt": "The pump is red. " * 50, "b.txt": "It weighs 12 kg."}))
    at = content.index(b"a.txt") + 5
    content[at + 8] ^= 0xFF
    got = {received.name: received for received in send(project, trainer, bytes(content))}
    assert "damaged" in got["a.txt"].error and got["b.txt"].is_new


def test_an_office_file_is_no_archive(project, trainer):
    from tests.engine.test_parse import SAMPLES

    content = (SAMPLES / "kestrel-40-manual.docx").read_bytes()
    [got] = send(project, trainer, content, "m.docx")
    assert got.is_new and got.document.name == "m.docx"
