"""Every address tried as everybody. The table is complete by construction: an address without a row fails.

A row says the least role that may pass. Below it a member gets 403, a stranger 404, a visitor the login page; from it
on nobody is refused (what the answer then is, the tests of each view say). Each address is tried with the method it
writes with, as refusing comes before looking at what was typed.
"""

import uuid
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from finetune_site.jobs import services as jobs
from finetune_site.projects.models import Role
from finetune_site.projects.services import invite
from tests.factories import make_user

PEOPLE = ("anonymous", "stranger", "viewer", "reviewer", "trainer", "owner", "operator")


@dataclass(frozen=True)
class Row:
    """`least`: a role, or "anybody", "signed in", "operator", "asker" (who typed it: the viewer here),
    "asker who is a trainer", "nobody" (a program that knows a secret), "scraper" (operators, or such a program),
    "nowhere" (nothing is there), "absent" (nothing is there for who is signed in here)."""

    least: str
    method: str = "get"
    of: str = ""  # which object's key the address takes


FILE = {"file": "adapter.zip", "bytes": 7, "sha256": "0" * 64, "problem": ""}
PUBLIC, SIGNED_IN, OPERATOR = "anybody", "signed in", "operator"
NOBODY, SCRAPER, NOWHERE, ABSENT = "nobody", "scraper", "nowhere", "absent"
ASKER, ASKER_TRAINS = "asker", "asker who is a trainer"
TRAINERS_OWN = "the trainer who made it"
VIEWER, REVIEWER, TRAINER, OWNER = Role.VIEWER, Role.REVIEWER, Role.TRAINER, Role.OWNER

