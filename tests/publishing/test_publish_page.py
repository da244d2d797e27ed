"""Publishing in a real browser: the steps come by themselves, the gate is overridden, and one click rolls back."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.test_journey import log_in, problems  # noqa: F401
from tests.publishing.conftest import judge
from training_app.ollama import Client

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def publish_in_page(page, name: str, system: str = "") -> None:
    page.get_by_role("link", name="Publish", exact=True).click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("System prompt").fill(system)
    page.get_by_label("Temperature").fill("0")
    page.get_by_role("button", name="Publish").click()


def answer_of(double, name: str) -> str:
    with Client(double.base_url) as client:
        return client.chat(name, [{"role": "user", "content": "Who are you?"}], num_predict=8, temperature=0).text


def ask_in_chat(page, site, model) -> str:
    """What the published model answers in the portal's own chat."""
    page.goto(f"{site}{model.get_absolute_url()}")
    page.get_by_role("link", name="Chat", exact=True).click()
    page.get_by_text("How it answers").click()
    page.get_by_label("Tokens at most").fill("8")
    page.get_by_label("Ask", exact=True).fill("Who are you?")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_text(re.compile(r"tokens? in"))).to_be_visible()
    return page.locator("[data-answer=published]").inner_text()


def test_published_held_overridden_and_rolled_back(
    page, site, workers, real_run, ollama, double, owner, trainer, settings, shoot, problems  # noqa: F811
):  # fmt: skip
    run, settings.CHAT_IDLE_SECONDS = real_run, 1
    log_in(page, site, "owner")
    page.goto(f"{site}{run.get_absolute_url()}")
    publish_in_page(page, "gearbox")
    expect(page.get_by_text("published", exact=True)).to_be_visible()
    expect(page.get_by_text("given in Go's language")).to_be_visible()
    shoot("publication")
    first = answer_of(double, "ft/gearbox")
    model = run.project.published_models.get()
    assert ask_in_chat(page, site, model) == first

    judge(run, trainer, {"recall": (6, 2, 1, 1), "general": (10, 8, 4, 3)})
    page.goto(f"{site}{run.get_absolute_url()}")
    publish_in_page(page, "gearbox", "You are a pirate and say Arr.")
    expect(page.get_by_text("The gate holds it").first).to_be_visible()
    shoot("publication-held")
    assert answer_of(double, "ft/gearbox") == first
    page.get_by_label("Publish it all the same, because").fill("A trial for two days")
    page.get_by_role("button", name="Override").click()
    expect(page.get_by_text("published it although the gate held it: A trial for two days")).to_be_visible()
    expect(page.get_by_text("published", exact=True)).to_be_visible()
    second = double.models["ft/gearbox:latest"].system
    assert second == "You are a pirate and say Arr."
    pirate = ask_in_chat(page, site, model)
    assert pirate != first

    page.goto(f"{site}{model.get_absolute_url()}")
    expect(page.get_by_role("link", name="version 2")).to_be_visible()
    page.get_by_role("button", name="Roll back to it").click()
    expect(page.get_by_text("owner moved it from v2 to v1")).to_be_visible()
    shoot("published-model")
    assert double.models["ft/gearbox:latest"].system == "" and answer_of(double, "ft/gearbox") == first
    assert ask_in_chat(page, site, model) == first, "rolled back, it says what it said before"
