"""The API's rooms of models: files, publishing, chat, and review in Label Studio, through their addresses."""

import pytest
from django.test import Client

from datasets_app.models import Dataset, LabelStudioLink, LabelStudioSending, ModelServer
from finetune_site.jobs.models import Job
from tests.site.test_access import things  # noqa: F401  a fixture
from tests.site.test_api import Door, error
from training_app.models import Conversation, Export, Publication, PublishedModel, Run

pytestmark = pytest.mark.django_db
SCOPES = {"scopes": ["write", "train", "publish"]}


@pytest.fixture
def done(things, owner):  # noqa: F811  the fixture
    """A run that has a model."""
    run = Run.objects.get(pk=things["run"]["pk"])
    run.job = Job.objects.create(
        project=run.project, owner=owner, kind="training.train", queue="gpu", label="R", state="succeeded"
    )
    run.save(update_fields=["job"])
    return run


def test_a_file_of_a_model_is_asked_for_and_fetched(things, trainer, done):  # noqa: F811
    door = Door(trainer, **SCOPES)
    made = door.post(f"/runs/{done.pk}/exports", {"format": "merged"})
    assert made.status_code == 201, made.content
    assert not made.json()["is_ready"] and made.json()["job_id"]
    assert error(door.get(f"/exports/{made.json()['id']}/file")) == (409, "conflict")
    assert error(door.post(f"/runs/{done.pk}/exports", {"format": "nonsense"})) == (409, "conflict")
    ready = things["export"]["pk"]
    assert door.get(f"/exports/{ready}").json()["is_ready"]
    answer = door.get(f"/exports/{ready}/file")
    assert answer["Repr-Digest"].startswith("sha-256=:")
    assert door.get(f"/runs/{done.pk}/exports").json()["count"] == 2


def test_a_model_is_published_switched_and_withdrawn(things, trainer, owner, done):  # noqa: F811
    door, server = Door(trainer, **SCOPES), ModelServer.objects.get(name="S")
    assert door.get("/ollama-servers").json()["items"] == []
    body = {"server": server.pk, "name": "kestrel", "format": "q8_0"}
    assert error(door.post(f"/runs/{done.pk}/publications", body)) == (422, "invalid")
    ModelServer.objects.update(takes_models=True)
    assert door.get("/ollama-servers").json()["items"] == [{"id": server.pk, "name": "S"}]
    made = door.post(f"/runs/{done.pk}/publications", body, key="once")
    assert made.status_code == 201, made.content
    assert door.post(f"/runs/{done.pk}/publications", body, key="once").json() == made.json()
    told = made.json()
    assert (told["standing"], told["tag"]) == ("working", "ft/kestrel:v1")
    assert door.get(f"/models/{told['model_id']}").json()["stable_tag"] == "ft/kestrel:latest"
    assert door.get(f"/projects/{done.project_id}/models").json()["count"] == 2
    publication = Publication.objects.get(pk=told["id"])
    act = f"/publications/{publication.pk}"
    assert error(door.post(f"{act}/switch")) == (409, "conflict")
    assert door.post(f"{act}/nonsense").status_code == 422
    Job.objects.filter(pk=publication.job_id).update(state="succeeded")
    Publication.objects.filter(pk=publication.pk).update(outcome="published")
    switched = door.post(f"{act}/switch", {"reason": "better"})
    assert switched.status_code == 201, switched.content
    assert PublishedModel.objects.get(pk=told["model_id"]).wish
    assert error(door.post(f"{act}/override", {"reason": "r"})) == (403, "forbidden"), "owners alone"
    assert error(Door(owner, **SCOPES).post(f"{act}/override", {"reason": ""})) == (409, "conflict")
    without = Door(trainer, scopes=["write", "train"])
    assert error(without.post(f"{act}/withdraw")) == (403, "forbidden")


def test_a_conversation_from_its_first_question_to_its_end(done, viewer, trainer):
    door = Door(viewer, **SCOPES)
    made = door.post(f"/runs/{done.pk}/conversations", {"prompt": "How heavy?", "max_tokens": 12})
    assert made.status_code == 201, made.content
    talk = made.json()
    assert [answer["side"] for answer in talk["turns"][0]["answers"]] == ["tuned", "base"] and talk["turns"][0][
        "is_open"
    ]
    address = f"/conversations/{talk['id']}"
    assert error(door.post(f"{address}/turns", {"prompt": "And?"})) == (409, "conflict")
    assert not door.post(f"{address}/stop").json()["turns"][0]["is_open"]
    assert len(door.post(f"{address}/turns", {"prompt": "And?"}).json()["turns"]) == 2
    assert Door(trainer, **SCOPES).get(address).status_code == 404
    assert door.get(f"/projects/{done.project_id}/conversations").json()["count"] == 2
    gone = Client().delete(f"/api/v1{address}", headers=door.headers)
    assert gone.status_code == 204 and not Conversation.objects.filter(pk=talk["id"]).exists()


def test_review_in_label_studio_is_begun_and_watched(things, trainer, viewer):  # noqa: F811
    door, dataset = Door(trainer, **SCOPES), things["dataset"]["pk"]
    link = LabelStudioLink.objects.get(dataset=dataset)
    assert {"id": link.server_id, "name": "L"} in door.get("/label-studio-servers").json()["items"]
    sent = door.post(f"/datasets/{dataset}/label-studio/send", {"server": link.server_id})
    assert sent.status_code == 201, sent.content
    assert LabelStudioSending.objects.get().job_id == sent.json()["job_id"]
    told = door.post(f"/datasets/{dataset}/label-studio/sync").json()
    assert told["sync_job_id"] and told["counts"]["open"] == 1
    listed = Door(viewer, **SCOPES).get(f"/projects/{link.dataset.project_id}/label-studio").json()
    assert [item["dataset"] for item in listed["items"]] == ["D"]
    other = Dataset.objects.create(project=link.dataset.project, name="Not there", created_by=trainer)
    assert door.get(f"/datasets/{other.pk}/label-studio").status_code == 404


def test_what_is_deleted_is_gone_unless_something_stands_on_it(things, owner):  # noqa: F811
    door = Door(owner, **SCOPES)
    delete = lambda path: Client().delete(f"/api/v1{path}", headers=door.headers)  # noqa: E731
    assert delete(f"/documents/{things['document']['pk']}").status_code == 204
    assert door.get(f"/documents/{things['document']['pk']}").status_code == 404
    refused = delete(f"/datasets/{things['dataset']['pk']}")
    assert error(refused) == (409, "conflict"), "it has a version"
    assert Export.objects.exists()
