"""A document in a real browser: its page's picture, and each piece lit where it stands."""

import re

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from datasets_app.services import documents
from tests.browser.test_journey import MANUAL, log_in, problems  # noqa: F401  a fixture

pytestmark = [pytest.mark.browser]


def test_a_piece_is_found_on_the_page_and_from_the_page(page, site, workers, project, trainer, shoot, problems):  # noqa: F811
    made = documents.upload_document(
        actor=trainer, project=project, name="manual.pdf", blocks=[MANUAL.read_bytes()]
    ).document
    log_in(page, site, "trainer")
    page.goto(site + reverse("document", args=[made.pk]))
    picture = page.get_by_role("img", name=re.compile("^Page 1 of"))
    expect(picture).to_be_visible(timeout=300_000)  # live, once it is parsed
    assert abs(picture.evaluate("image => image.decode().then(() => image.naturalWidth)") - 1000) <= 1
    page.get_by_label("Page", exact=True).fill("4")
    page.get_by_role("button", name="Show page").click()
    cell = page.get_by_role("cell", name="Lorvan 150")
    expect(cell).to_be_visible()
    cell.click()
    chosen = page.locator("[data-mark].is-chosen")
    expect(chosen).to_have_count(1)
    shoot("document-page")
    mark = page.locator("[data-mark]").first
    mark.hover()
    expect(page.locator(".element.is-lit")).to_have_id(mark.get_attribute("data-mark"))
    page.get_by_role("link", name="Next page").click()
    expect(page.get_by_role("img", name=re.compile("^Page 5 of"))).to_be_visible()
