"""From an uploaded file to a sealed version, through the addresses and the real jobs."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from datasets_app.models import Dataset, DatasetVersion, Document, Example, Generation, State
from datasets_app.services import examples
from tests.factories import run_all

MANUAL = Path("datasets_app/samples/kestrel-40-manual.docx")


def upload(client, project, name, content):
    file = SimpleUploadedFile(name, content)
    return client.post(reverse("document_upload", args=[project.pk]), {"files": file}, follow=True)


def test_a_document_becomes_a_sealed_version(project, trainer, reviewer, client_of, settings, tmp_path):
    client = client_of(trainer)
    upload(client, project, "manual.docx", MANUAL.read_bytes())
    run_all()
    document = Document.objects.get()
    assert document.job.state == "succeeded", document.job.error_text
    assert document.elements.count() > 40
    page = client.get(document.get_absolute_url())
    assert b"The Tollen rotor" in page.content
    assert b"<td>TR-7714</td>" in page.content

    client.post(reverse("dataset_create", args=[project.pk]), {"name": "Facts", "description": ""})
    dataset = Dataset.objects.get()
    client.post(
        reverse("generate", args=[dataset.pk]), {"documents": [document.pk], "model": "extractive", "wordings": 6}
    )
    run_all()
    generation = Generation.objects.get()
    assert generation.job.state == "succeeded", generation.job.error_text
    assert generation.outcomes.count() == document.chunks.count()
    assert dataset.examples.count() == generation.counts["examples"] > 300
    example = dataset.examples.filter(answer_key="Lorvan 150").first()
    assert [part for part, is_quoted in example.source_parts if is_quoted] == ["oil type | Lorvan 150"]
    assert example.support == "verified"
    assert example.section[-1] == "The Brannick gearbox"

    whole = client.post(
        reverse("generate", args=[dataset.pk]), {"everything": "on", "model": "extractive", "wordings": 1}
    )
    assert whole.status_code == 302
    assert list(Generation.objects.latest("pk").documents.all()) == [document]
    neither = client.post(reverse("generate", args=[dataset.pk]), {"model": "extractive", "wordings": 1})
    assert b"Choose at least one document, or all of them." in neither.content

    judge = client_of(reviewer)
    card = judge.get(reverse("review", args=[dataset.pk]))
    assert b"<mark>" in card.content
    answer = judge.post(
        reverse("example_judge", args=[example.pk]), {"verdict": "approved"}, headers={"HX-Request": "true"}
    )
    assert b"<html" not in answer.content
    example.refresh_from_db()
    assert (example.state, example.decided_by) == ("approved", reviewer)
    judge.post(reverse("review_undo", args=[dataset.pk]))
    example.refresh_from_db()
    assert (example.state, example.decided_by) == ("draft", None)
    read = example.text_id
    turns = example.text.messages
    examples.edit_example(
        actor=trainer, example=example, content={"messages": [{**turns[0], "content": "Which oil?"}, turns[1]]}
    )
    answer = judge.post(
        reverse("example_judge", args=[example.pk]), {"verdict": "approved", "text_id": read}, follow=True
    )
    assert b"edited this example meanwhile" in answer.content
    assert b"Which oil?" in answer.content
    example.refresh_from_db()
    assert example.state == "draft"  # what was approved is not what stands there now
    judge.post(reverse("judge_all", args=[dataset.pk]), {"verdict": "approved", "count": dataset.examples.count()})
    assert dataset.examples.filter(state=State.APPROVED).count() == dataset.examples.count()

    client.post(reverse("seal", args=[dataset.pk]), {"validation_share": 0.1, "recall_share": 1, "confirm": 1})
    run_all()
    version = DatasetVersion.objects.get()
    assert version.is_sealed, version.job.error_text
    rows = pyarrow.parquet.read_table(version.file_path).to_pylist()
    assert len(rows) == version.counts["rows"] == version.entries.count()
    assert version.counts["recall"] > 50
    lines = b"".join(client.get(reverse("version_download", args=[version.pk, "jsonl"])))
    assert len(lines.splitlines()) == version.counts["train"]
    assert json.loads(lines.splitlines()[0])["messages"][0]["role"] == "user"
    parquet = reverse("version_download", args=[version.pk, "parquet"])
    assert client.get(parquet)["Repr-Digest"].startswith("sha-256=:")
    aside = version.file_path.rename(version.file_path.with_suffix(".aside"))
    answer = client.get(parquet)
    assert answer.status_code == 503 and "not on this site any more" in answer.content.decode()
    aside.rename(version.file_path)
    with pytest.raises(TypeError, match="never changes"):
        version.save()


def test_a_known_content_is_said_and_not_kept_twice(project, trainer, client_of):
    client = client_of(trainer)
    upload(client, project, "a.txt", b"The pump holds 4 litres of oil. It is an old pump.")
    page = upload(client, project, "b.txt", b"The pump holds 4 litres of oil. It is an old pump.")
    assert b"already has this content" in page.content
    assert Document.objects.count() == 1


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.pdf", b"", "is empty"),
        ("program.pdf", b"MZ\x90\x00" + b"\x00" * 500, "Windows program"),
        ("other.doc", b"\xd0\xcf\x11\xe0" + "Something\0".encode("utf-16-le") * 50, "a damaged Office file"),
    ],
)
def test_what_is_no_document_is_refused_with_a_sentence(project, trainer, client_of, name, content, sentence):
    page = upload(client_of(trainer), project, name, content)
    assert sentence in page.content.decode()
    assert not Document.objects.exists()


def test_imported_lines_become_examples_and_errors_name_their_line(project, trainer, client_of):
    client = client_of(trainer)
    client.post(reverse("dataset_create", args=[project.pk]), {"name": "Mine"})
    dataset = Dataset.objects.get()
    lines = [
        '{"instruction": "Name a bird.", "output": "A heron."}',
        "not json",
        '{"prompt": "p", "chosen": "a", "rejected": "b"}',
    ]
    text = "\n".join(lines)
    preview = client.post(reverse("import_examples", args=[dataset.pk]), {"text": text})
    assert b"Line 2: This is not JSON" in preview.content
    assert Example.objects.count() == 0
    client.post(reverse("import_examples", args=[dataset.pk]), {"text": text, "confirm": "1"})
    run_all()
    batch = dataset.imports.get()
    assert (batch.added, [error["line"] for error in batch.errors]) == (0, [2]) and not Example.objects.exists()
    page = client.get(batch.get_absolute_url()).content.decode()
    assert "nothing was imported" in page and "Import the 2 good lines alone" in page
    client.post(reverse("import_good", args=[batch.pk]))
    run_all()
    batch.refresh_from_db()
    assert (batch.added, batch.wrong, batch.job.state) == (2, 1, "succeeded")
    again = client.post(reverse("import_good", args=[batch.pk]), follow=True)
    assert "There is nothing to take from this file" in again.content.decode()
    assert set(dataset.examples.values_list("kind", "import_line")) == {("chat", 1), ("preference", 3)}


def test_an_edit_keeps_the_old_text_and_asks_again(project, trainer, reviewer, client_of):
    from datasets_app.services import datasets, examples

    dataset = datasets.create_dataset(actor=trainer, project=project, name="D")
    content = {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]}
    example = examples.write_example(actor=trainer, dataset=dataset, content=content)
    examples.judge(actor=reviewer, example=example, verdict="approved")
    client = client_of(reviewer)
    client.post(reverse("example_edit", args=[example.pk]), {"question": "Q?", "answer": "Better.", "system": ""})
    example.refresh_from_db()
    assert (example.state, example.text.answer, example.texts.count()) == ("draft", "Better.", 2)
    assert [d.verdict for d in example.decisions.all()] == ["draft", "approved"]
    assert client.get(example.get_absolute_url()).status_code == 200


def test_a_viewer_sees_and_may_not_judge(project, viewer, trainer, client_of):
    from datasets_app.services import datasets, examples

    dataset = datasets.create_dataset(actor=trainer, project=project, name="D")
    content = {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]}
    example = examples.write_example(actor=trainer, dataset=dataset, content=content)
    client = client_of(viewer)
    assert client.get(reverse("review", args=[dataset.pk])).status_code == 200
    assert client.post(reverse("example_judge", args=[example.pk]), {"verdict": "approved"}).status_code == 403


def test_sealing_needs_an_approved_example(project, trainer, client_of):
    from datasets_app.services import datasets

    dataset = datasets.create_dataset(actor=trainer, project=project, name="D")
    page = client_of(trainer).post(
        reverse("seal", args=[dataset.pk]), {"validation_share": 0.1, "recall_share": 1, "confirm": 1}
    )
    assert b"no approved example" in page.content
