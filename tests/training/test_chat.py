"""Conversations with a run's model and its base, through the addresses and the real chat process on a tiny model."""

import os
import re
import shutil
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.urls import reverse
from django.utils import timezone
from transformers import AutoTokenizer, GenerationConfig

from datasets_app.models import Example
from datasets_app.services import datasets
from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import Job, JobEvent
from finetune_site.jobs.queue import HOST
from finetune_site.lib.kernel import start_time
from finetune_site.projects.services import delete_project
from tests.engine.tiny import make_tiny_model
from tests.factories import run_all
from training_app import chatting
from training_app.engine.answers import end_tokens
from training_app.models import ChatAnswer, ChatTurn, Conversation, Run
from training_app.services import chat as services
from training_app.services.chat import Manner
from training_app.services.runs import TrainingError

pytestmark = [pytest.mark.django_db(transaction=True)]
LONG = {"prompt": "What is the size of part 3?", "system": "", "temperature": "1.5", "max_tokens": "2000"}


@pytest.fixture(scope="module")
def talker(tmp_path_factory) -> Path:
    """The tiny model, which speaks until it is cut and with so many layers that a long answer takes half a minute:
    nothing may hang on when it happens to end."""
    folder = make_tiny_model(
        tmp_path_factory.mktemp("talker") / "model", num_hidden_layers=32, max_position_embeddings=4096
    )
    ends = end_tokens(AutoTokenizer.from_pretrained(folder))
    GenerationConfig(suppress_tokens=ends).save_pretrained(folder)
    return folder


@pytest.fixture
def run(project, trainer, version, base, talker, settings):
    """A finished run; its trained weights are the base's own."""
    settings.CHAT_IDLE_SECONDS = 0
    base.location = str(talker)
    base.save()
    job = Job.objects.create(
        project=project, owner=trainer, kind="training.train", queue="gpu", label="R", state="succeeded"
    )
    made = Run.objects.create(
        project=project, name="R", version=version, base=base, method="full", preset="quick", config={},
        created_by=trainer, job=job,
    )  # fmt: skip
    shutil.rmtree(made.folder, ignore_errors=True)
    shutil.copytree(talker, made.folder / "model")
    return made


def typed(prompt: str, **more: str) -> dict[str, str]:
    return {"prompt": prompt, "system": "", "temperature": "0", "max_tokens": "12", **more}


def begun(person, run, prompt="What does part 3 weigh?", **manner) -> ChatTurn:
    return services.begin(actor=person, partner=run, prompt=prompt, manner=Manner(**{"max_tokens": 12, **manner}))


def shorten(turn: ChatTurn) -> None:
    """What is answered from now on is short; what is being written goes on as it was asked for."""
    ChatTurn.objects.filter(pk=turn.pk).update(max_tokens=12)


def answered(turn: ChatTurn, text: str = "It weighs 21 kg.") -> ChatTurn:
    turn.answers.update(state="done", text=text)
    return turn


def until(what, seconds: float = 300):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        answers = list(ChatAnswer.objects.values_list("side", "state", "finish", "problem", "tokens"))
        assert time.monotonic() < deadline, (
            f"it never came: {answers}, {list(Job.objects.values_list('kind', 'state'))}"
        )
        time.sleep(0.02)
    return found


@pytest.fixture
def worker():
    """Does what waits for chats, in a thread."""
    problems = []

    def work():
        try:
            run_all("chat")
        except Exception as error:
            problems.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    yield thread
    if thread.ident:
        thread.join(900)
    assert not problems and not thread.is_alive()


