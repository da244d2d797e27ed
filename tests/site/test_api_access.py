"""Every operation of the API tried as everybody and with every scope. The table is complete by construction.

A row says the scope an operation needs and the least role of its token's person. Whatever else it may answer, whoever
lacks either is refused: 401 without a usable token, 403 without scope or role, 404 for what one may not know of.
"""

import json
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache as shared_cache
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from finetune_site.api.door import api
from finetune_site.api.models import Scope, Token
from finetune_site.api.services import make_token
from finetune_site.jobs import services as jobs
from finetune_site.projects.models import Role
from finetune_site.projects.services import create_project
from tests.factories import make_user
from tests.site.test_access import TRAINERS_OWN, things  # noqa: F401  a fixture

PEOPLE = ("stranger", "viewer", "reviewer", "trainer", "owner", "operator")
ANYONE, ASKER, OPERATOR = "anyone", "asker", "operator"  # who asked: the viewer here
EXAMPLE = {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "B."}]}


@dataclass(frozen=True)
class Row:
    scope: str
    least: str
    of: str = ""
    body: Any = None  # FILE: one is uploaded


FILE = "a file"
READ, WRITE, TRAIN, PUBLISH = Scope.READ, Scope.WRITE, Scope.TRAIN, Scope.PUBLISH
VIEWER, REVIEWER, TRAINER, OWNER = Role.VIEWER, Role.REVIEWER, Role.TRAINER, Role.OWNER

