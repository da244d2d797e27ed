"""The page of a run while the run goes: all comes by itself, survives a reload, and is the same in two tabs."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_journey import log_in
from tests.factories import run_all

pytestmark = [pytest.mark.browser]
KNOBS = {"epochs": 60.0, "batch_rows": 4, "rank": 4, "eval_every": 40, "checkpoint_every": 50}


def test_the_page_of_a_run_lives(page, site, project, trainer, version, base, request, settings, shoot):
    from training_app.services.runs import plan_run

    settings.CHAT_IDLE_SECONDS = 1
    what = {"name": "Live", "version": version, "base": base, "method": "lora", "preset": "quick", "config": KNOBS}
    run = plan_run(actor=trainer, project=project, **what)
    run_all()  # the look before it starts
    run.refresh_from_db()
    request.getfixturevalue("workers")
    problems: list[str] = []
    other = page.context.new_page()
    for tab in (page, other):
        tab.on("pageerror", lambda error: problems.append(str(error)))
    log_in(page, site, "trainer")
    page.goto(f"{site}{run.get_absolute_url()}")
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("[data-chart] canvas")).to_be_visible()

    # Curves grow without a reload.
    page.evaluate("window.isTheSamePage = true")
    grown(page, beyond=steps(page))
    assert page.evaluate("window.isTheSamePage")

    # A second tab, opened in the middle, knows all that the first does; what comes then reaches both.
    other.goto(page.url)
    grown(other, beyond=steps(page))
    expect(other.locator("[data-metric=validation_loss]")).to_have_text(re.compile(r"\d\.\d"))
    expect(other.get_by_text("What it answers")).to_be_visible()
    expect(other.get_by_text("learnt worst")).to_be_visible()
    page.get_by_role("button", name="Learning rate").click()
    expect(page.get_by_role("button", name="Learning rate")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Checkpoint now").click()
    expect(page.locator("[data-chart] canvas")).to_be_visible()
    shoot("run-live")

    # A reload forgets nothing.
    before = steps(page)
    page.reload()
    grown(page, beyond=before)

    # Stopped, it keeps what it has; resumed, it goes on to the end. The other tab sees it without being touched.
    page.get_by_role("button", name="Stop and keep").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    expect(other.get_by_role("button", name="Resume")).to_be_visible()
    assert last_step(page) == last_step(other) < run.preview["steps"]
    page.get_by_role("button", name="Resume").click()
    expect(other.get_by_role("link", name="Chat", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="Chat", exact=True)).to_be_visible()
    for tab in (page, other):
        expect(tab.locator("[data-chart-table] tbody td").first).to_have_text(str(run.preview["steps"]))
    assert table(page) == table(other)
    kept = run.metrics.filter(name="loss").order_by("step").values_list("step", flat=True)
    assert list(kept) == list(range(1, run.preview["steps"] + 1))
    assert problems == []


def table(tab: Page) -> list[str]:
    return tab.locator("[data-chart-table] tbody tr").all_text_contents()


def steps(tab: Page) -> int:
    return tab.locator("[data-chart-table] tbody tr").count()


def last_step(tab: Page) -> int:
    return int(tab.locator("[data-chart-table] tbody td").first.text_content() or 0)


def grown(tab: Page, beyond: int) -> None:
    """Wait until the tab knows more than so many steps."""
    expect(tab.locator("[data-chart-table] tbody tr").nth(beyond)).to_be_attached()