TABLE: dict[str, Row] = {
    "login": Row(PUBLIC),
    "join": Row(PUBLIC, of="token"),
    "sign_up": Row(NOWHERE),  # where no mail can be sent
    "sign_up_link": Row(NOWHERE, of="token"),
    "account_login": Row(PUBLIC),
    "account_logout": Row(PUBLIC, "post"),
    "account_signup": Row(PUBLIC),
    "account_inactive": Row(PUBLIC),
    "account_reauthenticate": Row(SIGNED_IN),
    "account_email": Row(SIGNED_IN),
    "account_email_verification_sent": Row(PUBLIC),
    "account_confirm_email": Row(PUBLIC, of="key"),
    "account_confirm_login_code": Row(PUBLIC),
    "account_change_password": Row(SIGNED_IN),
    "account_set_password": Row(SIGNED_IN),
    "account_reset_password": Row(PUBLIC),
    "account_reset_password_done": Row(PUBLIC),
    "account_reset_password_from_key": Row(PUBLIC, of="reset"),
    "account_reset_password_from_key_done": Row(PUBLIC),
    "mfa_index": Row(SIGNED_IN),
    "mfa_authenticate": Row(PUBLIC),
    "mfa_reauthenticate": Row(SIGNED_IN),
    "mfa_activate_totp": Row(SIGNED_IN),
    "mfa_deactivate_totp": Row(ABSENT),
    "mfa_view_recovery_codes": Row(ABSENT),
    "mfa_generate_recovery_codes": Row(SIGNED_IN),
    "mfa_download_recovery_codes": Row(ABSENT),
    "usersessions_list": Row(SIGNED_IN),
    "socialaccount_connections": Row(SIGNED_IN),
    "socialaccount_signup": Row(PUBLIC),
    "socialaccount_login_cancelled": Row(PUBLIC),
    "socialaccount_login_error": Row(SIGNED_IN),
    "openid_connect_login": Row(NOWHERE, "post", of="provider"),  # where none is configured
    "openid_connect_callback": Row(NOWHERE, of="provider"),
    "notice_list": Row(SIGNED_IN),
    "notices_read": Row(SIGNED_IN, "post"),
    "bell": Row(SIGNED_IN),
    "notice": Row(ASKER, of="notice"),
    "wishes": Row(SIGNED_IN),
    "profile": Row(SIGNED_IN),
    "theme": Row(SIGNED_IN, "post"),
    "home": Row(SIGNED_IN),
    "search": Row(SIGNED_IN),
    "project_create": Row(SIGNED_IN),
    "project_edit": Row(OWNER, of="project"),
    "project_delete": Row(OWNER, of="project"),
    "project_use": Row(VIEWER, of="project"),
    "member_list": Row(VIEWER, of="project"),
    "member_add": Row(OWNER, "post", of="project"),
    "member_invite": Row(OWNER, "post", of="project"),
    "invitation_take_back": Row(OWNER, "post", of="invitation"),
    "member_role": Row(OWNER, "post", of="membership"),
    "member_remove": Row(OWNER, "post", of="membership"),
    "audit_list": Row(VIEWER, of="project"),
    "audit_export": Row(VIEWER, of="trail"),
    "live": Row(VIEWER, of="project"),
    "job_list": Row(SIGNED_IN),
    "job_list_table": Row(SIGNED_IN),
    "device_list": Row(SIGNED_IN),
    "device_list_table": Row(SIGNED_IN),
    "job": Row(VIEWER, of="job"),
    "job_body": Row(VIEWER, of="job"),
    "job_progress": Row(VIEWER, of="job"),
    "job_cancel": Row(OWNER, "post", of="job"),
    "job_run_next": Row(OPERATOR, "post", of="job"),
    "job_requeue": Row(OWNER, "post", of="job"),
    "document_list": Row(VIEWER, of="in project"),
    "document_upload": Row(TRAINER, "post", of="in project"),
    "upload_begin": Row(TRAINER, "post", of="in project"),
    "upload_part": Row(TRAINERS_OWN, of="upload"),
    "document": Row(VIEWER, of="document"),
    "document_body": Row(VIEWER, of="document"),
    "document_row": Row(VIEWER, of="document"),
    "document_chunks": Row(VIEWER, of="document"),
    "document_picture": Row(VIEWER, of="page"),
    "document_parse": Row(TRAINER, "post", of="document"),
    "document_reading": Row(TRAINER, of="document"),
    "document_compare": Row(VIEWER, of="document"),
    "element": Row(TRAINER, of="piece"),
    "element_act": Row(TRAINER, "post", of="piece act"),
    "page_act": Row(TRAINER, "post", of="page act"),
    "correction_forget": Row(TRAINER, "post", of="lost correction"),
    "document_mask": Row(TRAINER, "post", of="document"),
    "document_withdraw": Row(OWNER, "post", of="document"),
    "document_readmit": Row(OWNER, "post", of="document"),
    "document_delete": Row(OWNER, "post", of="document"),
    "recipe_list": Row(VIEWER, of="in project"),
    "recipe_create": Row(TRAINER, of="new recipe"),
    "recipe": Row(VIEWER, of="recipe"),
    "recipe_retire": Row(TRAINER, "post", of="recipe"),
    "generation_go_on": Row(TRAINER, "post", of="generation"),
    "dataset_list": Row(VIEWER, of="in project"),
    "dataset_create": Row(TRAINER, of="in project"),
    "dataset": Row(VIEWER, of="dataset"),
    "quality": Row(VIEWER, of="dataset"),
    "quality_body": Row(VIEWER, of="dataset"),
    "quality_check": Row(TRAINER, "post", of="dataset"),
    "quality_rules": Row(OWNER, "post", of="dataset"),
    "coverage": Row(VIEWER, of="dataset"),
    "dataset_delete": Row(OWNER, "post", of="dataset"),
    "generate": Row(TRAINER, of="dataset"),
    "import_good": Row(TRAINER, "post", of="batch"),
    "import_examples": Row(TRAINER, of="dataset"),
    "example_write": Row(TRAINER, of="dataset"),
    "seal": Row(TRAINER, of="dataset"),
    "review": Row(VIEWER, of="dataset"),
    "review_card": Row(VIEWER, of="dataset"),
    "review_undo": Row(REVIEWER, "post", of="dataset"),
    "example_list": Row(VIEWER, of="dataset"),
    "judge_all": Row(REVIEWER, "post", of="dataset"),
    "label_studio": Row(VIEWER, of="dataset"),
    "label_studio_body": Row(VIEWER, of="dataset"),
    "label_studio_act": Row(TRAINER, "post", of="act"),
    "label_studio_sync": Row(REVIEWER, "post", of="dataset"),
    "label_studio_list": Row(VIEWER, of="in project"),
    "label_studio_hook": Row(NOBODY, "post", of="hook"),
    "label_studio_import_start": Row(TRAINER, "post", of="dataset"),
    "label_studio_import": Row(TRAINER, of="import"),
    "label_studio_import_body": Row(TRAINER, of="import"),
    "label_studio_import_look": Row(TRAINER, "post", of="import"),
    "label_studio_import_choose": Row(TRAINER, "post", of="import"),
    "conflict_resolve": Row(REVIEWER, "post", of="conflict"),
    "generation": Row(VIEWER, of="generation"),
    "generation_body": Row(VIEWER, of="generation"),
    "generation_again": Row(TRAINER, "post", of="generation"),
    "import_batch": Row(VIEWER, of="batch"),
    "import_batch_body": Row(VIEWER, of="batch"),
    "example": Row(VIEWER, of="example"),
    "example_edit": Row(REVIEWER, of="example"),
    "example_judge": Row(REVIEWER, "post", of="example"),
    "version": Row(VIEWER, of="version"),
    "version_body": Row(VIEWER, of="version"),
    "version_download": Row(VIEWER, of="file"),
    "project": Row(VIEWER, of="project"),
    "base_models": Row(SIGNED_IN),
    "base_models_body": Row(SIGNED_IN),
    "base_add": Row(OPERATOR, "post"),
    "base_point": Row(OPERATOR),
    "base_make_ready": Row(OPERATOR, "post", of="base"),
    "ollama_list": Row(OPERATOR),
    "ollama_list_body": Row(OPERATOR),
    "ollama_pull": Row(OPERATOR, "post", of="ollama"),
    "ollama_unload": Row(OPERATOR, "post", of="ollama"),
    "run_list": Row(VIEWER, of="in project"),
    "run_compare": Row(VIEWER, of="in project"),
    "run_clean_up": Row(TRAINER, of="in project"),
    "run_presets": Row(TRAINER, of="in project"),
    "run_create": Row(TRAINER, of="in project"),
    "run": Row(VIEWER, of="run"),
    "run_body": Row(VIEWER, of="run"),
    "run_metrics": Row(VIEWER, of="run"),
    "run_config": Row(VIEWER, of="run"),
    "run_samples": Row(VIEWER, of="run"),
    "run_log": Row(VIEWER, of="run"),
    "run_spec": Row(VIEWER, of="run"),
    "run_card": Row(VIEWER, of="run"),
    "run_describe": Row(TRAINER, "post", of="run"),
    "run_start": Row(TRAINER, "post", of="run"),
    "run_stop": Row(TRAINER, "post", of="run"),
    "run_resume": Row(TRAINER, "post", of="run"),
    "run_again": Row(TRAINER, "post", of="run"),
    "run_checkpoint": Row(TRAINER, "post", of="run"),
    "sweep_create": Row(TRAINER, of="run"),
    "sweep": Row(VIEWER, of="sweep"),
    "sweep_body": Row(VIEWER, of="sweep"),
    "sweep_stop": Row(TRAINER, "post", of="sweep"),
    "evaluation_create": Row(TRAINER, "post", of="run"),
    "evaluation": Row(VIEWER, of="evaluation"),
    "evaluation_body": Row(VIEWER, of="evaluation"),
    "judgement_create": Row(TRAINER, of="evaluation"),
    "judgement": Row(VIEWER, of="judgement"),
    "judgement_body": Row(VIEWER, of="judgement"),
    "verdicts": Row(REVIEWER, of="evaluation"),
    "verdicts_card": Row(REVIEWER, of="evaluation"),
    "verdict_give": Row(REVIEWER, "post", of="evaluation row"),
    "benchmark_create": Row(TRAINER, of="run"),
    "benchmark": Row(VIEWER, of="benchmark"),
    "benchmark_body": Row(VIEWER, of="benchmark"),
    "export_list": Row(VIEWER, of="run"),
    "export_list_body": Row(VIEWER, of="run"),
    "export_create": Row(TRAINER, "post", of="run"),
    "export_download": Row(VIEWER, of="export"),
    "publication_create": Row(TRAINER, of="run"),
    "publication": Row(VIEWER, of="publication"),
    "publication_body": Row(VIEWER, of="publication"),
    "publication_card": Row(VIEWER, of="publication"),
    "publication_override": Row(OWNER, "post", of="publication"),
    "publication_act": Row(TRAINER, "post", of="published act"),
    "published_model_list": Row(VIEWER, of="in project"),
    "gate_edit": Row(OWNER, "post", of="in project"),
    "published_model": Row(VIEWER, of="published model"),
    "published_model_body": Row(VIEWER, of="published model"),
    "document_models": Row(VIEWER, of="document"),
    "conversation_list": Row(VIEWER, of="in project"),
    "run_chat": Row(VIEWER, of="run"),
    "model_chat": Row(VIEWER, of="published model"),
    "conversation": Row(ASKER, of="conversation"),
    "conversation_ask": Row(ASKER, "post", of="conversation"),
    "conversation_again": Row(ASKER, "post", of="conversation"),
    "conversation_save": Row(ASKER, "post", of="conversation"),
    "conversation_discard": Row(ASKER, "post", of="conversation"),
    "chat_turn": Row(ASKER, of="turn"),
    "chat_turn_card": Row(ASKER, of="turn"),
    "chat_turn_stop": Row(ASKER, "post", of="turn"),
    "answer_keep": Row(ASKER_TRAINS, of="answer"),
    "health_live": Row(PUBLIC),
    "health_ready": Row(PUBLIC),
    "metrics": Row(SCRAPER),
    "system": Row(OPERATOR),
    "system_body": Row(OPERATOR),
    "token_list": Row(SIGNED_IN),
    "token_revoke": Row(ASKER, "post", of="api token"),
    "api_docs": Row(SIGNED_IN),
    "openapi": Row(PUBLIC),
    "api_nowhere": Row(NOWHERE, of="rest"),
}


