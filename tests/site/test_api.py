"""The API through its addresses: a document to a sealed version, errors, pages of lists, and requests sent twice."""

import json
import threading

import httpx
import jsonschema_rs
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.utils import timezone

from finetune_site.api.door import api
from finetune_site.api.models import KeptAnswer, Token
from finetune_site.api.services import forget_answers, make_token
from finetune_site.jobs import queue, services
from finetune_site.jobs.events import record
from finetune_site.jobs.models import Job, JobState
from tests.factories import run_all

TEXT = (
    b"# Pump\n\nThe pump weighs 12 kg. The rated pressure is 4 bar.\n\n| Part | Weight |\n|---|---|\n| Pump | 12 kg |\n"
)


class Door:
    """Requests of one token."""

    def __init__(self, user, **token):
        self.token, secret = make_token(actor=user, name="T", **{"scopes": ["write", "train"], **token})
        self.headers = {"Authorization": f"Bearer {secret}"}

    def get(self, path, **query):
        return Client().get(f"/api/v1{path}", query, headers=self.headers)

    def post(self, path, body=None, key=None, method="post"):
        headers = self.headers | ({"Idempotency-Key": key} if key else {})
        send = getattr(Client(raise_request_exception=False), method)
        return send(f"/api/v1{path}", json.dumps(body or {}), content_type="application/json", headers=headers)

    def upload(self, path, name, content, key=None):
        headers = self.headers | ({"Idempotency-Key": key} if key else {})
        return Client().post(f"/api/v1{path}", {"file": SimpleUploadedFile(name, content)}, headers=headers)


@pytest.fixture
def door(project, trainer):
    return Door(trainer)


def error(response):
    return response.status_code, response.json()["error"]["code"]


def test_from_a_document_to_a_sealed_version(door, project):
    document = door.upload(f"/projects/{project.pk}/documents", "pump.md", TEXT)
    assert document.status_code == 201, document.content
    run_all()
    key = document.json()["id"]
    assert door.get(f"/documents/{key}").json()["parsed_at"].endswith("Z")
    assert door.get(f"/documents/{key}/chunks").json()["count"] >= 1
    dataset = door.post(f"/projects/{project.pk}/datasets", {"name": "Pumps"}).json()
    made = door.post(f"/datasets/{dataset['id']}/generate", {"documents": [key]})
    assert made.status_code == 201, made.content
    run_all()
    assert door.get(f"/jobs/{made.json()['job_id']}").json()["state"] == "succeeded"
    examples = door.get(f"/datasets/{dataset['id']}/examples", state="draft").json()
    assert examples["count"] >= 1
    for example in examples["items"]:
        body = {"verdict": "approved", "text_id": example["text_id"]}
        assert door.post(f"/examples/{example['id']}/verdict", body, method="put").json()["state"] == "approved"
    version = door.post(f"/datasets/{dataset['id']}/versions", {"validation_share": 0}).json()
    assert error(door.get(f"/versions/{version['id']}/file")) == (409, "conflict")
    run_all()
    assert door.get(f"/versions/{version['id']}").json()["counts"]["rows"] == examples["count"]
    assert b"".join(door.get(f"/versions/{version['id']}/file")).startswith(b"PAR1")
    assert door.get(f"/projects/{project.pk}/datasets").json()["items"][0]["sealed"] == 1


def test_a_run_is_planned_and_started(door, project, version, base):
    body = {"name": "R", "version": version.pk, "base": base.pk, "knobs": {"epochs": 1}}
    made = door.post(f"/projects/{project.pk}/runs", body)
    assert made.status_code == 201, made.content
    run = made.json()
    assert (run["state"], run["config"]["epochs"]) == ("draft", 1)
    assert error(door.get(f"/runs/{run['id']}/events")) == (409, "conflict")
    assert door.post(f"/runs/{run['id']}/start").json()["state"] == "queued"
    assert error(door.post(f"/runs/{run['id']}/start")) == (409, "conflict")
    assert door.post(f"/runs/{run['id']}/stop").json()["state"] == "cancelled"
    assert door.get(f"/runs/{run['id']}/metrics").json() == {"state": "cancelled", "points": []}
    wrong = door.post(f"/projects/{project.pk}/runs", {**body, "knobs": {"rank": -1}})
    assert list(wrong.json()["error"]["fields"]) == ["rank"]
    assert error(door.post(f"/projects/{project.pk}/runs", {**body, "knobs": {"nonsense": 1}})) == (422, "invalid")


