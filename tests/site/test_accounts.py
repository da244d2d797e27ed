"""Signing in, accounts from invitations and mailed links, the second factor, sessions, and what operators do."""

import re
from datetime import timedelta

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value, yield_hotp_counters_from_time
from allauth.mfa.utils import decrypt
from django.contrib.auth.models import User
from django.core import mail
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from finetune_site.accounts import services
from finetune_site.accounts.access import link_token
from finetune_site.accounts.models import Profile
from finetune_site.api.services import make_token
from finetune_site.projects.models import AuditEntry, Invitation, Membership, Role
from finetune_site.projects.services import invite
from tests.factories import PASSWORD, words

pytestmark = pytest.mark.django_db
NEW = {
    "username": "newcomer",
    "email": "new@example.org",
    "password1": "quite-a-password",
    "password2": "quite-a-password",
}


@pytest.fixture(autouse=True)
def _no_limits_left():
    cache.clear()  # the limits of the test before


@pytest.fixture
def mailing(settings):
    settings.CAN_MAIL = True
    settings.ACCOUNT_EMAIL_VERIFICATION = "optional"
    settings.ACCOUNT_EMAIL_NOTIFICATIONS = True


def sign_in(client, name: str, password: str = PASSWORD, **more: str):
    return client.post(reverse("account_login"), {"login": name, "password": password, **more})


def confirm(client) -> None:
    """Type the password once more, as what protects an account asks for."""
    client.post(reverse("account_reauthenticate"), {"password": PASSWORD})


def who(client) -> str:
    return client.get(reverse("home")).context["user"].username if "_auth_user_id" in client.session else ""


def code_for(secret: str) -> str:
    counter = next(iter(yield_hotp_counters_from_time()))
    return format_hotp_value(hotp_value(secret, counter))


def test_one_signs_in_by_name_or_address_and_comes_to_where_one_was_going(client, viewer, project):
    page = client.get(project.get_absolute_url())
    assert page.url == f"{reverse('account_login')}?next={project.get_absolute_url()}"
    assert sign_in(client, "viewer", next=project.get_absolute_url()).url == project.get_absolute_url()
    assert who(client) == "viewer"
    assert client.post(reverse("account_logout")).url == reverse("account_login")
    assert who(client) == ""
    assert sign_in(client, "viewer@example.org").url == reverse("home")
    client.logout()
    assert sign_in(client, "viewer", next="https://elsewhere.example/").url == reverse("home")


def test_the_old_address_of_the_login_leads_on(client):
    assert client.get(reverse("login") + "?next=/jobs/").url == reverse("account_login") + "?next=/jobs/"


def test_a_wrong_password_is_told_in_words_that_say_nothing_of_the_account(client, viewer):
    told = [words(sign_in(client, name, "wrong")) for name in ("viewer", "nobody-here")]
    assert all("not correct" in text for text in told)


def test_guessing_is_slowed_down(client, viewer):
    for _ in range(5):
        sign_in(client, "viewer", "wrong")
    assert "Too many failed login attempts" in words(sign_in(client, "viewer"))
    assert who(client) == ""


def test_a_disabled_account_opens_to_nobody(client, viewer, operator):
    secret = make_token(actor=viewer, name="T", scopes=["read"])[1]
    asked = {"headers": {"Authorization": f"Bearer {secret}"}}
    assert client.get("/api/v1/projects", **asked).status_code == 200
    services.disable_user(actor=operator, user=viewer)
    sign_in(client, "viewer")
    assert who(client) == ""
    services.enable_user(actor=operator, user=viewer)
    assert client.get("/api/v1/projects", **asked).status_code == 401, "its tokens do not come back with it"