def test_both_models_answer_and_each_goes_on_from_its_own_words(run, trainer, viewer, client_of):
    client = client_of(viewer)
    page = client.get(reverse("run_chat", args=[run.pk])).content.decode()
    assert "Ask both models" in page
    answer = client.post(
        reverse("run_chat", args=[run.pk]), typed("What does part 3 weigh?\r\nIn kg.", system="Be brief.")
    )
    talk = Conversation.objects.get()
    assert answer.url == talk.get_absolute_url() and talk.system == "Be brief."
    assert talk.turns.get().prompt == "What does part 3 weigh?\nIn kg."
    assert "Waiting" in client.get(talk.get_absolute_url()).content.decode()
    run_all("chat")
    turn = talk.turns.get()
    sides = {answer.side: answer for answer in turn.answers.all()}
    assert {one.side: (one.state, one.problem) for one in turn.answers.all()} == dict.fromkeys(
        ("tuned", "base"), ("done", "")
    )
    heard = list(JobEvent.objects.filter(kind="chat").values_list("payload", "job_id"))
    assert heard == [({"turn": turn.pk}, run.job_id)] * len(heard) != []  # there is news, not what was said
    told = client.get(reverse("chat_turn", args=[turn.pk])).json()
    assert told == {"is_open": False, "answers": {name: {"text": one.text, "note": ""} for name, one in sides.items()}}
    card = client.get(reverse("chat_turn_card", args=[turn.pk])).content.decode()
    assert "What does part 3 weigh?" in card and "<html" not in card
    assert client_of(trainer).get(talk.get_absolute_url()).status_code == 404
    assert (
        "What does part 3"
        not in client_of(trainer).get(reverse("conversation_list", args=[run.project_id])).content.decode()
    )

    turn.answers.filter(side="tuned").update(text="21 kg.")
    turn.answers.filter(side="base").update(text="Nobody knows.")
    client.post(reverse("conversation_ask", args=[talk.pk]), typed("And part 4?", system="Be brief."))
    asked = {one.side: services.messages_before(one) for one in talk.turns.last().answers.all()}
    assert [part["content"] for part in asked["base"]] == [
        "Be brief.", "What does part 3 weigh?\nIn kg.", "Nobody knows.", "And part 4?",
    ]  # fmt: skip
    assert asked["tuned"][2]["content"] == "21 kg."
    run_all("chat")
    assert talk.turns.last().answers.filter(state="done").count() == 2
    assert "part 3" in client.get(reverse("conversation_list", args=[run.project_id])).content.decode()


def test_an_answer_is_had_again_in_another_manner(run, viewer, client_of):
    turn = answered(begun(viewer, run), "")  # three tokens may be no word, and what stood there would come back
    client, talk = client_of(viewer), turn.conversation
    client.post(reverse("conversation_again", args=[talk.pk]), typed("", temperature="0.9", max_tokens="3"))
    talk.refresh_from_db()
    assert (talk.temperature, talk.max_tokens) == (0.9, 3)
    run_all("chat")
    assert all(one.tokens <= 3 and one.state == "done" for one in turn.answers.all())
    assert ChatTurn.objects.count() == 1
    later = services.ask(actor=viewer, conversation=talk, prompt="And 4?", manner=Manner())
    answered(later)
    with pytest.raises(TrainingError, match="Only the last question"):
        services.ask_again(actor=viewer, turn=turn, manner=Manner())


def test_another_try_that_is_stopped_brings_the_answer_back(run, viewer, client_of):
    turn = answered(begun(viewer, run))
    client, talk = client_of(viewer), turn.conversation
    client.post(reverse("conversation_again", args=[talk.pk]), typed(""))
    assert set(turn.answers.values_list("state", "text")) == {("waiting", "")}
    client.post(reverse("chat_turn_stop", args=[turn.pk]))
    assert set(turn.answers.values_list("state", "text")) == {("done", "It weighs 21 kg.")}


def test_a_stopped_answer_is_had_again_from_the_same_process(run, viewer, client_of, worker, settings):
    settings.CHAT_IDLE_SECONDS = 3
    client = client_of(viewer)
    client.post(reverse("run_chat", args=[run.pk]), LONG)
    turn = ChatTurn.objects.get()
    worker.start()
    until(lambda: turn.answers.exclude(text="").exists())
    client.post(reverse("chat_turn_stop", args=[turn.pk]))
    until(lambda: not ChatTurn.objects.get(pk=turn.pk).is_open)
    client.post(reverse("conversation_again", args=[turn.conversation_id]), typed("", max_tokens="3"))
    until(lambda: not ChatTurn.objects.get(pk=turn.pk).is_open)
    assert all(one.finish in ("length", "stop") and one.tokens <= 3 for one in turn.answers.all())
    assert Job.objects.filter(kind="training.chat").exclude(engine_pid=None).count() <= 1


def test_what_cannot_be_asked_is_told_and_not_lost(run, viewer, client_of):
    client = client_of(viewer)
    for fields, told in (
        (typed("  "), "Type a question first."),
        (typed("x" * 8001), "at most 8000 characters"),
        (typed("Q?", temperature="3"), "Temperature"),
        (typed("Q?", max_tokens="9999"), "Tokens at most"),
        (typed("Q?", temperature="nan"), "Temperature"),
    ):
        page = client.post(reverse("run_chat", args=[run.pk]), fields).content.decode()
        assert told in page, told
    assert not Conversation.objects.exists()
    turn = begun(viewer, run)
    page = client.post(reverse("conversation_ask", args=[turn.conversation_id]), typed("And then?")).content.decode()
    assert "still being answered" in page and "And then?" in page
    page = client.post(reverse("conversation_again", args=[turn.conversation_id]), typed("")).content.decode()
    assert "still being answered" in page
    Job.objects.filter(pk=run.job_id).update(state="failed")
    page = client.get(reverse("run_chat", args=[run.pk])).content.decode()
    assert "The run has no model yet" in page and "<textarea" not in page


