"""Every address tried as everybody. The table is complete by construction: an address without a row fails.

A row says the least role that may pass. Below it a member gets 403, a stranger 404, a visitor the login page; from it
on nobody is refused (what the answer then is, the tests of each view say). Each address is tried with the method it
writes with, as refusing comes before looking at what was typed.
"""

from dataclasses import dataclass

import pytest
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from finetune_site.jobs import services as jobs
from finetune_site.projects.models import Role
from finetune_site.projects.services import invite
from tests.factories import make_user

PEOPLE = ("anonymous", "stranger", "viewer", "reviewer", "trainer", "owner", "operator")


@dataclass(frozen=True)
class Row:
    """`least`: a role, or "anybody", "signed in", "operator", "in charge" (who started the job, or an owner)."""

    least: str
    method: str = "get"
    of: str = ""  # which object's key the address takes


PUBLIC, SIGNED_IN, OPERATOR = "anybody", "signed in", "operator"
VIEWER, REVIEWER, TRAINER, OWNER = Role.VIEWER, Role.REVIEWER, Role.TRAINER, Role.OWNER

TABLE: dict[str, Row] = {
    "login": Row(PUBLIC),
    "join": Row(PUBLIC, of="token"),
    "logout": Row(SIGNED_IN, "post"),
    "home": Row(SIGNED_IN),
    "password_change": Row(SIGNED_IN),
    "project_create": Row(SIGNED_IN),
    "project_edit": Row(OWNER, of="project"),
    "project_delete": Row(OWNER, of="project"),
    "member_list": Row(VIEWER, of="project"),
    "member_add": Row(OWNER, "post", of="project"),
    "member_invite": Row(OWNER, "post", of="project"),
    "member_role": Row(OWNER, "post", of="membership"),
    "member_remove": Row(OWNER, "post", of="membership"),
    "audit_list": Row(VIEWER, of="project"),
    "live": Row(VIEWER, of="project"),
    "job_list": Row(SIGNED_IN),
    "job_list_table": Row(SIGNED_IN),
    "job": Row(VIEWER, of="job"),
    "job_body": Row(VIEWER, of="job"),
    "job_progress": Row(VIEWER, of="job"),
    "job_cancel": Row(OWNER, "post", of="job"),
    "job_requeue": Row(OWNER, "post", of="job"),
}


def patterns(resolver=None):
    for entry in (resolver or get_resolver()).url_patterns:
        if isinstance(entry, URLResolver):
            if entry.namespace != "admin":
                yield from patterns(entry)
        elif isinstance(entry, URLPattern):
            yield entry


def test_the_table_is_complete():
    names = {pattern.name for pattern in patterns()}
    assert names - set(TABLE) == set(), "addresses without a row: add them to TABLE"
    assert set(TABLE) - names == set(), "rows without an address: remove them from TABLE"


@pytest.fixture
def things(project, owner):
    """One of everything an address may name."""
    from finetune_site.jobs.kinds import all_kinds

    job = jobs.enqueue(project=project, owner=owner, kind=all_kinds()[0].name, label="a label")
    _, token = invite(actor=owner, project=project, email="new@example.org", role=Role.VIEWER)
    membership = project.memberships.get(user__username="reviewer")
    return {
        "": {},
        "token": {"token": token},
        "project": {"pk": project.pk},
        "membership": {"pk": project.pk, "member": membership.pk},
        "job": {"pk": job.pk},
    }


def expected(row: Row, person: str) -> str:
    """pass, login, hidden (404) or refused (403)."""
    if row.least == PUBLIC:
        return "pass"
    if person == "anonymous":
        return "login"
    if row.least == SIGNED_IN or person == "operator":
        return "pass"
    if row.least == OPERATOR:
        return "refused"
    if person == "stranger":
        return "hidden"
    return "pass" if Role(person).rank >= Role(row.least).rank else "refused"


def seen(response) -> str:
    if response.status_code == 302 and response.url.startswith(reverse("login")):
        return "login"
    return {404: "hidden", 403: "refused"}.get(response.status_code, "pass")


@pytest.mark.parametrize("name", sorted(TABLE))
def test_who_may(name, things, client_of, operator, request):
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
