"""Judging an evaluation: by a model on a registered server, by people, and how far both agree."""

import os
import re

import pytest
from django.contrib.auth.models import User
from django.urls import reverse

from datasets_app.models import DatasetVersion, ModelServer
from datasets_app.services import datasets
from finetune_site.jobs import services as jobs
from finetune_site.projects.models import AuditEntry
from tests.factories import run_all
from tests.ollama_double import DIGEST, MODEL, ollama_double
from training_app.engine.rubric import DEFAULT
from training_app.models import Evaluation, EvaluationRow, Grade, Judgement, Rubric, Run, Verdict
from training_app.services import judging as services
from training_app.services.runs import TrainingError

pytestmark = pytest.mark.django_db


@pytest.fixture
def server(monkeypatch):
    """An address that operators registered, with the server behind it."""
    with ollama_double() as double:
        row = ModelServer(name="House", provider="ollama", base_url=double.base_url, offered=MODEL)
        row.key_variable = "FINETUNE_LLM_HOUSE"
        row.save()
        double.row = row
        monkeypatch.setenv("FINETUNE_LLM_HOUSE", "a key")
        yield double


@pytest.fixture
def evaluation(project, trainer, base):
    """24 questions of which the tuned model has all right, the base every third."""
    dataset = datasets.create_dataset(actor=trainer, project=project, name="Facts")
    version = DatasetVersion.objects.create(dataset=dataset, number=1, created_by=trainer)
    run = Run.objects.create(
        project=project, name="Run 1", version=version, base=base, method="lora", config={},
        preset="balanced", created_by=trainer,
    )  # fmt: skip
    sums = {"rows": 24, "base_right": 8, "tuned_right": 24, "base_f1": 0.5, "tuned_f1": 1.0}
    made = Evaluation.objects.create(run=run, created_by=trainer, summary={"sets": {"recall": sums}})
    for number in range(24):
        reference = f"{number} kg"
        EvaluationRow.objects.create(
            evaluation=made, index=number, set="recall", question=f"What does part {number} weigh?",
            reference=reference, base_answer=reference if number % 3 == 0 else "many stones",
            tuned_answer=f"It weighs {reference}.", base_score=number % 3 == 0, tuned_score=1,
        )  # fmt: skip
    return made


def judge(client, evaluation, server, **typed):
    fields = {"model": f"{server.row.pk}:{MODEL}", "sets": ["recall"], "max_rows": 100, "rubric": DEFAULT, **typed}
    return client.post(reverse("judgement_create", args=[evaluation.pk]), fields)


def test_a_model_judges_and_people_say_whether_to_trust_it(
    evaluation, server, trainer, reviewer, viewer, client_of, monkeypatch, settings
):
    monkeypatch.setitem(os.environ, "FINETUNE_LLM_HOUSE", "a-secret-key")
    assert judge(client_of(trainer), evaluation, server).status_code == 302
    judgement = Judgement.objects.get()
    waiting = client_of(viewer).get(judgement.get_absolute_url()).content.decode()
    assert "48 waiting" in waiting and "Stop" in waiting
    run_all()
    judgement = Judgement.objects.get()
    assert judgement.job.state == "succeeded", judgement.job.error_text
    assert (judgement.job.done, judgement.job.total) == (48, 48)
    assert judgement.digest == DIGEST
    scores = {
        side: list(judgement.grades.filter(side=side).values_list("score", flat=True)) for side in ("base", "tuned")
    }
    assert scores == {"base": [5, 1, 1] * 8, "tuned": [5] * 24}
    assert judgement.sets["recall"]["tuned_better"] == 16
    assert server.keys == {"Bearer a-secret-key"}
    pages = [client_of(viewer).get(url).content.decode() for url in _pages(judgement)]
    assert "Nobody knows yet" in pages[0] and "It says “many stones”." in pages[0] and "<html" not in pages[1]
    assert "5 of 5" in pages[0] and judgement.rubric.sha256[:15] in pages[0] and DIGEST[:15] in pages[0]
    assert not any("a-secret-key" in page for page in pages)
    assert not any("a-secret-key" in path.read_text() for path in settings.DATA_DIR.rglob("*.json"))

    for row in evaluation.rows.all()[:19]:
        services.give_verdict(actor=reviewer, row=row, side="base", verdict="wrong", is_blind=True)
        services.give_verdict(actor=reviewer, row=row, side="tuned", verdict="right", is_blind=True)
    page = client_of(viewer).get(judgement.get_absolute_url()).content.decode()
    assert "The same verdict on 31 of 38 answers (82 %)" in page and "Only 19 questions" in page
    row = evaluation.rows.get(index=20)
    services.give_verdict(actor=reviewer, row=row, side="tuned", verdict="right", is_blind=True)
    agreed = Judgement.objects.get().agreement()
    assert (agreed.rows, agreed.answers, agreed.warning) == (20, 39, "")
    page = client_of(viewer).get(reverse("evaluation", args=[evaluation.pk])).content.decode()
    card = client_of(viewer).get(reverse("run_card", args=[evaluation.run_id])).content.decode()
    assert f"Judged by {MODEL} (`{DIGEST}`)" in card and "recall 2.33 → 5.00" in card and agreed.sentence in card
    assert "39 verdicts of 1 person" in page and "right were 0 of 19 answers of the base model" in page


