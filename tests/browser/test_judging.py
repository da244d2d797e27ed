"""Verdicts by keyboard, and a model's judgement beside them, in a real browser."""

import pytest
from playwright.sync_api import expect

from tests.browser.test_journey import log_in, problems  # noqa: F401
from tests.ollama_double import MODEL, ollama_double

pytestmark = [pytest.mark.browser]
FACTS = [
    ("What oil does the gearbox take?", "The gearbox takes Lorvan 150.", "The gearbox takes oil.", "Lorvan 150"),
    ("How heavy is the gearbox?", "The gearbox weighs 730 kg.", "It is very heavy.", "730 kg"),
    ("What does the hopper hold?", "The hopper holds 540 litres.", "The hopper holds 540 litres.", "540 litres"),
    ("How many stages has the gearbox?", "It has two stages.", "I do not know.", "two"),
]


@pytest.fixture
def evaluation(site, project, trainer, bundled):
    from datasets_app.models import DatasetVersion, ModelServer
    from datasets_app.services import datasets
    from training_app.models import Evaluation, EvaluationRow, Run

    dataset = datasets.create_dataset(actor=trainer, project=project, name="Facts of the mill")
    version = DatasetVersion.objects.create(dataset=dataset, number=1, created_by=trainer)
    run = Run.objects.create(
        project=project, name="Run 1", version=version, base=bundled, method="dora", config={}, preset="balanced",
        created_by=trainer,
    )  # fmt: skip
    sums = {"rows": 4, "base_right": 1, "tuned_right": 4, "base_exact": 1, "tuned_exact": 4}
    means = {"base_f1": 0.5, "tuned_f1": 1.0, "base_rouge_l": 0.4, "tuned_rouge_l": 1.0}
    made = Evaluation.objects.create(run=run, created_by=trainer, summary={"sets": {"recall": {**sums, **means}}})
    for index, (question, tuned, base_answer, key) in enumerate(FACTS):
        EvaluationRow.objects.create(
            evaluation=made, index=index, set="recall", question=question, reference=tuned, answer_key=key,
            base_answer=base_answer, tuned_answer=tuned, base_score=key in base_answer, tuned_score=1,
            base_exact=base_answer == tuned, tuned_exact=True, base_f1=0.4, tuned_f1=1, base_rouge_l=0.3,
            tuned_rouge_l=1,
        )  # fmt: skip
    with ollama_double() as double:
        ModelServer.objects.create(name="House", provider="ollama", base_url=double.base_url, offered=MODEL)
        yield made


def test_people_and_a_model_judge_the_same_answers(page, site, workers, evaluation, shoot, problems):  # noqa: F811
    log_in(page, site, "trainer")
    page.goto(f"{site}/evaluations/{evaluation.pk}/")
    page.get_by_role("link", name="Give verdicts").click()
    expect(page.get_by_text("0 of 4 judged by you")).to_be_visible()
    first = page.locator("[data-review] form .card-body").first.inner_text()
    page.keyboard.press("1" if "Lorvan 150" in first else "3")
    expect(page.get_by_role("button", pressed=True)).to_have_count(1)
    shoot("verdicts")
    page.keyboard.press("6" if "Lorvan 150" in first else "4")
    expect(page.get_by_text("1 of 4 judged by you")).to_be_visible()
    page.keyboard.press("p")
    expect(page.get_by_role("button", pressed=True)).to_have_count(2)
    page.keyboard.press("n")
    for number in (2, 3, 4):
        expect(page.get_by_role("article", name=f"Question {number}")).to_be_visible()
        first = page.locator("[data-review] form .card-body").first.inner_text()
        page.keyboard.press("1" if FACTS[number - 1][3] in first else "3")
        expect(page.get_by_role("button", pressed=True)).to_have_count(1)
        second = page.locator("[data-review] form .card-body").last.inner_text()
        page.keyboard.press("4" if FACTS[number - 1][3] in second else "6")
        expect(page.get_by_text(f"{number} of 4 judged by you")).to_be_visible()
    expect(page.get_by_text("You have judged every answer here")).to_be_visible()

    page.get_by_role("link", name="Back to the evaluation").click()
    page.get_by_role("link", name="Have a model judge").click()
    page.get_by_role("button", name="Judge").click()
    expect(page.get_by_text("answers: 8 scored")).to_be_visible()  # live, without a reload
    expect(page.get_by_text("The same verdict on 8 of 8 answers (100 %), kappa 1.00")).to_be_visible()
    expect(page.get_by_text("Only 4 questions were judged by both")).to_be_visible()
    shoot("judgement")
    page.get_by_role("link", name="Against its base").click()
    expect(page.get_by_text("8 verdicts of 1 person")).to_be_visible()
