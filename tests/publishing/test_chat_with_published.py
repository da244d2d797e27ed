"""Conversations with a published model, which its Ollama answers: the double with real inference."""

import threading
import time

import pytest
from django.db import connection
from django.urls import reverse

from finetune_site.jobs.models import Job, JobState
from tests.factories import run_all
from tests.ollama_server import Manifest
from training_app.engine.bundled import find_gguf
from training_app.models import BaseModel, ChatTurn, Publication, PublishedModel, Run
from training_app.ollama import Client
from training_app.services import chat as services
from training_app.services.chat import Manner

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def model(project, trainer, version, ollama, double, settings):
    """SmolLM2 as it is, under a stable name of ours."""
    settings.CHAT_IDLE_SECONDS = 0
    base = BaseModel.objects.create(name="smollm2:chat", title="SmolLM2", source="bundled")
    job = Job.objects.create(
        project=project, owner=trainer, kind="training.train", queue="gpu", label="R", state=JobState.SUCCEEDED
    )
    run = Run.objects.create(
        project=project, name="R", version=version, base=base, method="lora", preset="quick", config={},
        created_by=trainer, job=job,
    )  # fmt: skip
    double.models["ft/gearbox:latest"] = Manifest(double.keep(find_gguf()), parameters={"stop": ["<|im_end|>"]})
    made = PublishedModel.objects.create(project=project, server=ollama, name="ft/gearbox", created_by=trainer)
    made.current = Publication.objects.create(
        model=made, number=3, run=run, format="q8_0", created_by=trainer, outcome="published", job=job
    )
    made.save()
    return made


def typed(prompt: str, **more: str) -> dict[str, str]:
    return {"prompt": prompt, "system": "", "temperature": "0", "max_tokens": "8", **more}


def test_it_answers_with_its_history_and_says_which_version_did(model, viewer, client_of, double):
    client = client_of(viewer)
    page = client.get(reverse("model_chat", args=[model.pk])).content.decode()
    assert "ft/gearbox:latest" in page and "version 3" in page
    client.post(reverse("model_chat", args=[model.pk]), typed("What is 2 and 2?", system="Be brief."))
    run_all("ollama")
    first = ChatTurn.objects.get().answers.get()
    with Client(double.base_url) as direct:
        asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 and 2?"}]
        told = direct.chat("ft/gearbox", asked, num_predict=8, temperature=0)
    assert (first.state, first.text, first.model, first.tokens) == (
        "done",
        told.text.strip(),
        "ft/gearbox:v3",
        told.tokens,
    )
    talk = first.turn.conversation
    client.post(reverse("conversation_ask", args=[talk.pk]), typed("And 3?", system="Be brief."))
    run_all("ollama")
    body = next(body for path, body in reversed(double.asked) if path == "/api/chat")
    assert [entry["content"] for entry in body["messages"]] == ["Be brief.", "What is 2 and 2?", first.text, "And 3?"]
    assert "ft/gearbox:v3" in client.get(talk.get_absolute_url()).content.decode()


def test_what_ollama_says_against_it_is_shown(model, viewer, client_of, ollama, double):
    client = client_of(viewer)
    client.post(reverse("model_chat", args=[model.pk]), typed("Who are you?"))
    double.models.clear()
    run_all("ollama")
    answer = ChatTurn.objects.get().answers.get()
    assert answer.state == "failed" and "Ollama does not have it" in answer.problem
    page = client.get(answer.turn.conversation.get_absolute_url()).content.decode()
    assert "Ollama does not have it" in page and "Answer again" in page
    ollama.base_url = "http://127.0.0.1:9"
    ollama.save()
    client.post(reverse("conversation_again", args=[answer.turn.conversation_id]), typed(""))
    run_all("ollama")
    assert "cannot be reached" in ChatTurn.objects.get().answers.get().problem
    PublishedModel.objects.update(current=None)
    page = client.post(reverse("conversation_again", args=[answer.turn.conversation_id]), typed("")).content.decode()
    assert "No version of ft/gearbox is published now" in page


def test_stop_does_not_wait_for_ollama(model, viewer, double):
    double.behave.piece_seconds = 0.4
    turn = services.begin(actor=viewer, partner=model, prompt="Count to 100.", manner=Manner(max_tokens=200))

    def work():
        try:
            run_all("ollama")
        finally:
            connection.close()

    worker = threading.Thread(target=work)
    worker.start()
    deadline = time.monotonic() + 300
    while not turn.answers.exclude(text="").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    services.stop(turn=turn)
    worker.join(900)
    answer = turn.answers.get()
    assert (answer.state, answer.finish) == ("done", "stopped") and answer.text