def test_errors_have_one_shape(door, project, settings):
    assert error(Client().get("/api/v1/projects")) == (401, "unauthenticated")
    assert error(door.get("/nowhere")) == (404, "not_found")
    assert error(door.post("/base-models")) == (405, "method_not_allowed")
    wrong = door.post(f"/projects/{project.pk}/datasets", {"name": "a\x00b"})
    assert error(wrong) == (422, "invalid") and "body.name" in wrong.json()["error"]["fields"]
    assert door.post(f"/projects/{project.pk}/datasets", {"name": "D"}).status_code == 201
    assert error(door.post(f"/projects/{project.pk}/datasets", {"name": "D"})) == (409, "conflict")
    settings.UPLOAD_MAX_BYTES = 3
    assert error(door.upload(f"/projects/{project.pk}/documents", "a.txt", b"four")) == (413, "too_large")


def test_an_error_of_ours_has_a_reference(door, project, monkeypatch):
    def break_it(**_):
        raise RuntimeError("inner words")

    monkeypatch.setattr("datasets_app.services.datasets.create_dataset", break_it)
    told = door.post(f"/projects/{project.pk}/datasets", {"name": "D"})
    assert error(told) == (500, "internal")
    assert "reference" in told.json()["error"]["message"] and b"inner words" not in told.content


def test_lists_come_in_pages(door, project):
    for name in "ABC":
        door.post(f"/projects/{project.pk}/datasets", {"name": name})
    second = door.get(f"/projects/{project.pk}/datasets", page=2, size=2).json()
    assert ([item["name"] for item in second["items"]], second["count"]) == (["A"], 3)
    assert error(door.get(f"/projects/{project.pk}/datasets", size=0)) == (422, "invalid")


def test_a_request_sent_twice_does_its_work_once(door, project):
    path = f"/projects/{project.pk}/documents"
    first, second = (door.upload(path, "a.txt", b"Some words of a text.", key="k") for _ in range(2))
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    document = first.json()["id"]
    run_all()
    again = [door.post(f"/documents/{document}/parse", key="p") for _ in range(2)]
    assert [answer.status_code for answer in again] == [201, 201]
    assert Job.objects.filter(kind="datasets.parse").count() == 2
    assert error(door.upload(path, "b.txt", b"Other words.", key="k")) == (422, "invalid")
    assert error(door.post(f"/documents/{document}/parse", key="x" * 201)) == (422, "invalid")


def test_content_that_is_here_already_is_told_with_what_became_of_it(door, project):
    path = f"/projects/{project.pk}/documents"
    first = door.upload(path, "pump.pdf", b"%PDF-1.7 damaged")
    assert first.status_code == 201 and first.json()["state"] == "waiting"
    run_all()
    again = door.upload(path, "pump.pdf", b"%PDF-1.7 damaged")
    assert again.status_code == 200 and again.json()["id"] == first.json()["id"]
    assert again.json()["state"] == "unread" and "damaged" in again.json()["error"]
    assert door.upload(path, "pump.md", TEXT).status_code == 201
    run_all()
    read = door.upload(path, "pump.md", TEXT).json()
    assert (read["state"], read["error"]) == ("read", "")


def test_what_failed_is_tried_again(door, project):
    path = f"/projects/{project.pk}/datasets"
    door.post(path, {"name": "D"})
    assert error(door.post(path, {"name": "D"}, key="k")) == (409, "conflict")
    project.datasets.all().delete()
    assert door.post(path, {"name": "D"}, key="k").status_code == 201


@pytest.mark.django_db(transaction=True)
def test_two_at_the_same_moment_are_one(project, trainer):
    from django.db import connection

    door, answers = Door(trainer), []

    def send():
        answers.append(door.post(f"/projects/{project.pk}/datasets", {"name": "D"}, key="k"))
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()