def test_an_invitation_makes_an_account_and_a_member_at_once(client, owner, project):
    invitation, token = invite(actor=owner, project=project, email="new@example.org", role=Role.TRAINER)
    page = client.get(reverse("join", args=[token]))
    assert "Make an account" in words(page)
    assert (
        'value="new@example.org"' in client.get(reverse("account_signup") + "?email=new@example.org").content.decode()
    )
    answer = client.post(reverse("account_signup"), NEW)
    assert answer.url == project.get_absolute_url()
    user = User.objects.get(username="newcomer")
    assert Membership.objects.get(user=user).role == "trainer" and who(client) == "newcomer"
    assert not EmailAddress.objects.get(user=user).verified, "whoever has the link need not have the address"
    client.logout()
    assert "An invitation is needed" in words(client.get(reverse("account_signup")))
    assert client.get(reverse("join", args=[token])).status_code == 404
    assert Invitation.objects.get(pk=invitation.pk).accepted_at


def test_an_invitation_goes_by_mail_too(client_of, owner, project, settings):
    form = {"email": "new@example.org", "role": "viewer"}
    client_of(owner).post(reverse("member_invite", args=[project.pk]), form)
    assert not mail.outbox
    settings.CAN_MAIL = True
    page = client_of(owner).post(reverse("member_invite", args=[project.pk]), form)
    assert page.context["link"] in mail.outbox[0].body and mail.outbox[0].to == ["new@example.org"]
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1  # nobody listens there
    page = client_of(owner).post(reverse("member_invite", args=[project.pk]), form)
    assert "Pass the link on yourself" in words(page) and page.context["link"]


def test_without_leave_nobody_makes_an_account(client, owner, project):
    client.post(reverse("account_signup"), NEW)
    assert not User.objects.filter(username="newcomer").exists()
    _, token = invite(actor=owner, project=project, email="new@example.org", role=Role.VIEWER)
    client.get(reverse("join", args=[token]))
    Invitation.objects.update(expires_at=timezone.now() - timedelta(days=1))
    client.post(reverse("account_signup"), NEW)
    assert not User.objects.filter(username="newcomer").exists()


def test_an_invitation_taken_in_the_same_moment_leaves_no_account_behind(client, owner, project, stranger, monkeypatch):
    _, token = invite(actor=owner, project=project, email="new@example.org", role=Role.VIEWER)
    client.get(reverse("join", args=[token]))
    from finetune_site.accounts import adapters

    def late(*, user, invitation):
        Invitation.objects.update(accepted_at=timezone.now())
        return accept(user=user, invitation=invitation)

    accept = adapters.accept_invitation
    monkeypatch.setattr(adapters, "accept_invitation", late)
    answer = client.post(reverse("account_signup"), NEW)
    assert answer.url == reverse("join", args=[token])
    assert not User.objects.filter(username="newcomer").exists()


def test_who_has_an_account_joins_with_it(client_of, stranger, owner, project):
    _, token = invite(actor=owner, project=project, email="s@example.org", role=Role.REVIEWER)
    client = client_of(stranger)
    assert client.post(reverse("join", args=[token])).url == project.get_absolute_url()
    assert Membership.objects.get(user=stranger).role == "reviewer"
    assert client.post(reverse("join", args=[token])).status_code == 404


def test_an_address_of_a_welcome_domain_is_enough(client, settings, mailing):
    assert client.get(reverse("sign_up")).status_code == 404
    settings.SIGN_UP_DOMAINS = ["example.org"]
    page = client.post(reverse("sign_up"), {"email": "new@elsewhere.org"})
    assert "for addresses of @example.org" in words(page) and not mail.outbox
    assert "A link went to" in words(client.post(reverse("sign_up"), {"email": "New@example.org"}))
    link = re.search(r"http://testserver(\S+)", mail.outbox[0].body).group(1)
    client.get(link)
    told = client.post(reverse("account_signup"), NEW | {"email": "other@example.org"})
    assert "the account is made with this address" in words(told)
    client.post(reverse("account_signup"), NEW)
    assert EmailAddress.objects.get(user__username="newcomer").verified
    mail.outbox.clear()
    client.logout()
    client.post(reverse("sign_up"), {"email": "new@example.org"})
    assert "You have an account here already" in mail.outbox[0].body
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1  # nobody listens there
    page = client.post(reverse("sign_up"), {"email": "third@example.org"})
    assert "Mail cannot be sent now" in words(page) and "A link went to" not in words(page)
    page = client.post(reverse("account_reset_password"), {"email": "new@example.org"}, follow=True)
    assert "Mail cannot be sent now" in words(page)
    settings.SIGN_UP_DOMAINS = []
    assert client.get(reverse("sign_up_link", args=[link_token("a@example.org")])).status_code == 404


