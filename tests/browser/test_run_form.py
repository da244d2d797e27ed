"""The form of a run in a browser: what does not go together is greyed out, with the reason beside it."""

import pytest
from playwright.sync_api import expect

from tests.browser.test_journey import log_in

pytestmark = [pytest.mark.browser]


def test_what_does_not_go_together_is_greyed_out(page, site, project, trainer, version, base):
    log_in(page, site, "trainer")
    page.goto(f"{site}/projects/{project.pk}/runs/new")
    page.get_by_text("Every knob").click()
    quantization, pissa = page.get_by_label("Quantization"), page.get_by_label("Pissa")
    four_bits = quantization.locator("option[value='4bit']")

    # DoRA, as the form starts: PiSSA belongs to LoRA.
    reason = page.locator("[data-barred=pissa]")
    expect(reason).to_contain_text("pissa goes with method lora")
    expect(pissa.locator("option[value='True']")).to_be_disabled()
    expect(four_bits).to_be_enabled()
    expect(page.get_by_label("Processes")).to_be_disabled()  # one device here

    page.get_by_label("LoRA trains small matrices").check()
    expect(reason).to_have_count(0)
    pissa.select_option("True")
    expect(four_bits).to_be_disabled()

    # What is chosen stays, with the reason: it is for the person to take back.
    pissa.select_option("")
    expect(four_bits).to_be_enabled()
    quantization.select_option("4bit")
    page.get_by_label("Full fine-tuning").check()
    expect(page.locator("[data-barred=quantization]")).to_contain_text("a base held in few bits cannot be changed")
    expect(quantization).to_have_value("4bit")
    expect(page.get_by_label("Lora plus")).to_be_disabled()
