"""The playground in a real browser, with SmolLM2 tuned and untuned: words come one by one, stop stops, nobody else
sees them."""

from itertools import pairwise

import pytest
from playwright.sync_api import expect

from tests.browser.test_journey import log_in, problems  # noqa: F401
from training_app.models import ChatAnswer

pytestmark = [pytest.mark.browser, pytest.mark.slow]
# Notes in the page whenever the text of an answer changes, and when.
WATCH = """() => {
  window.grown = [];
  new MutationObserver(() => {
    const now = document.querySelector('[data-turn-open] [data-answer=base]')?.textContent ?? '';
    if (now && now !== window.grown.at(-1)) window.grown.push(now);
  }).observe(document.body, { childList: true, subtree: true, characterData: true });
}"""


def ask(page, question: str) -> None:
    page.get_by_label("Ask both models").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


def test_words_come_one_by_one_stop_stops_and_nobody_else_sees_them(
    page, site, workers, real_run, viewer, trainer, settings, browser, shoot, problems  # noqa: F811
):  # fmt: skip
    settings.CHAT_IDLE_SECONDS = 2
    log_in(page, site, "trainer")
    page.goto(f"{site}{real_run.get_absolute_url()}")
    page.get_by_role("link", name="Chat", exact=True).click()
    ask(page, "Who built the gearbox?")
    page.wait_for_url("**/chats/*/")
    own = page.url
    page.evaluate(WATCH)
    expect(page.get_by_role("link", name="Make an example of it").first).to_be_visible()

    # The second question is long to answer: without an adapter the model tells the story in circles. Another person
    # talks to the same model meanwhile.
    page.get_by_text("How it answers").click()
    page.get_by_label("System prompt").fill("You tell very long stories.")
    page.get_by_label("Tokens at most").fill("1500")
    page.evaluate("window.grown = []")
    ask(page, "Tell me a long story about a ship and its crew.")
    while len(grown := page.evaluate("window.grown")) < 8:
        page.wait_for_timeout(100)
    assert all(after.startswith(before) for before, after in pairwise(grown)), grown
    assert max(len(after.split()) - len(before.split()) for before, after in pairwise(grown)) <= 20
    shoot("chat")

    other = browser.new_context(viewport={"width": 1280, "height": 860}).new_page()
    log_in(other, site, "viewer")
    other.goto(f"{site}/runs/{real_run.pk}/chat/")
    expect(other.get_by_text("gearbox")).to_have_count(0)
    assert other.goto(own).status == 404
    other.goto(f"{site}/runs/{real_run.pk}/chat/")
    ask(other, "Name a colour.")
    expect(other.get_by_text("Waiting for its turn").first).to_be_visible()

    # A reload forgets nothing; stop stops.
    page.reload()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.get_by_text("Who built the gearbox?")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    expect(page.get_by_text("stopped").first).to_be_visible()
    story = ChatAnswer.objects.get(turn__prompt__startswith="Tell me", side="base")
    assert story.text.startswith(grown[-1].strip()) and page.get_by_text(story.text[:60]).count()
    assert story.finish == "stopped"

    # The other one's answer comes, and neither page holds a word of the other.
    expect(other.get_by_text("tokens in").first).to_be_visible()
    assert "Name a colour" not in page.content() and "long story" not in other.content()

    # Answered again in another manner; saved; found in the list; discarded.
    page.get_by_label("Temperature").fill("0.8")
    page.get_by_label("Tokens at most").fill("5")
    page.get_by_role("button", name="Answer again").click()
    expect(page.get_by_text("cut at the length chosen").first).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("saved", exact=True)).to_be_visible()
    page.get_by_role("link", name="Chats").first.click()
    shoot("chats")
    page.get_by_role("link", name="Who built the gearbox?").click()
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Discard").click()
    expect(page.get_by_text("saved", exact=True)).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Discard").click()
    expect(page.get_by_text("The conversation is forgotten.")).to_be_visible()
    expect(page.get_by_role("link", name="Who built the gearbox?")).to_have_count(0)
    assert problems == []
