"""One's own account in a real browser: theme, second factor, sessions; under the site's strict policy."""

import pytest
from allauth.mfa.models import Authenticator
from django.core.cache import cache
from playwright.sync_api import expect

from finetune_site.accounts.models import Profile
from tests.browser.test_journey import log_in, problems  # noqa: F401
from tests.factories import PASSWORD
from tests.site.test_accounts import code_for

pytestmark = [pytest.mark.browser]


@pytest.fixture(autouse=True)
def _no_limits_left(transactional_db):
    cache.clear()


def test_the_theme_goes_with_the_person(page, site, viewer, problems):  # noqa: F811
    log_in(page, site, "viewer")
    with page.expect_response("**/account/theme"):
        page.get_by_label("Switch between light and dark").click()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    page.evaluate("localStorage.clear()")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    page.wait_for_load_state()  # the menu opens by a script
    page.get_by_label("Open your menu").click()
    page.get_by_role("link", name="Your account").click()
    page.get_by_label("Theme").select_option("As my system says")
    page.get_by_label("Time zone").select_option("Asia/Tokyo")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "light")
    assert Profile.objects.get(user=viewer).time_zone == "Asia/Tokyo"
    assert problems == []


def test_a_second_factor_from_its_code_to_the_next_login(page, site, viewer, problems):  # noqa: F811
    log_in(page, site, "viewer")
    page.goto(f"{site}/account/second-factor/")
    page.get_by_role("link", name="Activate").click()
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_alt_text("QR code of the secret below")).to_be_visible()
    secret = page.get_by_label("Authenticator secret").input_value()
    page.get_by_label("Authenticator code").fill(code_for(secret))
    page.get_by_role("button", name="Activate").click()
    expect(page.get_by_label("Unused codes")).to_be_visible()
    codes = page.get_by_label("Unused codes").input_value().split()
    assert len(codes) == 10 and Authenticator.objects.filter(user=viewer).count() == 2
    page.wait_for_load_state()  # the menu opens by a script
    page.get_by_label("Open your menu").click()
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Username or e-mail").fill("viewer@example.org")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_label("Code").fill(codes[0])
    page.get_by_role("button", name="Sign In").click()
    expect(page.get_by_role("heading", name="Projects")).to_be_visible()
    page.goto(f"{site}/account/sessions/")
    expect(page.get_by_text("Current")).to_be_visible()
    assert problems == []
