"""Who is in a project: added, invited, given another role, removed; and what only owners see of it."""

from django.urls import reverse

from finetune_site.projects.models import Invitation, Membership, Role
from finetune_site.projects.services import invite
from tests.factories import make_user, words


def test_somebody_with_an_account_is_added_and_the_page_says_so(client_of, owner, project, stranger):
    form = {"username": "stranger", "role": "trainer"}
    page = client_of(owner).post(reverse("member_add", args=[project.pk]), form, follow=True)
    assert "stranger is now a member, as trainer." in words(page)
    assert project.memberships.get(user=stranger).role == Role.TRAINER


def test_to_add_a_member_again_changes_no_role(client_of, owner, project, viewer):
    form = {"username": "viewer", "role": "owner"}
    page = client_of(owner).post(reverse("member_add", args=[project.pk]), form, follow=True)
    assert "viewer is already a member, as viewer. Change the role in the list" in words(page)
    assert project.memberships.get(user=viewer).role == Role.VIEWER


def test_a_role_set_and_a_member_removed_are_said(client_of, owner, project, viewer):
    member = project.memberships.get(user=viewer)
    page = client_of(owner).post(
        reverse("member_role", args=[project.pk, member.pk]), {"role": "reviewer"}, follow=True
    )
    assert "viewer is now reviewer here." in words(page)
    page = client_of(owner).post(reverse("member_remove", args=[project.pk, member.pk]), follow=True)
    assert "viewer is no longer a member." in words(page)
    assert not Membership.objects.filter(pk=member.pk)


def test_an_invitation_is_taken_back_and_its_link_opens_nothing(client, client_of, owner, project, stranger):
    invitation, token = invite(actor=owner, project=project, email="new@example.org", role=Role.OWNER)
    assert client.get(reverse("join", args=[token])).status_code == 200
    page = client_of(owner).post(reverse("invitation_take_back", args=[project.pk, invitation.pk]), follow=True)
    assert "The invitation of new@example.org is taken back" in words(page)
    assert not Invitation.objects.filter(pk=invitation.pk)
    assert client_of(stranger).post(reverse("join", args=[token])).status_code == 404
    assert project.audit_entries.get(verb="took back the invitation of").before == "owner"


def test_an_accepted_invitation_is_not_taken_back(client_of, owner, project, stranger):
    invitation, token = invite(actor=owner, project=project, email="new@example.org", role=Role.VIEWER)
    client_of(stranger).post(reverse("join", args=[token]))
    page = client_of(owner).post(reverse("invitation_take_back", args=[project.pk, invitation.pk]), follow=True)
    assert "was just accepted. Remove the member instead." in words(page)
    assert project.memberships.filter(user=stranger).exists()


def test_only_owners_see_who_is_invited(client_of, owner, project, viewer, reviewer):
    invite(actor=owner, project=project, email="new@example.org", role=Role.VIEWER)
    page = reverse("member_list", args=[project.pk])
    assert "new@example.org" in words(client_of(owner).get(page))
    for person in (viewer, reviewer):
        assert "new@example.org" not in words(client_of(person).get(page))


def test_the_address_of_an_answer_opens_the_list(client_of, owner, project):
    make_user("somebody")
    for name in ("member_add", "member_invite"):
        url = reverse(name, args=[project.pk])
        page = client_of(owner).post(url, {"username": "nobody", "email": "not one", "role": "viewer"})
        assert page.status_code == 200
        assert 'aria-invalid="true"' in page.content.decode()
        assert client_of(owner).get(url).url == reverse("member_list", args=[project.pk])
