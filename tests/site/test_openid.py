"""Signing in at the organisation's OpenID Connect provider: a real one, in a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialAccount, SocialToken
from django.contrib.auth.models import User
from django.core.cache import cache
from django.urls import reverse

from finetune_site.projects.models import Membership, Role
from finetune_site.projects.services import invite
from tests.site.openid_provider import CLIENT_ID, CLIENT_SECRET, PASSWORD

pytestmark = pytest.mark.django_db
CALLBACK = "http://testserver/account/oidc/organisation/login/callback/"


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """The address of a provider that knows ann (verified), bob (unverified) and eve (of another domain)."""
    program = Path(__file__).with_name("openid_provider.py")
    process = subprocess.Popen([sys.executable, str(program), CALLBACK], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    port = process.stdout.readline().strip()
    assert port, "the provider did not start"
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture(autouse=True)
def _registered(settings, provider):
    cache.clear()
    settings.OIDC_NAME = "Example sign-on"
    app = {
        "provider_id": "organisation", "name": "Example sign-on", "client_id": CLIENT_ID, "secret": CLIENT_SECRET,
        "settings": {"server_url": provider},
    }  # fmt: skip
    settings.SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"OAUTH_PKCE_ENABLED": True, "APPS": [app]}}


def at_the_provider(address: str, name: str) -> str:
    """Sign in there as `name`; returns where the provider sends the browser back to."""
    with httpx.Client(follow_redirects=False) as browser:
        answer = browser.get(address)
        while not answer.headers["Location"].startswith(CALLBACK):
            answer = browser.get(answer.request.url.join(answer.headers["Location"]))
            if answer.status_code == 200:
                form = {
                    "login": name,
                    "password": PASSWORD,
                    "next": parse_qs(answer.request.url.query.decode())["next"],
                }
                answer = browser.post(answer.request.url, data=form)
        return answer.headers["Location"]


def begin(client) -> str:
    return client.post(reverse("openid_connect_login", args=["organisation"]) + "?process=login").url


def sign_in(client, name: str):
    return client.get(at_the_provider(begin(client), name))


def who(client) -> str:
    return User.objects.get(pk=client.session["_auth_user_id"]).username if "_auth_user_id" in client.session else ""


def test_the_way_there_carries_a_state_and_a_challenge(client):
    assert "Example sign-on" in client.get(reverse("account_login")).content.decode()
    query = parse_qs(urlsplit(begin(client)).query)
    assert query["code_challenge_method"] == ["S256"] and query["state"] and query["redirect_uri"] == [CALLBACK]


def test_people_of_a_welcome_domain_have_an_account_at_their_first_coming(client, settings):
    settings.SIGN_UP_DOMAINS = ["example.org"]
    assert sign_in(client, "ann").url == reverse("home")
    user = User.objects.get(username="ann")
    assert who(client) == "ann" and not user.has_usable_password()
    assert EmailAddress.objects.get(user=user).verified
    assert not SocialToken.objects.exists(), "the provider's tokens are not kept"
    client.logout()
    sign_in(client, "ann")
    assert who(client) == "ann" and User.objects.filter(username__startswith="ann").count() == 1


def test_nobody_else_has(client, settings):
    settings.SIGN_UP_DOMAINS = ["example.org"]
    for name in ("bob", "eve"):  # an address that nobody verified, one of another domain
        assert "An invitation is needed" in sign_in(client, name).content.decode()
    assert not User.objects.filter(username__in=("bob", "eve")).exists() and who(client) == ""


def test_an_invitation_opens_the_door_too(client, owner, project):
    _, token = invite(actor=owner, project=project, email="eve@elsewhere.example", role=Role.REVIEWER)
    client.get(reverse("join", args=[token]))
    sign_in(client, "eve")
    assert who(client) == "eve" and Membership.objects.get(user__username="eve").role == "reviewer"


def test_an_account_is_met_again_only_where_both_sides_have_verified_the_address(client):
    ours = User.objects.create_user("ann.here", "ann@example.org", "x")
    address = EmailAddress.objects.create(user=ours, email="ann@example.org", verified=False, primary=True)
    sign_in(client, "ann")
    assert who(client) == "" and not SocialAccount.objects.exists()
    address.verified = True
    address.save()
    sign_in(client, "ann")
    assert who(client) == "ann.here" and SocialAccount.objects.get().user == ours
    client.logout()
    theirs = User.objects.create_user("bob.here", "bob@example.org", "x")
    EmailAddress.objects.create(user=theirs, email="bob@example.org", verified=True, primary=True)
    sign_in(client, "bob")
    assert who(client) == "", "the provider has not seen that it is bob's"


def test_an_answer_that_was_not_asked_for_opens_nothing(client, client_of, settings):
    settings.SIGN_UP_DOMAINS = ["example.org"]
    back = at_the_provider(begin(client), "ann")
    other = client_of(None)
    assert other.get(back).status_code in (200, 401) and who(other) == ""
    assert client.get(back.replace("state=", "state=x")).status_code in (200, 401) and who(client) == ""
    assert not User.objects.filter(username="ann").exists()


def test_a_disabled_account_stays_shut(client, settings):
    settings.SIGN_UP_DOMAINS = ["example.org"]
    sign_in(client, "ann")
    client.logout()
    User.objects.filter(username="ann").update(is_active=False)
    sign_in(client, "ann")
    assert who(client) == ""


def test_a_provider_that_is_away_is_told_in_words(client, settings):
    settings.SOCIALACCOUNT_PROVIDERS["openid_connect"]["APPS"][0]["settings"]["server_url"] = "http://127.0.0.1:9"
    address = reverse("openid_connect_login", args=["organisation"]) + "?process=login"
    assert "cannot be reached now" in client.post(address, follow=True).content.decode()
