"""A model that fails on some passages is asked again for these alone, and every passage has its outcome throughout."""

import json
from collections import Counter

import pytest
from django.urls import reverse

from datasets_app.models import Generation, ModelServer
from datasets_app.services import datasets, documents
from datasets_app.services.datasets import generate_again
from datasets_app.services.errors import DatasetError
from finetune_site.api.services import make_token
from finetune_site.projects.models import AuditEntry
from tests.factories import run_all
from tests.ollama_double import MODEL, ollama_double

pytestmark = pytest.mark.django_db
WORDS = {"alpha": "12 kg", "beta": "14 kg", "gamma": "16 kg"}
TEXT = "\n\n".join(f"# {name}\n\nThe {name} pump weighs {weight}." for name, weight in WORDS.items())


@pytest.fixture
def server():
    """A model that states one fact of a passage; those in `breaks` end the server, those in `rambles` it."""
    with ollama_double() as double:
        double.breaks, double.rambles = {"beta"}, {"gamma"}

        def answer(prompt):
            name = next(name for name in WORDS if f"The {name} pump" in prompt)
            if name in double.breaks:
                return None
            if name in double.rambles:
                return "I would say it is heavy."
            fact = {"questions": [f"What does the {name} pump weigh?"], "answer": f"It weighs {WORDS[name]}."}
            return json.dumps({"items": [{**fact, "quotes": [f"The {name} pump weighs {WORDS[name]}."]}]})

        double.answer = answer
        double.row = ModelServer.objects.create(
            name="House", provider="ollama", base_url=double.base_url, offered=MODEL
        )
        yield double


@pytest.fixture
def generation(project, trainer, server):
    """Three passages: one with examples, one on which the server failed, one answered with nonsense."""
    document = documents.upload_document(
        actor=trainer, project=project, name="pumps.md", blocks=[TEXT.encode()]
    ).document
    run_all()
    document.refresh_from_db()
    dataset = datasets.create_dataset(actor=trainer, project=project, name="Pumps")
    made = datasets.start_generation(
        actor=trainer, dataset=dataset, documents=[document], generator="llm", server=server.row,
        options={"model": MODEL, "recipe": {"kind": "qa", "settings": {"wordings": 1}}},
    )  # fmt: skip
    run_all()
    return Generation.objects.get(pk=made.pk)


def outcomes(generation):
    return dict(generation.outcomes.values_list("chunk_index", "outcome"))


def test_only_what_failed_is_asked_for_again(generation, server, trainer, viewer, client_of):
    assert outcomes(generation) == {0: "made", 1: "failed", 2: "refused"}
    client, url = client_of(trainer), reverse("generation_again", args=[generation.pk])
    page = client.get(generation.get_absolute_url()).content.decode()
    assert "Try the 1 failed again" in page and "Try the 1 refused again" in page and "Go on with" not in page
    assert "again" not in client_of(viewer).get(generation.get_absolute_url()).content.decode().partition("<main")[2]
    stored = set(generation.calls.values_list("pk", flat=True))
    server.asked.clear()
    server.breaks, server.rambles = set(), {"gamma"}
    client.post(url, {"outcome": "failed"})
    run_all()
    assert len(server.asked) == 1 and "The beta pump" in server.prompts[0]
    assert outcomes(generation) == {0: "made", 1: "made", 2: "refused"}
    assert stored < set(generation.calls.values_list("pk", flat=True))
    assert generation.calls.exclude(pk__in=stored).get().chunk_index == 1
    server.rambles = set()
    client.post(url, {"outcome": "refused"})
    run_all()
    assert outcomes(generation) == dict.fromkeys(range(3), "made")
    assert Counter(generation.examples.values_list("chunk_index", flat=True)) == Counter(range(3))
    generation.refresh_from_db()
    assert generation.counts == {
        "chunks": 3, "made": 3, "nothing": 0, "refused": 0, "failed": 0, "timed out": 0, "examples": 3
    }  # fmt: skip
    assert AuditEntry.objects.filter(verb="generated again for").count() == 2
    assert "can be tried again" in client.post(url, {"outcome": "made"}, follow=True).content.decode()
    assert "No passage ended so" in client.post(url, {"outcome": "failed"}, follow=True).content.decode()


def test_the_api_tells_the_outcomes_and_tries_again(generation, server, trainer, client):
    secret = make_token(actor=trainer, name="T", scopes=["read", "write"])[1]
    door = {"headers": {"Authorization": f"Bearer {secret}"}, "content_type": "application/json"}
    told = client.get(f"/api/v1/generations/{generation.pk}", **door).json()
    assert told["outcomes"] == {"made": 1, "failed": 1, "refused": 1} and told["examples"] == 1
    server.breaks = set()
    answer = client.post(f"/api/v1/generations/{generation.pk}/again", {"outcome": "failed"}, **door)
    assert answer.status_code == 201, answer.content
    run_all()
    assert client.get(f"/api/v1/generations/{generation.pk}", **door).json()["outcomes"] == {"made": 2, "refused": 1}


def test_passages_that_are_others_by_now_are_not_mixed_up(generation, trainer):
    document = generation.documents.get()
    documents.parse_again(actor=trainer, document=document)
    run_all()
    with pytest.raises(DatasetError, match="cut into other passages since"):
        generate_again(actor=trainer, generation=generation, outcome="failed")
    assert outcomes(generation)[1] == "failed"


def test_without_a_model_the_same_would_come(generation, trainer):
    Generation.objects.filter(pk=generation.pk).update(generator="extractive")
    with pytest.raises(DatasetError, match="Without a model"):
        generate_again(actor=trainer, generation=generation, outcome="failed")
