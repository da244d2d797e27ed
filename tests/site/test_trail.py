"""The trail of a project: filtered, compared, and taken away as a file."""

import ast
import csv
import io
import json
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from finetune_site.projects.models import AuditEntry
from finetune_site.projects.services import audit, edit_project
from tests.conftest import ROOT

pytestmark = pytest.mark.django_db


def shown(client_of, user, project, **filter) -> list[str]:
    answer = client_of(user).get(reverse("audit_list", args=[project.pk]), filter)
    assert answer.status_code == 200
    return [f"{entry.verb} {entry.subject}" for entry in answer.context["page"]]


def taken(client_of, user, project, format, **filter) -> str:
    answer = client_of(user).get(reverse("audit_export", args=[project.pk, format]), filter)
    assert answer.status_code == 200 and "attachment" in answer["Content-Disposition"]
    return b"".join(answer).decode()


def test_the_filter_finds_words_people_and_days(client_of, project, owner, trainer, viewer):
    old = audit(project, trainer, "sealed", "Facts v1", after={"validation": 0.1})
    AuditEntry.objects.filter(pk=old.pk).update(at=timezone.now() - timedelta(days=40))
    audit(project, trainer, "started the run", "A run", after={"learning_rate": 0.0002})
    assert shown(client_of, viewer, project, words="sealed facts") == ["sealed Facts v1"]
    assert shown(client_of, viewer, project, words="LEARNING_RATE") == ["started the run A run"]
    assert shown(client_of, viewer, project, person=trainer.pk) == ["started the run A run", "sealed Facts v1"]
    long_ago = (timezone.now() - timedelta(days=30)).date()
    assert shown(client_of, viewer, project, until=long_ago) == ["sealed Facts v1"]
    assert "sealed Facts v1" not in shown(client_of, viewer, project, since=long_ago)
    assert shown(client_of, viewer, project, words="zebra") == []
    assert shown(client_of, viewer, project, since="yesterday") == []


def test_what_changed_stands_field_by_field(client_of, project, owner, viewer):
    edit_project(actor=owner, project=project, name="Kestrel 40", description=project.description)
    entry = AuditEntry.objects.get(verb="edited")
    assert entry.changes == [("name", "Kestrel", "Kestrel 40")]
    page = client_of(viewer).get(reverse("audit_list", args=[project.pk])).content.decode()
    assert "<del>Kestrel</del>" in page and "<ins>Kestrel 40</ins>" in page
    assert AuditEntry(before="viewer", after="owner").changes == [("", "viewer", "owner")]


def test_the_files_hold_what_the_filter_shows_oldest_first(client_of, project, owner, trainer, viewer):
    audit(project, trainer, "uploaded", '=HYPERLINK("http://a")', after={"size": 7})
    audit(project, trainer, "uploaded", "zwei.pdf", after={"size": 8})
    rows = list(csv.DictReader(io.StringIO(taken(client_of, viewer, project, "csv", person=trainer.pk))))
    assert [row["subject"] for row in rows] == ['\'=HYPERLINK("http://a")', "zwei.pdf"]
    assert (rows[1]["who"], rows[1]["verb"], rows[1]["before"], rows[1]["after"]) == (
        "trainer",
        "uploaded",
        "",
        '{"size": 8}',
    )
    lines = [json.loads(line) for line in taken(client_of, viewer, project, "jsonl", words="uploaded").splitlines()]
    assert [line["after"] for line in lines] == [{"size": 7}, {"size": 8}]
    assert len(taken(client_of, viewer, project, "jsonl").splitlines()) == project.audit_entries.count()


# Acts that leave no entry in the trail, and what tells of them instead.
WITHOUT_ENTRY = {
    "ask": "a chat changes nothing",
    "ask_again": "a chat changes nothing",
    "begin": "a chat changes nothing",
    "begin_upload": "nothing is here yet",
    "choose_project": "nothing is imported yet",
    "look_again": "nothing is imported yet",
    "start_import": "nothing is imported yet",
    "edit_example": "every text of an example stays, with who wrote it",
    "judge": "every decision on an example stays, with who decided",
    "undo": "every decision on an example stays, with who decided",
    "remark": "every decision on an example stays, with who decided",
    "give_verdict": "every verdict on an answer stays, with who gave it",
    "queue_evaluation": "whoever asked for it has told: a person, or the run that it ends",
    "queue_training": "whoever asked for it has told: a person, or the sweep",
    "operators_desk": "the operators' own",
    "start_check": "it changes no example: what is found stands beside it",
    "make_token": "a person's own",
    "revoke_token": "a person's own",
}


def test_every_service_that_a_person_calls_writes_its_entry():
    """A function of a service that takes an actor calls `audit`, itself or through another one."""
    called: dict[str, set[str]] = {}
    acts = set()
    for pattern in ("datasets_app/services/*.py", "training_app/services/*.py", "finetune_site/*/services.py"):
        for path in ROOT.glob(pattern):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.FunctionDef):
                    names = {call.func for call in ast.walk(node) if isinstance(call, ast.Call)}
                    called.setdefault(node.name, set()).update(
                        getattr(name, "id", None) or getattr(name, "attr", "") for name in names
                    )
                    arguments = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
                    acts |= {node.name} if "actor" in arguments and not node.name.startswith("_") else set()

    def tells(name: str, seen: frozenset[str] = frozenset()) -> bool:
        return name == "audit" or any(tells(other, seen | {name}) for other in called.get(name, set()) - seen - {name})

    assert len(acts) > 60
    assert {name for name in acts if not tells(name)} == set(WITHOUT_ENTRY)