def test_people_who_ask_at_once_share_one_process(run, trainer, project):
    gate = threading.Barrier(6)

    def ask():
        try:
            gate.wait()
            begun(trainer, run)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (ChatTurn.objects.count(), Job.objects.filter(kind="training.chat").count()) == (6, 1)
    run_all("chat")
    assert ChatAnswer.objects.filter(state="done").count() == 12
    assert Job.objects.filter(kind="training.chat").count() == 1


def test_stop_ends_what_waits_at_once_and_what_is_written_soon(run, viewer, client_of, worker):
    client, turn = client_of(viewer), begun(viewer, run)
    client.post(reverse("chat_turn_stop", args=[turn.pk]))
    assert {(one.state, one.finish, one.text) for one in turn.answers.all()} == {("done", "stopped", "")}

    client.post(reverse("conversation_ask", args=[turn.conversation_id]), LONG)
    turn = ChatTurn.objects.last()
    worker.start()
    until(lambda: turn.answers.filter(state="answering").exclude(text="").exists())
    client.post(reverse("chat_turn_stop", args=[turn.pk]))
    until(lambda: not ChatTurn.objects.get(pk=turn.pk).is_open)
    first, second = turn.answers.all()
    assert first.finish in ("stopped", "length") and second.finish == "stopped"
    assert first.text and len(second.text) < 200
    assert "stopped" in client.get(reverse("conversation", args=[turn.conversation_id])).content.decode()


def test_a_conversation_discarded_while_it_is_answered_is_gone(run, viewer, client_of, worker):
    client = client_of(viewer)
    client.post(reverse("run_chat", args=[run.pk]), LONG)
    turn = ChatTurn.objects.get()
    worker.start()
    until(lambda: turn.answers.exclude(text="").exists())
    client.post(reverse("conversation_discard", args=[turn.conversation_id]))
    worker.join(900)
    assert not ChatAnswer.objects.exists() and Job.objects.get(kind="training.chat").state == "succeeded"


def training(run, **fields) -> Job:
    return Job.objects.create(
        project=run.project, owner=run.created_by, kind="training.train", queue="gpu", label="Secret name",
        state="running", token="11111111-1111-1111-1111-111111111111", host=HOST, held_slots=[0],
        pid=os.getpid(), pid_started=start_time(os.getpid()),  # or it would count as lost
        lease_until=timezone.now() + timedelta(hours=1), **fields,
    )  # fmt: skip


def test_a_training_comes_first_and_the_page_says_so(run, viewer, client_of, worker, settings):
    client = client_of(viewer)
    client.post(reverse("run_chat", args=[run.pk]), LONG)
    turn = ChatTurn.objects.get()
    worker.start()
    until(lambda: turn.answers.filter(state="answering").exclude(text="").exists())
    shorten(turn)
    job = training(run, ends_at=timezone.now() + timedelta(minutes=12))
    states = lambda: set(turn.answers.values_list("state", flat=True))  # noqa: E731
    until(lambda: "waiting" in states() <= {"waiting", "done"})
    engine = Job.objects.get(kind="training.chat").engine_pid
    until(lambda: not Path(f"/proc/{engine}").exists())
    told = client.get(reverse("chat_turn", args=[turn.pk])).json()["answers"]["base"]["note"]
    assert re.fullmatch(r"A training or evaluation uses the device and comes first; this is answered when it has ended "
                        r"in about 1[12] min\.", told)  # fmt: skip
    Job.objects.filter(pk=job.pk).update(state="succeeded", token=None)
    worker.join(900)
    assert set(turn.answers.values_list("state", flat=True)) == {"done"}


def test_an_operator_may_let_both_use_the_device(run, viewer, settings):
    settings.CHAT_BESIDE_TRAINING = True
    turn = begun(viewer, run)
    training(run)
    run_all("chat")
    assert set(turn.answers.values_list("state", flat=True)) == {"done"}