TABLE: dict[str, Row] = {
    "project_list": Row(READ, ANYONE),
    "project_create": Row(WRITE, ANYONE, body={"name": "New"}),
    "project_read": Row(READ, VIEWER, "project"),
    "project_use": Row(READ, VIEWER, "project"),
    "project_limits": Row(WRITE, OPERATOR, "project", {"disk_limit_gb": 5}),
    "member_list": Row(READ, VIEWER, "project"),
    "document_list": Row(READ, VIEWER, "project"),
    "document_upload": Row(WRITE, TRAINER, "project", FILE),
    "archive_upload": Row(WRITE, TRAINER, "project", FILE),
    "upload_begin": Row(WRITE, TRAINER, "project", {"name": "b.txt", "size": 9}),
    "upload_read": Row(WRITE, TRAINERS_OWN, "upload"),
    "upload_part": Row(WRITE, TRAINERS_OWN, "upload"),
    "document_read": Row(READ, VIEWER, "document"),
    "document_parse": Row(WRITE, TRAINER, "document"),
    "document_cut": Row(WRITE, TRAINER, "document", {"passage_size": 900}),
    "element_correct": Row(WRITE, TRAINER, "piece", {"is_left_out": True}),
    "element_restore": Row(WRITE, TRAINER, "piece"),
    "page_leave_out": Row(WRITE, TRAINER, "page", {"is_left_out": True}),
    "chunk_list": Row(READ, VIEWER, "document"),
    "element_list": Row(READ, VIEWER, "document"),
    "dataset_list": Row(READ, VIEWER, "project"),
    "dataset_create": Row(WRITE, TRAINER, "project", {"name": "New"}),
    "dataset_read": Row(READ, VIEWER, "dataset"),
    "generate": Row(WRITE, TRAINER, "dataset", {"documents": [1]}),
    "generation_read": Row(READ, VIEWER, "generation"),
    "quality_read": Row(READ, VIEWER, "dataset"),
    "quality_check": Row(WRITE, TRAINER, "dataset"),
    "quality_rules_read": Row(READ, VIEWER, "project"),
    "quality_rules_set": Row(WRITE, OWNER, "project", {"blocking": ["personal"]}),
    "call_list": Row(READ, VIEWER, "generation"),
    "generation_forecast": Row(READ, VIEWER, "generation"),
    "generation_go_on": Row(WRITE, TRAINER, "generation"),
    "recipe_kind_list": Row(READ, ANYONE),
    "recipe_list": Row(READ, VIEWER, "project"),
    "recipe_create": Row(WRITE, TRAINER, "project", {"name": "New", "kind": "qa", "template": "{passage}"}),
    "recipe_read": Row(READ, VIEWER, "recipe"),
    "recipe_edit": Row(WRITE, TRAINER, "recipe", {"template": "{passage}"}),
    "recipe_retire": Row(WRITE, TRAINER, "recipe"),
    "generation_again": Row(WRITE, TRAINER, "generation", {"outcome": "failed"}),
    "import_examples": Row(WRITE, TRAINER, "dataset", FILE),
    "example_list": Row(READ, VIEWER, "dataset"),
    "example_write": Row(WRITE, TRAINER, "dataset", EXAMPLE),
    "example_read": Row(READ, VIEWER, "example"),
    "example_edit": Row(WRITE, REVIEWER, "example", EXAMPLE),
    "example_judge": Row(WRITE, REVIEWER, "example", {"verdict": "approved"}),
    "version_list": Row(READ, VIEWER, "dataset"),
    "seal": Row(WRITE, TRAINER, "dataset", {}),
    "version_read": Row(READ, VIEWER, "version"),
    "version_file": Row(READ, VIEWER, "version"),
    "base_list": Row(READ, ANYONE),
    "run_list": Row(READ, VIEWER, "project"),
    "run_create": Row(TRAIN, TRAINER, "project", {"name": "R", "version": 1, "base": 1}),
    "run_read": Row(READ, VIEWER, "run"),
    "run_start": Row(TRAIN, TRAINER, "run"),
    "run_stop": Row(TRAIN, TRAINER, "run"),
    "run_resume": Row(TRAIN, TRAINER, "run"),
    "run_again": Row(TRAIN, TRAINER, "run"),
    "run_metrics": Row(READ, VIEWER, "run"),
    "run_events": Row(READ, VIEWER, "run"),
    "run_log": Row(READ, VIEWER, "run"),
    "evaluation_create": Row(TRAIN, TRAINER, "run"),
    "evaluation_list": Row(READ, VIEWER, "run"),
    "evaluation_read": Row(READ, VIEWER, "evaluation"),
    "evaluation_row_list": Row(READ, VIEWER, "evaluation"),
    "document_withdraw": Row(WRITE, OWNER, "document", {"reason": "Old."}),
    "document_readmit": Row(WRITE, OWNER, "document"),
    "document_delete": Row(WRITE, OWNER, "document"),
    "dataset_delete": Row(WRITE, OWNER, "dataset"),
    "label_studio_server_list": Row(READ, ANYONE),
    "label_studio_list": Row(READ, VIEWER, "project"),
    "label_studio_read": Row(READ, VIEWER, "dataset"),
    "label_studio_send": Row(WRITE, TRAINER, "dataset", {"server": 1}),
    "label_studio_sync": Row(WRITE, REVIEWER, "dataset"),
    "export_list": Row(READ, VIEWER, "run"),
    "export_create": Row(PUBLISH, TRAINER, "run", {"format": "merged"}),
    "export_read": Row(READ, VIEWER, "export"),
    "export_file": Row(READ, VIEWER, "export"),
    "ollama_server_list": Row(READ, ANYONE),
    "model_list": Row(READ, VIEWER, "project"),
    "model_read": Row(READ, VIEWER, "published model"),
    "publication_list": Row(READ, VIEWER, "published model"),
    "publish": Row(PUBLISH, TRAINER, "run", {"server": 1, "name": "m"}),
    "publication_read": Row(READ, VIEWER, "publication"),
    "publication_override": Row(PUBLISH, OWNER, "publication", {"reason": "Because."}),
    "publication_act": Row(PUBLISH, TRAINER, "publication", {}),
    "conversation_list": Row(READ, VIEWER, "project"),
    "run_chat": Row(TRAIN, VIEWER, "run", {"prompt": "Q?"}),
    "model_chat": Row(TRAIN, VIEWER, "published model", {"prompt": "Q?"}),
    "conversation_read": Row(READ, ASKER, "conversation"),
    "conversation_ask": Row(TRAIN, ASKER, "conversation", {"prompt": "Q?"}),
    "conversation_stop": Row(TRAIN, ASKER, "conversation"),
    "conversation_discard": Row(TRAIN, ASKER, "conversation"),
    "job_list": Row(READ, ANYONE),
    "job_read": Row(READ, VIEWER, "job"),
    "job_cancel": Row(WRITE, OWNER, "job"),
    "job_requeue": Row(WRITE, OWNER, "job"),
    "job_events": Row(READ, VIEWER, "job"),
}


@cache
def operations() -> dict[str, tuple[str, str]]:
    """Of each operation its method and address."""
    schema = api.get_openapi_schema(path_prefix="/api/v1/")
    return {
        operation["operationId"]: (method, path)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    }


def test_the_table_is_complete():
    assert set(TABLE) == set(operations()), "an operation needs its row, a row its operation"


@pytest.fixture
def ask(things, monkeypatch):  # noqa: F811  the fixture
    """Send a row's request with a secret; what it wrote is undone."""
    monkeypatch.setattr("finetune_site.api.jobs.event_stream", lambda _: _plain())

    def send(name: str, secret: str | None) -> int:
        from django.db import transaction

        row, (method, path) = TABLE[name], operations()[name]
        url = path.replace("{act}", "switch").replace("{start}", "0")
        for part, value in things[row.of].items():
            url = url.replace(f"{{{part}}}", str(value))
        headers = {"Authorization": f"Bearer {secret}"} if secret is not None else {}
        with transaction.atomic():
            if row.body == FILE:
                typed: Any = {"data": {"file": SimpleUploadedFile("b.txt", b"Some words of a text.")}}
            else:
                typed = {"data": json.dumps(row.body or {}), "content_type": "application/json"}
            if method == "get":
                typed = {}
            response = getattr(Client(), method)(url, headers=headers, **typed)
            transaction.set_rollback(True)
        if response.status_code >= 400:
            assert set(response.json()["error"]) >= {"code", "message"}
        return int(response.status_code)

    return send