def patterns(resolver=None):
    for entry in (resolver or get_resolver()).url_patterns:
        if isinstance(entry, URLResolver):
            if entry.namespace not in ("admin", "api"):  # operations: test_api_access.py
                yield from patterns(entry)
        elif isinstance(entry, URLPattern):
            yield entry


def test_the_table_is_complete():
    names = {pattern.name for pattern in patterns()}
    assert names - set(TABLE) == set(), "addresses without a row: add them to TABLE"
    assert set(TABLE) - names == set(), "rows without an address: remove them from TABLE"


@pytest.fixture
def things(project, owner, settings, bundled):
    """One of everything an address may name."""
    from django.contrib.auth.models import User

    from datasets_app.models import (
        Conflict,
        DatasetVersion,
        Document,
        Generation,
        ImportBatch,
        LabelStudioImport,
        LabelStudioLink,
        LabelStudioProject,
        LabelStudioServer,
        LabelStudioTask,
        ModelServer,
        Upload,
    )
    from datasets_app.services import datasets, examples
    from datasets_app.services.pages import WIDTH
    from datasets_app.services.recipes import create_recipe
    from finetune_site.api.services import make_token
    from finetune_site.lib.sealing import seal
    from finetune_site.notifications.models import Notice
    from training_app.models import (
        Benchmark,
        ChatAnswer,
        ChatTurn,
        Conversation,
        Evaluation,
        EvaluationRow,
        Export,
        Judgement,
        Publication,
        PublishedModel,
        Rubric,
        Run,
        Sweep,
    )

    job = jobs.enqueue(project=project, owner=owner, kind="datasets.seal", label="a label")
    invitation, token = invite(actor=owner, project=project, email="new@example.org", role=Role.VIEWER)
    membership = project.memberships.get(user__username="reviewer")
    document = Document.objects.create(
        project=project, name="a.txt", sha256="0" * 64, size=1, media_type="text/plain", uploaded_by=owner
    )
    drawn = Document.objects.create(
        project=project, name="b.pdf", sha256="1" * 64, size=1, media_type="application/pdf", uploaded_by=owner, pages=1
    )
    document.elements.create(index=0, kind="text", text="Some words.")
    arriving = Upload.objects.create(project=project, by=User.objects.get(username="trainer"), name="c.txt", size=9)
    picture = drawn.picture_folder / f"1-{WIDTH}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(b"\x89PNG")
    dataset = datasets.create_dataset(actor=owner, project=project, name="D")
    content = {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]}
    example = examples.write_example(actor=owner, dataset=dataset, content=content)
    there = LabelStudioServer.objects.create(name="L", url="http://127.0.0.1:9")
    link = LabelStudioLink.objects.create(
        dataset=dataset, server=there, created_by=owner, sealed_hook_secret=seal("secret", settings.SECRET_KEY)
    )
    entry = LabelStudioImport.objects.create(dataset=dataset, server=there, created_by=owner)
    task = LabelStudioTask.objects.create(
        project=LabelStudioProject.objects.create(link=link, layout="single", remote_id=1),
        example=example,
        push_id=uuid.uuid4(),
        text=example.text,
        known_state="draft",
    )
    conflict = Conflict.objects.create(task=task, text=example.text, content=content, verdict="approved", by=owner)
    generation = Generation.objects.create(dataset=dataset, generator="extractive", created_by=owner)
    recipe = create_recipe(actor=owner, project=project, name="R", kind="qa", template="{passage}", settings={})
    batch = ImportBatch.objects.create(dataset=dataset, name="a.jsonl", sha256="0" * 64, created_by=owner)
    version = DatasetVersion.objects.create(dataset=dataset, number=1, created_by=owner)
    run = Run.objects.create(
        project=project,
        name="R",
        version=version,
        base=bundled,
        method="lora",
        config={},
        preset="balanced",
        created_by=owner,
    )
    evaluation = Evaluation.objects.create(run=run, created_by=owner)
    row = EvaluationRow.objects.create(evaluation=evaluation, index=0, base_score=0, tuned_score=1)
    rubric = Rubric.objects.create(project=project, number=1, text="5: right", created_by=owner)
    server = ModelServer.objects.create(name="S", provider="ollama", base_url="http://127.0.0.1:9", offered="m")
    judgement = Judgement.objects.create(
        evaluation=evaluation, rubric=rubric, server=server, model="m", created_by=owner
    )
    benchmark = Benchmark.objects.create(run=run, tasks=["arc_easy"], limit=10, created_by=owner)
    sweep = Sweep.objects.create(
        project=project, name="S", pattern=run, manner="grid", space={}, budget=2, created_by=owner
    )
    asker = project.memberships.get(user__username="viewer").user
    conversation = Conversation.objects.create(project=project, run=run, user=asker)
    turn = ChatTurn.objects.create(conversation=conversation, prompt="Q?")
    answer = ChatAnswer.objects.create(turn=turn, side="base", text="A.", state="done")
    api_token, _ = make_token(actor=asker, name="T", scopes=["write"])
    notice = Notice.objects.create(user=asker, project=project, kind="done", text="Done", url=run.get_absolute_url())
    export = Export.objects.create(run=run, format="adapter", created_by=owner, result=FILE)
    export.folder.mkdir(parents=True, exist_ok=True)
    export.path.write_bytes(b"weights")
    published = PublishedModel.objects.create(project=project, server=server, name="ft/m", created_by=owner)
    publication = Publication.objects.create(model=published, number=1, run=run, format="f16", created_by=owner)
    named = {
        "project": project, "job": job, "document": document, "dataset": dataset, "example": example, "batch": batch,
        "generation": generation, "version": version, "run": run, "evaluation": evaluation, "turn": turn,
        "conversation": conversation, "answer": answer,
        "sweep": sweep, "evaluation row": row, "judgement": judgement, "benchmark": benchmark,
        "recipe": recipe, "conflict": conflict, "import": entry, "export": export, "published model": published,
        "publication": publication, "ollama": server, "base": bundled, "api token": api_token, "notice": notice,
    }  # fmt: skip
    return {
        "": {},
        "token": {"token": token},
        "key": {"key": "unknown"},
        "reset": {"uidb36": "1", "key": "a-b"},
        "provider": {"provider_id": "organisation"},
        "rest": {"rest": "v1/nothing"},
        "membership": {"pk": project.pk, "member": membership.pk},
        "invitation": {"pk": project.pk, "invitation": invitation.pk},
        "in project": {"project": project.pk},
        "upload": {"key": arriving.pk},
        "page": {"pk": drawn.pk, "number": 1},
        "piece": {"pk": document.pk, "index": 0},
        "piece act": {"pk": document.pk, "index": 0, "act": "leave-out"},
        "page act": {"pk": drawn.pk, "number": 1, "act": "leave-out"},
        "lost correction": {"pk": document.pk, "key": 1},
        "file": {"pk": version.pk, "format": "jsonl"},
        "trail": {"pk": project.pk, "format": "csv"},
        "act": {"pk": dataset.pk, "act": "restore"},
        "new recipe": {"project": project.pk, "kind": "qa"},
        "published act": {"pk": publication.pk, "act": "switch"},
        "hook": {"key": link.hook_key},
        **{name: {"pk": thing.pk} for name, thing in named.items()},
    }