def test_what_a_lost_process_left_is_answered_from_its_first_word(run, viewer, project, trainer):
    turn = begun(viewer, run)
    lost = Job.objects.create(
        project=project, owner=trainer, kind="training.chat", queue="chat", label="lost", state="cancelled"
    )
    turn.answers.filter(side="tuned").update(state="answering", text="Half of a", taken_by=lost)
    run_all("chat")
    assert set(turn.answers.values_list("state", flat=True)) == {"done"}
    assert not turn.answers.get(side="tuned").text.startswith("Half of a")
    turn.answers.filter(side="tuned").update(state="answering", text="Half of a", taken_by=lost)
    services.stop(turn=turn)
    assert turn.answers.get(side="tuned").finish == "stopped", "nobody else would have ended it"


def test_what_a_job_failed_on_for_good_takes_no_other_along(run, viewer, project, trainer):
    hopeless, other = begun(viewer, run), begun(trainer, run)
    failed = Job.objects.create(
        project=project, owner=trainer, kind="training.chat", queue="chat", label="failed", state="failed"
    )
    hopeless.answers.update(state="loading", taken_by=failed)
    run_all("chat")
    assert {one.state for one in hopeless.answers.all()} == {"failed"}
    assert "Ask again" in hopeless.answers.first().problem
    assert {one.state for one in other.answers.all()} == {"done"}


def test_an_operator_stops_the_process_and_nobody_waits_for_ever(
    run, viewer, trainer, operator, client_of, worker, settings
):
    settings.JOB_HEARTBEAT_SECONDS = 0.2
    client_of(viewer).post(reverse("run_chat", args=[run.pk]), LONG)
    first, second = ChatTurn.objects.get(), begun(trainer, run)
    worker.start()
    until(lambda: first.answers.filter(side="tuned").exclude(text="").exists())
    job = Job.objects.get(kind="training.chat", state="running")
    jobs.cancel(actor=operator, job=job)
    worker.join(900)
    assert {one.state for one in (*first.answers.all(), *second.answers.all())} <= {"failed", "done"}
    assert "An operator stopped the chat process" in second.answers.first().problem


def test_a_question_whose_job_is_gone_is_answered_all_the_same(run, viewer):
    turn = begun(viewer, run)
    Job.objects.filter(kind="training.chat").update(state="cancelled")
    services.call_for_waiting()
    services.call_for_waiting()
    assert Job.objects.filter(kind="training.chat", state="queued").count() == 1
    run_all("chat")
    assert set(turn.answers.values_list("state", flat=True)) == {"done"}
    services.call_for_waiting()
    assert not Job.objects.filter(kind="training.chat", state="queued").exists()


def test_a_project_deleted_while_it_is_answered_disturbs_nobody(run, viewer, owner, client_of, worker):
    client_of(viewer).post(reverse("run_chat", args=[run.pk]), LONG)
    turn = ChatTurn.objects.get()
    worker.start()
    until(lambda: turn.answers.exclude(text="").exists())
    delete_project(actor=owner, project=run.project)
    worker.join(900)
    assert not ChatTurn.objects.exists() and Job.objects.get(kind="training.chat").state == "succeeded"


def test_a_killed_chat_process_fails_one_answer_and_the_next_gets_another(run, viewer, client_of, worker):
    client = client_of(viewer)
    client.post(reverse("run_chat", args=[run.pk]), LONG)
    turn = ChatTurn.objects.get()
    worker.start()
    until(lambda: turn.answers.filter(side="tuned").exclude(text="").exists())
    shorten(turn)
    os.kill(Job.objects.get(kind="training.chat").engine_pid, 9)
    worker.join(900)
    first, second = turn.answers.all()
    assert (first.state, second.state) == ("failed", "done")
    assert "ended in the middle of the answer" in client.get(turn.conversation.get_absolute_url()).content.decode()


def test_a_model_that_cannot_be_loaded_says_why(run, viewer):
    turn = begun(viewer, run)
    shutil.rmtree(run.folder / "model")
    run_all("chat")
    answers = {one.side: one for one in turn.answers.all()}
    assert answers["base"].state == "done"
    assert answers["tuned"].state == "failed" and answers["tuned"].problem