def _plain() -> Any:
    from django.http import HttpResponse

    return HttpResponse(content_type="text/event-stream")


def secret_of(user: User, *scopes: str, **more: Any) -> str:
    return make_token(actor=user, name="T", scopes=scopes or Scope.values, **more)[1]


@pytest.mark.parametrize("name", sorted(TABLE))
def test_who_may_and_with_which_token(name, ask, operator, project):
    row, got = TABLE[name], {}
    make_user("stranger")
    for person in PEOPLE:
        got[person] = seen(ask(name, secret_of(User.objects.get(username=person))))
    assert got == {person: expected(row, person) for person in PEOPLE}

    asker = {ASKER: "viewer", TRAINERS_OWN: "trainer"}.get(row.least)
    whole = User.objects.get(username=asker) if asker else operator
    inactive, expired = make_user("gone"), timezone.now() - timedelta(seconds=1)
    secret = secret_of(inactive)
    User.objects.filter(pk=inactive.pk).update(is_active=False)
    for useless in (None, "", "fts_nothing", "é", secret, secret_of(whole, expires_at=expired)):
        assert ask(name, useless) == 401, useless
    for scope in Scope.values:
        opens = scope == row.scope or row.scope == READ
        assert (ask(name, secret_of(whole, scope)) != 403) == opens, scope
    elsewhere = create_project(actor=operator, name="Elsewhere")
    if row.of:
        assert ask(name, secret_of(whole, project=elsewhere)) == 404, "the token is bound to another project"
        assert seen(ask(name, secret_of(whole, project=project))) == "pass"


@pytest.mark.django_db
def test_whoever_tries_tokens_is_slowed_down_for_a_minute(viewer, monkeypatch):
    shared_cache.clear()
    now = 90.0
    monkeypatch.setattr("finetune_site.api.security.time", SimpleNamespace(time=lambda: now))
    tries = [Client().get("/api/v1/projects", headers={"Authorization": f"Bearer fts_{n}"}) for n in range(62)]
    assert [answer.status_code for answer in tries[-3:]] == [401, 429, 429]
    assert tries[-1].json()["error"]["code"] == "too_many"
    right = {"Authorization": f"Bearer {secret_of(viewer)}"}
    assert Client().get("/api/v1/projects", headers=right).status_code == 200
    now = 125.0
    assert Client().get("/api/v1/projects", headers={"Authorization": "Bearer fts_1"}).status_code == 401
    shared_cache.clear()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        ("datasets.seal", "write"),
        ("training.train", "train"),
        ("training.chat", "train"),
        ("training.publish", "publish"),
    ],
)
def test_a_job_is_started_again_with_the_scope_of_its_kind(project, owner, kind, needed):
    for scope in Scope.values:
        job = jobs.enqueue(project=project, owner=owner, kind=kind, label="a label")
        for act in ("cancel", "requeue"):
            answer = Client().post(
                f"/api/v1/jobs/{job.pk}/{act}", headers={"Authorization": f"Bearer {secret_of(owner, scope)}"}
            )
            assert (answer.status_code == 403) == (scope != needed), (kind, scope, act, answer.content)
            if scope != needed:
                assert needed in answer.json()["error"]["message"]


def test_a_cookie_opens_nothing(client_of, owner, project):
    assert client_of(owner).get(f"/api/v1/projects/{project.pk}").status_code == 401


def test_only_a_hash_is_kept(owner):
    secret = secret_of(owner)
    kept = Token.objects.values().get()
    assert secret.startswith("fts_") and secret not in str(kept)


def expected(row: Row, person: str) -> str:
    if row.least in (ASKER, TRAINERS_OWN):
        return "pass" if person == ("viewer" if row.least == ASKER else "trainer") else "hidden"
    if row.least == OPERATOR != person:
        return "hidden" if person == "stranger" else "refused"
    if row.least == ANYONE or person == "operator":
        return "pass"
    if person == "stranger":
        return "hidden"
    return "pass" if Role(person).rank >= Role(row.least).rank else "refused"


def seen(status: int) -> str:
    assert status < 500
    assert status not in (401, 405)
    return {404: "hidden", 403: "refused"}.get(status, "pass")
