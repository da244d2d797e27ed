"""Registering a Label Studio: addresses, tokens at rest, redirects, and connecting one without a hand."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import CommandError
from django.urls import reverse

from datasets_app.labelstudio import Client, LabelStudioError, Trouble
from datasets_app.models import LabelStudioServer
from datasets_app.models.addresses import validate_address
from tests.labelstudio.conftest import PASSWORD

pytestmark = [pytest.mark.slow, pytest.mark.django_db]
LEGACY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def elsewhere():
    """Answers every request with the status given, and tells another place; yields its address and who asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        status = 302

        def answer(self) -> None:
            asked.append(self.path)
            self.send_response(self.status)
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked, Handler
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kind", ["legacy", "personal"])
def test_redirects_are_not_followed(kind, elsewhere, personal_token):
    url, asked, _ = elsewhere
    token = LEGACY if kind == "legacy" else personal_token
    with pytest.raises(LabelStudioError, match=r"forwards to 127\.0\.0\.1:9, which is not followed"):
        Client(url, token).account()
    assert len(asked) == 1


@pytest.mark.parametrize("kind", ["legacy", "personal"])
def test_an_error_of_the_server_is_called_one(kind, elsewhere, personal_token):
    url, _, handler = elsewhere
    handler.status = 503
    with pytest.raises(LabelStudioError, match=r"error of its own \(HTTP 503\)") as caught:
        Client(url, LEGACY if kind == "legacy" else personal_token).account()
    assert caught.value.trouble == Trouble.UNREACHABLE


@pytest.mark.parametrize("address", ["http://label-studio:8080", "http://web:8000", "https://ls.example.org/path"])
def test_addresses_within_a_private_network_are_taken(address):
    validate_address(address)


@pytest.mark.parametrize("address", ["label-studio", "ftp://host", "http://", "http://me:word@host", "http://h/?a=1"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValidationError):
        validate_address(address)


def test_the_token_is_sealed_and_goes_to_no_other_address(server, personal_token, operator, client_of):
    assert personal_token not in server.sealed_token and server.token == personal_token
    url = reverse("admin:datasets_app_labelstudioserver_change", args=[server.pk])
    page = client_of(operator).post(url, {"name": server.name, "url": "http://thief:8080"}).content.decode()
    assert "Enter the token again: the one that is kept goes to no other address." in page
    server.refresh_from_db()
    assert server.url != "http://thief:8080"


def test_a_server_is_connected_without_a_hand(label_studio_server, tokens, monkeypatch, capsys):
    monkeypatch.setenv("LABEL_STUDIO_PASSWORD", PASSWORD)
    places = {"portal_url": "https://portal.example.org", "hook_url": "http://web:8000"}
    call_command("connect_label_studio", label_studio_server.url, **places)
    made = LabelStudioServer.objects.get()
    tokens.append(made.token)  # minting it revoked the one before
    assert (made.state, made.account, made.hooks_to) == ("working", "portal@example.org", "http://web:8000")
    call_command("connect_label_studio", label_studio_server.url, **places)
    assert LabelStudioServer.objects.get().token == made.token, "a token that works was replaced"
    assert "is connected as portal@example.org" in capsys.readouterr().out
    monkeypatch.setenv("LABEL_STUDIO_PASSWORD", "wrong")
    made.token = "0" * 40
    made.save()
    with pytest.raises(CommandError, match=r"does not let portal@example\.org in"):
        call_command("connect_label_studio", label_studio_server.url)
