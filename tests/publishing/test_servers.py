"""The operators' page of Ollama servers: what they hold, fetching and unloading, and what is wrong with them."""

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from datasets_app.models import ModelServer
from finetune_site.jobs.models import Job
from finetune_site.projects.models import Project
from tests.factories import run_all
from tests.ollama_server import Manifest
from training_app import serving
from training_app.engine.bundled import find_gguf
from training_app.models import OllamaPull, OllamaState

pytestmark = [pytest.mark.slow, pytest.mark.django_db]


@pytest.fixture
def server(double):
    return ModelServer.objects.create(name="Big box", provider="ollama", base_url=double.base_url, offered="")


def page_of(client) -> str:
    return client.get(reverse("ollama_list")).content.decode()


def test_a_model_is_fetched_seen_and_unloaded(server, double, operator, client_of):
    double.registry["smollm2:135m"] = find_gguf()
    client = client_of(operator)
    assert "being asked" in page_of(client)
    client.post(reverse("ollama_pull", args=[server.pk]), {"name": " smollm2:135m "})
    run_all()
    pull = OllamaPull.objects.get()
    assert (pull.job.state, pull.job.done, pull.job.total) == ("succeeded", find_gguf().stat().st_size, pull.job.done)
    page = page_of(client)
    assert "version 0.34.2" in page and "smollm2:135m" in page and "1 models, 93" in page
    double.llama(double.models["smollm2:135m"].gguf)
    serving.look(server.pk)
    assert "smollm2:135m is in memory" in page_of(client)
    serving.unload(server.pk, "smollm2:135m")
    assert "is in memory" not in page_of(client)


def test_what_cannot_be_fetched_is_said(server, operator, client_of):
    client, url = client_of(operator), reverse("ollama_pull", args=[server.pk])
    for name in ("registry.evil.example/ns/model:1", "../x", "http://x", ""):
        page = client.post(url, {"name": name}, follow=True).content.decode()
        assert "without the name of a host" in page
    assert not OllamaPull.objects.exists()
    client.post(url, {"name": "nowhere:1b"})
    run_all()
    assert "pull model manifest: file does not exist" in OllamaPull.objects.get().job.error_text


def test_a_server_that_is_away_says_so(server, operator, client_of):
    ModelServer.objects.update(base_url="http://127.0.0.1:9")
    serving.look(server.pk)
    assert "cannot be reached" in page_of(client_of(operator))
    ModelServer.objects.update(base_url=server.base_url)
    serving.look(server.pk)
    assert OllamaState.objects.get().problem == ""


def test_the_operators_desk_is_nobodys_project(server, double, operator, trainer, client_of):
    client_of(operator).post(reverse("ollama_pull", args=[server.pk]), {"name": "x:1b"})
    desk = Project.objects.get(is_desk=True)
    assert Job.objects.get().project == desk and "Operators" not in client_of(operator).get("/").content.decode()
    assert client_of(trainer).get(desk.get_absolute_url()).status_code == 404


def test_an_ollama_is_registered_without_a_hand(double, capsys):
    call_command("connect_ollama", double.base_url)
    made = ModelServer.objects.get()
    assert (made.name, made.provider, made.model_names, made.takes_models) == ("Ollama", "ollama", [], False)
    assert "no model yet: fetch one" in capsys.readouterr().out
    made.offered = "qwen3:4b"
    made.save()
    double.models["smollm2:135m"] = Manifest(double.keep(find_gguf()))
    for _ in range(2):
        call_command("connect_ollama", double.base_url, takes_models=True)
    made = ModelServer.objects.get()
    assert (made.model_names, made.takes_models) == (["qwen3:4b", "smollm2:135m"], True)
    for address, told in (("http://127.0.0.1:9", "cannot be reached"), ("ftp://ollama", "is not Ollama")):
        with pytest.raises(CommandError, match=told):
            call_command("connect_ollama", address, name="Another")
    assert ModelServer.objects.count() == 1
