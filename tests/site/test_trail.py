"""The trail of a project: filtered, compared, and taken away as a file."""

import csv
import io
import json
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from finetune_site.projects.models import AuditEntry
from finetune_site.projects.services import audit, edit_project

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