def _pages(judgement):
    body = reverse("judgement_body", args=[judgement.pk])
    return [judgement.get_absolute_url(), body, reverse("evaluation", args=[judgement.evaluation_id])]


def test_a_server_that_comes_back_is_asked_for_what_is_left(evaluation, server, trainer, client_of):
    server.is_up = False
    judge(client_of(trainer), evaluation, server, max_rows=5)
    run_all()
    judgement = Judgement.objects.get()
    assert (judgement.job.state, judgement.job.error_code) == ("failed", "input")
    assert "does not judge" in judgement.job.error_text
    assert judgement.grades.filter(outcome=Grade.FAILED).count() == 8
    assert judgement.grades.filter(outcome=Grade.WAITING).count() == 2
    page = client_of(trainer).get(judgement.get_absolute_url()).content.decode()
    assert "the server failed" in page and "Start again" in page
    server.is_up = True
    jobs.requeue(actor=trainer, job=judgement.job)
    run_all()
    judgement = Judgement.objects.get()
    assert judgement.job.state == "succeeded", judgement.job.error_text
    assert set(judgement.grades.values_list("outcome", flat=True)) == {Grade.SCORED}
    assert len(server.asked) == 10


def test_a_key_that_is_missing_is_named(evaluation, server, trainer, client_of, monkeypatch):
    monkeypatch.delenv("FINETUNE_LLM_HOUSE")
    judge(client_of(trainer), evaluation, server, max_rows=5)
    run_all()
    told = Judgement.objects.get().job
    assert told.error_code == "input" and "FINETUNE_LLM_HOUSE, the key of House, is not set" in told.error_text


def test_questions_with_verdicts_are_judged_first(evaluation, server, trainer, reviewer, client_of):
    row = evaluation.rows.get(index=17)
    services.give_verdict(actor=reviewer, row=row, side="base", verdict="partly", is_blind=False)
    judge(client_of(trainer), evaluation, server, max_rows=3)
    asked = set(Judgement.objects.get().grades.values_list("row__index", flat=True))
    assert asked == {17, 0, 1}


