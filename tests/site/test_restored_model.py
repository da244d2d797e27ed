"""A backup restored on an empty machine gives a portal in which a model that was trained before answers as it did."""

import io
import json

import pytest
from django.core.management import call_command
from django.urls import reverse

from tests.factories import run_all
from tests.site.test_backup import data, elsewhere, empty_database, manage  # noqa: F401  fixtures
from tests.training.test_runs import plan
from training_app.models import BaseModel, ChatAnswer, Run
from training_app.services import chat
from training_app.services.chat import Manner

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
QUESTION = "Question 0 about part 3?"
ASK = f"""
from django.contrib.auth.models import User
from training_app.models import Run
from training_app.services import chat
from training_app.services.chat import Manner
chat.begin(actor=User.objects.get(username="trainer"), partner=Run.objects.get(), prompt={QUESTION!r},
           manner=Manner(max_tokens=12))
"""
TELL = """
import json
from training_app.models import ChatAnswer
print(json.dumps({a.side: [a.state, a.text, a.problem] for a in ChatAnswer.objects.order_by("-pk")[:2]}))
"""


@pytest.fixture
def settled(data, settings):  # noqa: F811  the fixture
    """The data folder before anything is written into it."""
    settings.CHAT_IDLE_SECONDS = 0
    return data


@pytest.fixture
def answers(settled, project, trainer, client_of, version, base) -> dict[str, str]:
    """What a model trained here and its base answer."""
    client = client_of(trainer)
    plan(client, project, version, base)
    run_all()
    client.post(reverse("run_start", args=[Run.objects.get().pk]))
    run_all("gpu")
    chat.begin(actor=trainer, partner=Run.objects.get(), prompt=QUESTION, manner=Manner(max_tokens=12))
    run_all("chat")
    assert {answer.state for answer in ChatAnswer.objects.all()} == {"done"}
    return {answer.side: answer.text for answer in ChatAnswer.objects.all()}


def test_it_answers_as_it_did(settled, answers, elsewhere, tmp_path):  # noqa: F811
    assert answers["tuned"] != answers["base"], "it has learned something"
    BaseModel.objects.update(location="/nowhere")  # the new machine has nothing but the archive
    archive = tmp_path / "site.tar"
    call_command("backup", str(archive), stdout=io.StringIO(), stderr=io.StringIO())
    there = {**elsewhere, "FINETUNE_CHAT_IDLE_SECONDS": "0", "FINETUNE_ENGINE_THREADS": "1"}
    for command in (["restore", str(archive)], ["shell", "-c", ASK], ["runner", "chat", "0"]):
        done = manage(*command, **there)
        assert done.returncode == 0, done.stderr
    told = manage("shell", "-v0", "-c", TELL, **there)
    found = json.loads(told.stdout.splitlines()[-1])
    assert found == {side: ["done", text, ""] for side, text in answers.items()}
