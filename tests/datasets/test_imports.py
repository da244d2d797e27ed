"""Files of examples come in whole or not at all, and what is sealed goes out in the formats of others."""

import json

import pytest
from django.urls import reverse

from datasets_app import jobs as work
from datasets_app.models import Example
from datasets_app.services import datasets, examples, intake
from datasets_app.services.errors import DatasetError
from finetune_site.api.services import make_token
from tests.factories import run_all, words

pytestmark = pytest.mark.django_db


def line(number):
    turns = [("user", f"What does part number {number} weigh?"), ("assistant", f"It weighs {number} kg.")]
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})


@pytest.fixture
def dataset(project, trainer):
    return datasets.create_dataset(actor=trainer, project=project, name="Parts")


def bring_in(dataset, actor, lines, **options):
    blocks = ["\n".join(lines).encode()]
    made = datasets.import_examples(
        actor=actor, dataset=dataset, name="a.jsonl", format="", blocks=blocks, **options
    )  # fmt: skip
    run_all()
    made.refresh_from_db()
    return made


def test_a_file_with_two_wrong_lines_of_a_thousand_imports_nothing_and_names_both(dataset, trainer):
    lines = [line(number) for number in range(1, 1001)]
    lines[2], lines[899] = "{", '{"messages": []}'
    batch = bring_in(dataset, trainer, lines)
    assert not Example.objects.exists() and batch.job.state == "failed"
    assert "2 of 1,000 lines cannot be used, so nothing was imported. Line 3: " in batch.job.error_text
    assert "Line 900: The conversation is empty" in batch.job.error_text
    assert (batch.added, batch.wrong, batch.good) == (0, 2, 998)
    taken = bring_in(dataset, trainer, lines, takes_good_rows=True)
    assert taken.added == Example.objects.count() == 998
    assert {3, 900}.isdisjoint(Example.objects.values_list("import_line", flat=True))


def test_an_import_that_is_stopped_leaves_only_what_was_judged_meanwhile(dataset, trainer, reviewer, monkeypatch):
    add = intake.add_imported

    def add_and_stop(batch, rows):
        count = add(batch, rows)
        if batch.examples.count() == 4:
            examples.judge(actor=reviewer, example=batch.examples.first(), verdict="approved")
            handles[0]._cancel.set()
        return count

    handles = []
    import_rows = work._import_rows
    monkeypatch.setattr(
        work, "_import_rows", lambda handle, *rest: (handles.append(handle), import_rows(handle, *rest))
    )
    monkeypatch.setattr(work, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(intake, "add_imported", add_and_stop)
    batch = bring_in(dataset, trainer, [line(number) for number in range(12)])
    assert batch.job.state == "cancelled"
    assert list(dataset.examples.values_list("import_line", "state")) == [(1, "approved")]


def test_a_file_of_which_no_line_is_good_says_so(dataset, trainer):
    batch = bring_in(dataset, trainer, ["nothing", "of it"])
    assert "No line of the file could be used." in batch.job.error_text
    with pytest.raises(DatasetError, match="nothing to take"):
        datasets.import_good_rows(actor=trainer, batch=batch)


def test_a_program_may_take_the_good_lines_at_once(dataset, trainer, client):
    from django.core.files.uploadedfile import SimpleUploadedFile

    headers = {"Authorization": f"Bearer {make_token(actor=trainer, name='T', scopes=['write'])[1]}"}
    for takes, count in (("false", 0), ("true", 1)):
        file = SimpleUploadedFile("a.jsonl", f"{line(1)}\nnothing".encode())
        sent = {"file": file, "takes_good_rows": takes}
        assert client.post(f"/api/v1/datasets/{dataset.pk}/import", sent, headers=headers).status_code == 201
        run_all()
        assert Example.objects.count() == count


def test_a_version_goes_out_in_the_formats_of_others(dataset, trainer, reviewer, viewer, client_of):
    bring_in(dataset, trainer, [line(number) for number in range(6)])
    pair = {"prompt": "Which?", "chosen": "This.", "rejected": "That."}
    examples.write_example(actor=trainer, dataset=dataset, content=pair)
    examples.judge_all(actor=reviewer, dataset=dataset, examples=dataset.examples.all(), verdict="approved")
    version = datasets.seal_version(actor=trainer, dataset=dataset, validation_share=0)
    run_all()
    client = client_of(viewer)

    def download(key, query=""):
        return b"".join(client.get(reverse("version_download", args=[version.pk, key]) + query)).decode().splitlines()

    page = words(client.get(version.get_absolute_url()))
    assert "Alpaca" in page and "Leaves out 1 preference pair." in page and "continued pre-training" not in page
    assert len(download("alpaca")) == 6 and "instruction" in json.loads(download("alpaca")[0])
    assert [json.loads(each) for each in download("preference")] == [pair]
    told = json.loads(download("sharegpt", "?split=all&provenance=1")[0])
    assert told["metadata"]["split"] == "train" and told["metadata"]["example_id"]
    info = client.get(reverse("version_download", args=[version.pk, "dataset_info"]))
    assert "attachment" in info["Content-Disposition"] and "history" in info.content.decode()
    assert client.get(reverse("version_download", args=[version.pk, "pickle"])).status_code == 404