def test_a_rubric_is_kept_in_versions(evaluation, server, trainer, client_of):
    judge(client_of(trainer), evaluation, server)
    Judgement.objects.update(job=None)
    judge(client_of(trainer), evaluation, server, rubric=f"{DEFAULT}\r\n")  # as a browser sends it
    Judgement.objects.update(job=None)
    judge(client_of(trainer), evaluation, server, rubric="5: right. 1: wrong.")
    assert list(Rubric.objects.values_list("number", "text")) == [(2, "5: right. 1: wrong."), (1, DEFAULT)]
    assert list(Judgement.objects.order_by("pk").values_list("rubric__number", flat=True)) == [1, 1, 2]
    form = reverse("judgement_create", args=[evaluation.pk])
    assert "5: right. 1: wrong.</textarea>" in client_of(trainer).get(form).content.decode()
    first = Rubric.objects.get(number=1)
    assert "Judge only whether" in client_of(trainer).get(f"{form}?rubric={first.pk}").content.decode()
    assert AuditEntry.objects.filter(verb="wrote").count() == 2
    assert AuditEntry.objects.filter(verb="had a model judge the").count() == 3


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"model": "1:another"}, "Select a valid choice"),
        ({"rubric": "  "}, "This field is required"),
        ({"sets": []}, "This field is required"),
        ({"sets": ["general"]}, "Select a valid choice"),
        ({"max_rows": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_judged_is_refused_on_the_form(typed, said, evaluation, server, trainer, client_of):
    answer = judge(client_of(trainer), evaluation, server, **typed)
    assert answer.status_code == 200 and said in answer.content.decode()
    assert not Judgement.objects.exists()


def test_one_judgement_at_a_time_and_only_of_answers(evaluation, server, trainer, client_of):
    judge(client_of(trainer), evaluation, server)
    assert "are being judged already" in judge(client_of(trainer), evaluation, server).content.decode()
    Evaluation.objects.update(summary={})
    with pytest.raises(TrainingError, match="no answers yet"):
        services.start_judgement(
            actor=trainer, evaluation=Evaluation.objects.get(), server=server.row, model=MODEL, rubric=DEFAULT,
            sets=["recall"], max_rows=5,
        )  # fmt: skip
    page = client_of(trainer).get(reverse("judgement_create", args=[evaluation.pk])).content.decode()
    assert "nothing to judge yet" in page


def test_without_a_model_server_the_page_says_who_can_register_one(evaluation, trainer, client_of):
    page = client_of(trainer).get(reverse("judgement_create", args=[evaluation.pk])).content.decode()
    assert "No model server is registered" in page and "<textarea" not in page


def shown(client, evaluation, query=""):
    return client.get(reverse("verdicts_card", args=[evaluation.pk]) + query).content.decode()


def texts(card):
    return re.findall(r'card-body text-pre">(.*?)</div>', card, re.S)


def test_verdicts_are_given_blind(evaluation, reviewer, client_of):
    client, orders = client_of(reviewer), set()
    for row in evaluation.rows.all():
        card = shown(client, evaluation, f"?show={row.index}")
        assert "<html" not in card and not re.search(r"\b(tuned|Tuned|Base)\b", card)
        first, second = texts(card)
        assert {first, second} == {row.base_answer, row.tuned_answer}
        orders.add(first == row.base_answer)
        of_base = "first" if first == row.base_answer else "second"
        client.post(reverse("verdict_give", args=[row.pk]), {"verdict": f"{of_base} wrong"})
    assert orders == {True, False}  # neither always stands first
    given = Verdict.objects.order_by().values_list("side", "verdict", "by", "is_blind").distinct()
    assert list(given) == [("base", "wrong", reviewer.pk, True)]
    assert Verdict.objects.count() == 24


def test_both_verdicts_lead_to_the_next_question(evaluation, reviewer, client_of):
    client = client_of(reviewer)
    row = evaluation.rows.get(index=0)
    give = reverse("verdict_give", args=[row.pk])
    card = client.post(give, {"verdict": "first right"}, headers={"HX-Request": "true"}).content.decode()
    assert "What does part 0 weigh?" in card and "<html" not in card
    assert card.count('aria-pressed="true"') == 1
    card = client.post(give, {"verdict": "second partly"}, headers={"HX-Request": "true"}).content.decode()
    assert "What does part 1 weigh?" in card and "1 of 24 judged by you" in card
    answer = client.post(give, {"verdict": "first wrong"})  # without JavaScript, and changed
    assert answer.url == f"{reverse('verdicts', args=[evaluation.pk])}?after=0"
    assert sorted(row.verdicts.values_list("verdict", flat=True)) == ["partly", "wrong"]
    assert 'data-key="6"' in shown(client, evaluation)


def test_whoever_sees_whose_answer_it_is_has_not_judged_blind(evaluation, reviewer, client_of):
    client, row = client_of(reviewer), evaluation.rows.get(index=1)
    card = shown(client, evaluation, "?open=1&show=1")
    assert '<h3 class="card-title">Base</h3>' in card and '<input type="hidden" name="open" value="1">' in card
    client.post(reverse("verdict_give", args=[row.pk]), {"verdict": "first right", "open": "1"})
    assert Verdict.objects.get().is_blind is False


@pytest.mark.parametrize("typed", ["", "first", "third right", "first excellent"])
def test_what_is_no_verdict_is_not_kept(typed, evaluation, reviewer, client_of):
    give = reverse("verdict_give", args=[evaluation.rows.get(index=2).pk])
    answer = client_of(reviewer).post(give, {"verdict": typed}, headers={"HX-Request": "true"})
    assert "must be one of" in answer.content.decode() and "What does part 2 weigh?" in answer.content.decode()
    assert not Verdict.objects.exists()


def test_each_person_has_a_verdict_of_their_own(evaluation, reviewer, owner, client_of):
    row = evaluation.rows.get(index=0)
    for person, verdict in ((reviewer, "right"), (owner, "wrong"), (owner, "partly")):
        services.give_verdict(actor=person, row=row, side="tuned", verdict=verdict, is_blind=True)
    given = dict(row.verdicts.values_list("by__username", "verdict"))
    assert given == {"reviewer": "right", "owner": "partly"}
    assert "0 of 24 judged by you" in shown(client_of(User.objects.get(username="trainer")), evaluation)


def test_a_project_with_rubrics_and_verdicts_can_be_deleted(evaluation, server, trainer, owner, reviewer, client_of):
    from finetune_site.projects.services import delete_project

    judge(client_of(trainer), evaluation, server)
    services.give_verdict(actor=reviewer, row=evaluation.rows.first(), side="base", verdict="right", is_blind=True)
    delete_project(actor=owner, project=evaluation.run.project)
    assert not Rubric.objects.exists() and not Verdict.objects.exists()