def test_answers_become_examples_to_review(run, project, trainer, viewer, client_of):
    dataset = datasets.create_dataset(actor=trainer, project=project, name="From chats")
    turn = answered(begun(trainer, run))
    tuned, base_answer = turn.answers.all()
    client = client_of(trainer)
    page = client.get(reverse("answer_keep", args=[tuned.pk])).content.decode()
    assert "It weighs 21 kg." in page
    keep = lambda answer, **fields: client.post(  # noqa: E731
        reverse("answer_keep", args=[answer.pk]), {"dataset": dataset.pk, **fields}
    )
    assert "Write the better answer first" in keep(tuned, verdict="better", better="It weighs 21 kg.").content.decode()
    assert keep(tuned, verdict="better", better="21 kg, with its screws.").url == turn.conversation.get_absolute_url()
    example = Example.objects.get(dataset=dataset)
    assert (example.state, example.origin, example.model) == ("draft", "chat", "tiny:1, tuned in the run “R”")
    assert [part["content"] for part in example.text.messages] == ["What does part 3 weigh?", "21 kg, with its screws."]
    assert "from a chat with tiny:1, tuned in the run" in client.get(example.get_absolute_url()).content.decode()
    assert "Kept as an example" in client.get(turn.conversation.get_absolute_url()).content.decode()
    keep(base_answer, verdict="pair", better="21 kg.")
    pair = Example.objects.filter(dataset=dataset).last()
    assert pair.text.content == {
        "prompt": "What does part 3 weigh?", "chosen": "21 kg.", "rejected": "It weighs 21 kg.",
    }  # fmt: skip

    system = answered(begun(trainer, run, system="Be brief."))
    system.refresh_from_db()
    answer = system.answers.first()
    services.ask(actor=trainer, conversation=system.conversation, prompt="And 4?", manner=Manner(system="Be long."))
    assert "Be brief." in client.get(reverse("answer_keep", args=[answer.pk])).content.decode()
    assert "holds one question alone" in keep(answer, verdict="pair", better="21.").content.decode()
    later = answered(system.conversation.turns.last(), "84 kg.").answers.first()
    assert "One." not in client.get(reverse("answer_keep", args=[later.pk])).content.decode()
    keep(later, verdict="good", better="")
    assert [part["content"] for part in Example.objects.last().text.messages] == ["Be long.", "And 4?", "84 kg."]
    ChatAnswer.objects.filter(pk=later.pk).update(example=None)
    keep(later, verdict="good", better="", with_earlier="on")
    assert len(Example.objects.last().text.messages) == 5 and Example.objects.last().text.question == "And 4?"
    system.answers.update(finish="length")
    assert "was cut" in keep(answer, verdict="good", better="").content.decode()
    system.answers.update(finish="stop", text="One.\nTwo.")
    assert "Write the better answer" in keep(answer, verdict="better", better="One.\r\nTwo.").content.decode()
    keep(answer, verdict="good", better="")
    assert "kept already" in keep(answer, verdict="good", better="").content.decode()
    whole = Example.objects.filter(dataset=dataset).last()
    assert whole.text.messages[0]["content"] == "Be brief.", "the system prompt that it was asked with"
    assert [part["role"] for part in whole.text.messages] == ["system", "user", "assistant"]
    other = datasets.create_dataset(actor=trainer, project=make_project(trainer), name="Elsewhere")
    page = client.post(reverse("answer_keep", args=[answer.pk]), {"dataset": other.pk, "verdict": "good"})
    assert "Select a valid choice" in page.content.decode() and not other.examples.exists()


def make_project(person):
    from finetune_site.projects.services import create_project

    return create_project(actor=person, name="Other")


def test_what_nobody_saved_is_forgotten(run, viewer, client_of, settings):
    settings.CHAT_DAYS = 30
    talks = [begun(viewer, run).conversation for _ in range(3)]
    client_of(viewer).post(reverse("conversation_save", args=[talks[0].pk]))
    long_ago = timezone.now() - timedelta(days=31)
    Conversation.objects.filter(pk__in=[talks[0].pk, talks[1].pk]).update(asked_at=long_ago)
    services.forget_old()
    assert set(Conversation.objects.values_list("pk", flat=True)) == {talks[0].pk, talks[2].pk}


def test_two_processes_never_take_the_same_answer(run, viewer, project, trainer):
    turn = begun(viewer, run)
    four = [
        Job.objects.create(project=project, owner=trainer, kind="training.chat", queue="chat", label=str(number))
        for number in range(4)
    ]
    waiting, taken, gate = ChatAnswer.objects.filter(state="waiting"), [], threading.Barrier(4)

    def take(job):
        from django.db import transaction

        try:
            gate.wait()
            with transaction.atomic():
                if found := chatting._take(job, waiting):
                    taken.append(found.pk)
        finally:
            connection.close()

    threads = [threading.Thread(target=take, args=(job,)) for job in four]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) <= turn.answers.count()
