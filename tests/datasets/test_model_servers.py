"""Keys of model servers: entered once, sealed, sent to their own server alone, never shown."""

import pytest
from django.urls import reverse

from datasets_app.engine.spec import KEY_VARIABLE
from datasets_app.models import ModelServer
from datasets_app.servers import engine_environment
from finetune_site.jobs.handle import JobInputError
from tests.factories import words

pytestmark = pytest.mark.django_db
KEY = "sk-a-key-that-nobody-sees"
URL = "http://127.0.0.1:9/v1"


def typed(**fields):
    usual = {"name": "House", "provider": "openai", "base_url": URL, "offered": "m", "context_window": 4096}
    return {**usual, "parallel": 2, "key_variable": "", "key": "", **fields}


@pytest.fixture
def client(client_of, operator):
    return client_of(operator)


@pytest.fixture
def server(client):
    client.post(reverse("admin:datasets_app_modelserver_add"), typed(key=KEY))
    return ModelServer.objects.get()


def change(client, server, **fields):
    return client.post(reverse("admin:datasets_app_modelserver_change", args=[server.pk]), typed(**fields))


def test_a_key_is_sealed_and_never_shown(client, server):
    assert KEY not in server.sealed_key and server.key == KEY
    page = client.get(reverse("admin:datasets_app_modelserver_change", args=[server.pk])).content.decode()
    assert KEY not in page and server.sealed_key not in page
    assert engine_environment(server) == {KEY_VARIABLE: KEY}


def test_a_key_stays_goes_to_no_other_address_and_is_forgotten(client, server):
    change(client, server, name="Home")
    server.refresh_from_db()
    assert (server.name, server.key) == ("Home", KEY)
    answer = change(client, server, base_url="http://127.0.0.1:10/v1")
    assert "goes to no other address" in words(answer)
    server.refresh_from_db()
    assert server.base_url == URL
    change(client, server, base_url="http://127.0.0.1:10/v1", key="another")
    server.refresh_from_db()
    assert server.key == "another"
    change(client, server, base_url="http://127.0.0.1:10/v1", forgets_key="on")
    server.refresh_from_db()
    assert server.key == "" and engine_environment(server) == {}


def test_what_cannot_be_a_key_is_refused(client, server):
    assert "letters that no key has" in words(change(client, server, key="two words"))


def test_a_key_that_was_sealed_under_another_key_of_the_site_is_told(server, settings):
    settings.SECRET_KEY = "another" * 10
    with pytest.raises(JobInputError, match="An operator enters it again"):
        engine_environment(server)


def test_the_environment_holds_it_otherwise(server, monkeypatch):
    server.key, server.key_variable = "", "FINETUNE_LLM_HOUSE"
    with pytest.raises(JobInputError, match="FINETUNE_LLM_HOUSE, the key of House, is not set"):
        engine_environment(server)
    monkeypatch.setenv("FINETUNE_LLM_HOUSE", "from-there")
    assert engine_environment(server) == {KEY_VARIABLE: "from-there"}