def test_a_forgotten_password_is_set_anew_by_mail(client, viewer, mailing):
    client.post(reverse("account_reset_password"), {"email": "viewer@example.org"})
    link = re.search(r"http://testserver(\S+)", mail.outbox[0].body).group(1)
    page = client.get(link, follow=True)
    client.post(page.request["PATH_INFO"], {"password1": "a-new-password-1", "password2": "a-new-password-1"})
    assert sign_in(client, "viewer").status_code == 200
    sign_in(client, "viewer", "a-new-password-1")
    assert who(client) == "viewer"
    mail.outbox.clear()
    answer = client.post(reverse("account_reset_password"), {"email": "nobody@example.org"})
    assert answer.status_code == 302 and not mail.outbox, "the answer is the same"


def test_without_mail_an_address_is_the_operators_to_enter(client_of, viewer, mailing, settings):
    url = reverse("account_email")
    assert "Add Email" in words(client_of(viewer).get(url))
    settings.CAN_MAIL = False
    page = words(client_of(viewer).get(url))
    assert "viewer@example.org" in page and "an operator enters it" in page and "Add Email" not in page


def test_who_is_switched_off_is_told_whom_to_ask(client, viewer):
    viewer.is_active = False
    viewer.save()
    page = words(client.post(reverse("account_login"), {"login": "viewer", "password": PASSWORD}, follow=True))
    assert "This account is switched off" in page and "An operator of the site can switch it on again" in page


def test_without_mail_the_page_says_whom_to_ask_and_the_operator_gives_a_link(client, client_of, viewer, operator):
    assert "Ask an operator" in words(client.get(reverse("account_reset_password")))
    url = reverse("admin:auth_user_changelist")
    data = {"action": "password_link", "_selected_action": [viewer.pk]}
    page = client_of(operator).post(url, data, follow=True)
    link = re.search(r"http://testserver(/account/password/reset/key/\S+?)(?=<|\s)", page.content.decode()).group(1)
    form = client.get(link, follow=True)
    client.post(form.request["PATH_INFO"], {"password1": "a-new-password-1", "password2": "a-new-password-1"})
    sign_in(client, "viewer", "a-new-password-1")
    assert who(client) == "viewer"
    assert AuditEntry.objects.filter(
        verb="made a link to set the password of", subject="viewer", actor=operator
    ).exists()
    assert "Bad Token" in words(client_of(None).get(link)), "it works once"


def test_an_address_is_confirmed_by_mail(client_of, viewer, mailing):
    client = client_of(viewer)
    confirm(client)
    client.post(reverse("account_email"), {"action_add": "", "email": "mine@example.org"})
    link = re.search(r"http://testserver(\S+)", mail.outbox[-1].body).group(1)
    client.post(link)
    assert EmailAddress.objects.get(email="mine@example.org").verified


def test_a_second_factor_is_set_up_asked_for_and_its_secret_sealed(client, viewer):
    sign_in(client, "viewer")
    assert client.get(reverse("mfa_activate_totp")).url.startswith(reverse("account_reauthenticate"))
    confirm(client)
    page = client.get(reverse("mfa_activate_totp"))
    secret = page.context["form"].secret
    client.post(reverse("mfa_activate_totp"), {"code": code_for(secret)})
    kept = Authenticator.objects.get(user=viewer, type="totp")
    assert secret not in str(kept.data) and decrypt(kept.data["secret"]) == secret
    codes = Authenticator.objects.get(user=viewer, type="recovery_codes").wrap().get_unused_codes()
    client.logout()
    assert sign_in(client, "viewer").url.startswith(reverse("mfa_authenticate"))
    assert who(client) == ""
    assert "Incorrect code" in words(client.post(reverse("mfa_authenticate"), {"code": "000000"}))
    client.post(reverse("mfa_authenticate"), {"code": codes[0]})
    assert who(client) == "viewer"
    client.logout()
    sign_in(client, "viewer")
    client.post(reverse("mfa_authenticate"), {"code": codes[0]})
    assert who(client) == "", "a recovery code works once"