def expected(row: Row, person: str) -> str:
    """pass, login, hidden (404) or refused (403)."""
    if row.least == PUBLIC:
        return "pass"
    if row.least == NOBODY:
        return "refused"
    if row.least == SCRAPER:
        return {"anonymous": "hidden", "operator": "pass"}.get(person, "refused")
    if row.least == NOWHERE:
        return "hidden"
    if person == "anonymous":
        return "login"
    if row.least == ABSENT:
        return "hidden"
    if row.least == TRAINERS_OWN:
        return {"anonymous": "login", "trainer": "pass"}.get(person, "hidden")
    if row.least in (ASKER, ASKER_TRAINS):
        may = "pass" if row.least == ASKER else "refused"  # the asker is a viewer
        return may if person == "viewer" else "hidden"
    if row.least == SIGNED_IN or person == "operator":
        return "pass"
    if row.least == OPERATOR and row.of in ("ollama", "base"):
        return "refused"  # no project's: there is nothing to hide
    if person == "stranger" and row.of:
        return "hidden"
    if row.least == OPERATOR:
        return "refused"
    return "pass" if Role(person).rank >= Role(row.least).rank else "refused"


def seen(response) -> str:
    if response.status_code == 302 and response.url.startswith(f"{reverse('account_login')}?next="):
        return "login"
    return {404: "hidden", 403: "refused"}.get(response.status_code, "pass")


@pytest.mark.parametrize("name", sorted(TABLE))
def test_who_may(name, things, client_of, operator, monkeypatch):
    # The stream lets go of its database connection, which here is the test's own.
    monkeypatch.setattr("finetune_site.jobs.views.connection", SimpleNamespace(close=lambda: None))
    row, got = TABLE[name], {}
    make_user("stranger")
    from django.contrib.auth.models import User

    for person in PEOPLE:
        user = None if person == "anonymous" else User.objects.get(username=person)
        got[person] = trial(client_of(user), row, reverse(name, kwargs=things[row.of]))
    assert got == {person: expected(row, person) for person in PEOPLE}


def trial(client, row: Row, url: str) -> str:
    """One request whose writes are undone, so that every person finds the same state."""
    from django.db import transaction

    with transaction.atomic():
        response = getattr(client, row.method)(url)
        outcome = seen(response)
        assert response.status_code != 405, f"{url} does not take {row.method}"
        transaction.set_rollback(True)
    return outcome
