"""A Label Studio project of somebody else's becomes examples."""

import pytest
from django.urls import reverse

from datasets_app.models import ImportBatch, LabelStudioImport
from datasets_app.services import datasets, examples
from datasets_app.services import labelstudio as services
from datasets_app.services.errors import DatasetError
from tests.factories import run_all
from tests.labelstudio.test_review import entry, send

pytestmark = [pytest.mark.slow, pytest.mark.django_db]
CONFIG = """<View><Text name="text" value="$prompt"/><TextArea name="reply" toName="text"/>
<Choices name="lang" toName="text"><Choice value="en"/><Choice value="de"/></Choices></View>"""


@pytest.fixture
def dataset(project, trainer):
    return datasets.create_dataset(actor=trainer, project=project, name="Taken over")


@pytest.fixture
def theirs(there):
    """Twelve prompts, eleven of them answered by an annotator."""
    made = there.projects.create(title="Support replies", label_config=CONFIG)
    rows = [{"data": {"prompt": f"Prompt {number}", "ticket": number}} for number in range(12)]
    ids = there.projects.import_tasks(made.id, request=rows, return_task_ids=True).task_ids
    for number, pk in enumerate(ids[1:], start=1):
        said = entry("reply", "textarea", "text", [f"Reply {number}"]) | {"to_name": "text"}
        there.annotations.create(pk, result=[said])
    return made


def test_a_project_is_chosen_mapped_previewed_and_imported(dataset, theirs, server, trainer, client_of):
    client = client_of(trainer)
    assert b"Or from a Label Studio project" in client.get(reverse("import_examples", args=[dataset.pk])).content
    client.post(reverse("label_studio_import_start", args=[dataset.pk]), {"server": server.pk})
    run_all()
    made = LabelStudioImport.objects.get()
    page = client.get(made.get_absolute_url()).content.decode()
    assert "Support replies (12 tasks)" in page
    client.post(reverse("label_studio_import_choose", args=[made.pk]), {"remote_id": theirs.id, "layout": "single"})
    run_all()
    page = client.get(made.get_absolute_url()).content.decode()
    assert "annotation: reply" in page and "data: prompt" in page and "data: ticket" in page
    mapping = {"instruction": "data: prompt", "output": "annotation: reply"}
    page = client.post(made.get_absolute_url(), mapping).content.decode()
    assert "The first 10" in page and "Reply 9" in page and "“Output” is empty." in page
    assert not ImportBatch.objects.exists()
    answer = client.post(made.get_absolute_url(), {**mapping, "confirm": "1"})
    batch = ImportBatch.objects.get()
    assert answer.url == batch.get_absolute_url()
    run_all()
    batch.refresh_from_db()
    assert (batch.job.state, batch.added, len(batch.errors)) == ("succeeded", 11, 1)
    assert {example.state for example in dataset.examples.all()} == {"draft"}
    asked = {example.text.question: example.text.answer for example in dataset.examples.all()}
    assert asked == {f"Prompt {number}": f"Reply {number}" for number in range(1, 12)}
    assert dataset.examples.first().document_name == "Support replies in Ours"
    assert client.get(made.get_absolute_url()).url == batch.get_absolute_url()


def test_what_may_not_be_read_is_not_shown(dataset, theirs, server, trainer, client_of):
    """A server is closed until an operator opens it; what portals made of other people's datasets stays theirs."""
    link = send_one(dataset, server, trainer)
    services.start_import(actor=trainer, dataset=dataset, server=server)
    run_all()
    found = [project["id"] for project in LabelStudioImport.objects.get().found]
    assert theirs.id in found and link.projects.get().remote_id not in found
    server.allows_import = False
    server.save()
    with pytest.raises(DatasetError, match="may not be imported"):
        services.start_import(actor=trainer, dataset=dataset, server=server)
    page = client_of(trainer).get(reverse("import_examples", args=[dataset.pk]))
    assert b"from a Label Studio project" not in page.content


def send_one(dataset, server, actor):
    content = {"messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}]}
    examples.write_example(actor=actor, dataset=dataset, content=content)
    return send(dataset, server, actor)


def test_what_cannot_be_chosen_is_refused(dataset, theirs, server, trainer, client_of):
    client = client_of(trainer)
    page = client.post(reverse("label_studio_import_start", args=[dataset.pk]), {"server": 999}, follow=True)
    assert "Choose the Label Studio" in page.content.decode()
    client.post(reverse("label_studio_import_start", args=[dataset.pk]), {"server": server.pk})
    run_all()
    made = LabelStudioImport.objects.get()
    choose = reverse("label_studio_import_choose", args=[made.pk])
    for typed in ({"remote_id": 0, "layout": "single"}, {"remote_id": theirs.id, "layout": "magic"}, {}):
        assert "Choose one of the projects" in client.post(choose, typed, follow=True).content.decode()
    client.post(choose, {"remote_id": theirs.id, "layout": "single"})
    run_all()
    page = client.post(made.get_absolute_url(), {"instruction": "data: magic", "output": "", "confirm": "1"})
    assert page.status_code == 200 and not ImportBatch.objects.exists()


def test_a_server_that_is_away_says_so(dataset, server, trainer, client_of):
    server.url = "http://127.0.0.1:9"
    server.save()
    client = client_of(trainer)
    client.post(reverse("label_studio_import_start", args=[dataset.pk]), {"server": server.pk})
    run_all()
    page = client.get(LabelStudioImport.objects.get().get_absolute_url()).content.decode()
    assert "cannot be reached" in page
