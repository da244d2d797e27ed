"""Every page there is, in both themes and on a phone: axe-core finds nothing serious, nothing runs off the screen."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from playwright.sync_api import expect

from tests.browser.test_journey import problems  # noqa: F401
from tests.site.test_access import ASKER, PUBLIC, TABLE, things  # noqa: F401

pytestmark = [pytest.mark.browser, pytest.mark.slow]
DESK, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
SERIOUS = ("serious", "critical")
RUNS_OVER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def pages(page, site: str, things, person: str) -> list[str]:  # noqa: F811
    """Where this person gets a page to look at, not a fragment or a file."""
    found = []
    for name, row in TABLE.items():
        if row.method != "get" or name == "live" or whose(row) != person:
            continue
        answer = page.request.get(site + reverse(name, kwargs=things[row.of]))
        assert answer.status < 500, answer.url
        if is_page(answer):
            found.append(answer.url)
    return found


def whose(row) -> str:
    return {PUBLIC: "anonymous", ASKER: "viewer"}.get(row.least, "operator")


def is_page(answer) -> bool:
    return answer.ok and "text/html" in answer.headers["content-type"] and "<html" in answer.text()


def faults(page, address: str) -> list[str]:
    """What is wrong with one page: what axe-core finds in each theme, and what a phone would have to scroll to."""
    page.set_viewport_size(DESK)
    page.emulate_media(reduced_motion="reduce")  # a colour on its way from one theme to the other is neither's
    page.goto(address)
    found = []
    for theme in ("light", "dark"):
        page.evaluate("theme => document.documentElement.setAttribute('data-bs-theme', theme)", theme)
        for fault in Axe().run(page).response["violations"]:
            if fault["impact"] in SERIOUS:
                places = [node["html"][:160] for node in fault["nodes"]]
                found.append(f"{address} {theme}: {fault['id']}: {places[:3]}")
    page.set_viewport_size(PHONE)
    if over := page.evaluate(RUNS_OVER):
        found.append(f"{address} is {over} pixels too wide for a phone")
    return found


@pytest.mark.parametrize("person", ["operator", "viewer", "anonymous"])
def test_every_page_is_for_everybody(page, site, things, operator, person, problems):  # noqa: F811
    if person != "anonymous":
        page.context.add_cookies([{**session_of(User.objects.get(username=person)), "url": site}])
    mine = pages(page, site, things, person)
    assert len(mine) >= {"operator": 40, "viewer": 1, "anonymous": 5}[person]
    wrong = [fault for address in mine for fault in faults(page, address)]
    assert wrong == [], "\n".join(wrong)


def test_what_is_seen_before_signing_in_is_for_everybody(page, site, things, problems):  # noqa: F811
    public = [reverse(name, kwargs=things[row.of]) for name, row in TABLE.items() if row.least == PUBLIC]
    looked_at = [site + path for path in public if is_page(page.request.get(site + path))]
    assert len(looked_at) >= 2
    wrong = [fault for address in looked_at for fault in faults(page, address)]
    assert wrong == [], "\n".join(wrong)


def test_the_administration_keeps_to_the_policy(page, site, things, operator, problems):  # noqa: F811
    page.context.add_cookies([{**session_of(operator), "url": site}])
    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"
        assert page.goto(site + reverse(name)).ok
        if (change := page.locator("#result_list tbody th a").first).count():
            change.click()
            page.wait_for_load_state()


def test_the_keys_do_what_their_list_says(page, site, things, operator, problems):  # noqa: F811
    page.context.add_cookies([{**session_of(operator), "url": site}])
    page.set_viewport_size(DESK)
    page.goto(site)
    keys = page.get_by_role("dialog", name="Keyboard")
    expect(keys).to_be_hidden()
    page.keyboard.press("?")
    expect(keys).to_be_visible()
    page.keyboard.press("Escape")
    expect(keys).to_be_hidden()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("a.t")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="a.txt")).to_be_visible()


def session_of(user: User) -> dict[str, str]:
    client = Client()
    client.force_login(user)
    return {"name": "sessionid", "value": client.cookies["sessionid"].value}