def test_an_operator_takes_a_lost_factor_off(client, client_of, viewer, operator):
    sign_in(client, "viewer")
    confirm(client)
    secret = client.get(reverse("mfa_activate_totp")).context["form"].secret
    client.post(reverse("mfa_activate_totp"), {"code": code_for(secret)})
    data = {"action": "take_off_second_factor", "_selected_action": [viewer.pk]}
    client_of(operator).post(reverse("admin:auth_user_changelist"), data)
    assert not Authenticator.objects.filter(user=viewer).exists()
    assert "_auth_user_id" not in client.session, "whoever was in with it is out"
    assert AuditEntry.objects.filter(verb="took the second factor off", subject="viewer").exists()
    sign_in(client, "viewer")
    assert who(client) == "viewer"


@pytest.mark.parametrize(
    ("wanted", "asked"), [("off", []), ("operators", ["operator"]), ("everybody", ["operator", "viewer"])]
)
def test_the_site_may_ask_for_a_second_factor(client_of, viewer, operator, settings, wanted, asked):
    settings.TWO_FACTOR = wanted
    for user in (viewer, operator):
        client = client_of(user)
        page = client.get(reverse("home"))
        there = page.status_code == 302 and page.url == reverse("mfa_activate_totp")
        assert there == (user.username in asked)
        if there:
            assert client.get(reverse("token_list")).status_code == 302
            part = client.get(reverse("home"), headers={"HX-Request": "true"})
            assert part["HX-Redirect"] == reverse("mfa_activate_totp")
            assert client.post(reverse("account_logout")).url == reverse("account_login")


def test_the_administration_asks_as_every_page_does(client, operator):
    assert client.get(reverse("admin:login")).url.startswith(reverse("account_login"))
    sign_in(client, "operator", "operator-password")
    assert client.get(reverse("admin:index")).status_code == 200


def test_sessions_are_listed_and_the_others_ended(client_of, viewer):
    here, elsewhere = Client(), Client(headers={"User-Agent": "Elsewhere 1.0"})
    for client in (here, elsewhere):
        sign_in(client, "viewer")
    assert "Elsewhere 1.0" in words(here.get(reverse("usersessions_list")))
    here.post(reverse("usersessions_list"))
    assert who(here) == "viewer" and "_auth_user_id" not in elsewhere.session


def test_a_profile_holds_for_every_page(client_of, viewer, project):
    client = client_of(viewer)
    assert 'data-theme=""' in client.get(reverse("home")).content.decode()
    client.post(reverse("profile"), {"time_zone": "Asia/Tokyo", "theme": "dark"})
    assert 'data-theme="dark"' in client.get(reverse("home")).content.decode()
    assert client.post(reverse("theme"), {"theme": "light"}).status_code == 204
    assert client.post(reverse("theme"), {"theme": "pink"}).status_code == 400
    assert Profile.objects.get(user=viewer).theme == "light"
    viewer.date_joined = timezone.now().replace(month=3, day=1, hour=20)
    viewer.save()
    assert "2 Mar" in words(client.get(reverse("profile"))), "20:00 UTC is the next day in Tokyo"
    bad = client.post(reverse("profile"), {"time_zone": "Mars/Base", "theme": ""})
    assert "Select a valid choice" in words(bad)


def test_the_person_and_the_profile_come_in_one_query(client_of, viewer, django_assert_max_num_queries):
    client = client_of(viewer)
    client.post(reverse("theme"), {"theme": "light"})
    with django_assert_max_num_queries(3) as seen:
        client.get(reverse("profile"))
    assert sum("accounts_profile" in query["sql"] for query in seen) == 1


def test_pages_of_an_account_are_one_s_own(client_of, viewer):
    client = client_of(viewer)
    confirm(client)
    for name in ("profile", "account_email", "account_change_password", "mfa_index", "usersessions_list"):
        assert 'aria-label="Your account"' in client.get(reverse(name)).content.decode(), name