def test_answers_are_kept_for_a_day(door, project):
    for key in ("old", "new"):
        door.post(f"/projects/{project.pk}/datasets", {"name": key}, key=key)
    KeptAnswer.objects.filter(key="old").update(at=timezone.now() - timezone.timedelta(hours=25))
    forget_answers()
    assert list(KeptAnswer.objects.values_list("key", flat=True)) == ["new"]


def test_a_token_is_shown_once_and_revoked(client_of, trainer, project):
    client = client_of(trainer)
    typed = {"name": "Nightly", "scopes": ["write"], "project": project.pk, "days": "30"}
    page = client.post("/account/tokens/", typed)
    secret = page.context["secret"]
    assert secret in page.content.decode() and secret not in client.get("/account/tokens/").content.decode()
    headers = {"Authorization": f"Bearer {secret}"}
    assert Client().get("/api/v1/projects", headers=headers).json()["count"] == 1
    token = Token.objects.get()
    assert token.last_used_at and token.scopes == ["read", "write"]
    client.post(f"/account/tokens/{token.pk}/revoke")
    assert Client().get("/api/v1/projects", headers=headers).status_code == 401


def test_every_body_is_shown_as_one_would_send_it():
    document = api.get_openapi_schema(path_prefix="/api/v1/")
    schemas, shown = document["components"]["schemas"], 0
    for path, methods in document["paths"].items():
        for operation in methods.values():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body:
                [reference] = {each.get("$ref") for each in body["schema"].get("anyOf", [body["schema"]])} - {None}
                named = schemas[reference.rpartition("/")[2]]
                [example] = named["examples"]
                jsonschema_rs.validate({**named, "components": document["components"]}, example)
                assert set(example) <= set(named["properties"]), path
                shown += 1
    assert shown > 10


def test_a_job_is_stopped_and_started_again_once(door, project, trainer):
    job = services.enqueue(project=project, owner=trainer, kind="datasets.seal", label="a version")
    stop = [door.post(f"/jobs/{job.pk}/cancel", key="stop") for _ in range(2)]
    assert [answer.status_code for answer in stop] == [201, 201]
    again = [door.post(f"/jobs/{job.pk}/requeue", key="again") for _ in range(2)]
    assert [answer.status_code for answer in again] == [201, 201] and again[0].content == again[1].content
    job.refresh_from_db()
    assert job.state == "queued" and door.post(f"/jobs/{job.pk}/requeue", key="another").status_code == 409


def test_the_operations_are_listed(client_of, viewer):
    page = client_of(viewer).get("/api/").content.decode()
    assert "/api/v1/projects/{pk}/documents" in page
    schema = Client().get("/api/v1/openapi.json").json()
    upload = schema["paths"]["/api/v1/projects/{pk}/documents"]["post"]
    assert {"201", "401", "409", "413"} <= set(upload["responses"])
    assert "Idempotency-Key" in [parameter["name"] for parameter in upload["parameters"]]


@pytest.mark.django_db(transaction=True)
def test_a_stream_tells_what_happens_ends_with_the_job_and_goes_on_where_it_was(site, door, project, trainer):
    job = services.enqueue(project=project, owner=trainer, kind="datasets.seal", label="a version")
    claimed = queue.claim("default", pid=1, pid_started=1)

    def followed(after: int = 0) -> list[tuple[int, str]]:
        seen, headers = [], {**door.headers, "Last-Event-ID": str(after)}
        address = f"{site}/api/v1/jobs/{job.pk}/events"
        with httpx.stream("GET", address, headers=headers, timeout=120) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            number = 0
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                number = int(value) if name == "id" else number
                if name == "event":
                    seen.append((number, value))
                    if value == "log":
                        queue.finish(claimed, JobState.FAILED, code="input", text="No example is approved.")
        return seen

    threading.Timer(1, lambda: (record(job, "log", {"line": "a line"}), connection.close())).start()
    seen = followed()
    assert [kind for _, kind in seen][-2:] == ["log", "state"]
    assert followed(after=seen[-2][0]) == seen[-1:]
