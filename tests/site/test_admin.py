"""The administration through its own addresses: every list opens, acts go through services, no state is set by hand."""

from datetime import timedelta

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.urls import reverse
from django.utils import timezone

from finetune_site.jobs import machines
from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import Job, JobState, Machine
from finetune_site.projects.models import AuditEntry, Project
from tests.factories import PASSWORD, claim

pytestmark = pytest.mark.django_db


def act(client, model: str, action: str, *pks: int) -> str:
    response = client.post(
        reverse(f"admin:{model}_changelist"), {"action": action, "_selected_action": pks}, follow=True
    )
    assert response.status_code == 200
    return " ".join(str(message) for message in response.context["messages"])


@pytest.fixture
def desk(client_of, operator):
    return client_of(operator)


@pytest.fixture
def waiting(project, owner) -> Job:
    return jobs.enqueue(project=project, owner=owner, kind="training.train", label="a run")


@pytest.mark.parametrize("model", sorted(admin.site._registry, key=lambda model: model._meta.label), ids=str)
def test_every_list_opens_and_can_be_searched(model, desk, project):
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    assert desk.get(url).status_code == 200
    if admin.site._registry[model].search_fields:
        assert desk.get(url, {"q": "words"}).status_code == 200


@pytest.mark.parametrize("model", ["jobs_job", "projects_project", "projects_auditentry"])
def test_what_has_a_contract_is_neither_added_nor_deleted_nor_edited(model, desk, project, waiting):
    subject = {"jobs_job": waiting, "projects_project": project}.get(model) or AuditEntry.objects.first()
    assert desk.get(reverse(f"admin:{model}_add")).status_code == 403
    assert desk.post(reverse(f"admin:{model}_delete", args=[subject.pk]), {"post": "yes"}).status_code == 403
    assert desk.post(reverse(f"admin:{model}_change", args=[subject.pk]), {"state": "failed"}).status_code == 403
    assert desk.get(reverse(f"admin:{model}_change", args=[subject.pk])).status_code == 200  # but looked at
    assert Job.objects.get(pk=waiting.pk).state == JobState.QUEUED and Project.objects.filter(pk=project.pk).exists()


def test_members_and_visitors_stay_out(client_of, owner):
    for user in (owner, None):
        assert client_of(user).get(reverse("admin:jobs_job_changelist")).status_code == 302


def test_whoever_may_look_at_jobs_stops_none(client_of, owner, waiting):
    owner.is_staff = True
    owner.save()
    owner.user_permissions.add(Permission.objects.get(codename="view_job"))
    client, url = client_of(owner), reverse("admin:jobs_job_changelist")
    assert client.get(url).status_code == 200
    for action in ("cancel", "requeue", "run_next"):
        assert client.post(url, {"action": action, "_selected_action": [waiting.pk]}).status_code == 403
    assert Job.objects.get(pk=waiting.pk).state == JobState.QUEUED


def test_jobs_are_stopped_started_again_and_moved_forward(desk, waiting, project, owner):
    other = jobs.enqueue(project=project, owner=owner, kind="training.train", label="another", priority=5)
    assert "done" in act(desk, "jobs_job", "run_next", waiting.pk)
    waiting.refresh_from_db()
    assert waiting.priority > other.priority
    assert "done" in act(desk, "jobs_job", "cancel", waiting.pk)
    assert "already ended" in act(desk, "jobs_job", "cancel", waiting.pk)
    assert "done" in act(desk, "jobs_job", "requeue", waiting.pk)
    waiting.refresh_from_db()
    assert waiting.state == JobState.QUEUED
    assert AuditEntry.objects.filter(project=project, actor__username="operator").count() == 3


def test_machines_say_whether_they_live_and_what_they_do(desk, waiting):
    machines.report()
    claim(waiting)
    page = desk.get(reverse("admin:jobs_machine_changelist")).content.decode()
    assert "a run (gpu)" in page and "icon-yes" in page
    Machine.objects.update(seen_at=timezone.now() - timedelta(hours=1))
    assert "icon-no" in desk.get(reverse("admin:jobs_machine_changelist")).content.decode()


def test_a_disabled_account_is_out_at_once_and_stays_out(desk, client_of, owner, client):
    inside = client_of(owner)
    assert inside.get(reverse("home")).status_code == 200
    assert "done" in act(desk, "auth_user", "disable", owner.pk)
    assert inside.get(reverse("home")).status_code == 302
    client.post(reverse("account_login"), {"login": "owner", "password": PASSWORD})
    assert client.get(reverse("home")).status_code == 302
    assert "disabled already" in act(desk, "auth_user", "disable", owner.pk)
    assert "done" in act(desk, "auth_user", "enable", owner.pk)
    assert inside.get(reverse("home")).status_code == 302  # the former session did not come back
    assert AuditEntry.objects.filter(project__is_desk=True, subject="owner").count() == 2


def test_nobody_disables_themselves_or_ticks_an_account_away(desk, operator, owner):
    assert "your own account" in act(desk, "auth_user", "disable", operator.pk)
    url = reverse("admin:auth_user_change", args=[owner.pk])
    assert 'name="is_active"' not in desk.get(url).content.decode()
    assert desk.post(reverse("admin:auth_user_delete", args=[owner.pk]), {"post": "yes"}).status_code == 403
    assert set(User.objects.values_list("is_active", flat=True)) == {True}
