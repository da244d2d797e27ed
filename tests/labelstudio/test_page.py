"""A reviewer in Label Studio's own page, in a browser; the portal hears of it by webhook and by schedule."""

import time

import pytest
from django.utils.module_loading import import_string
from django_q.models import Schedule
from playwright.sync_api import expect

from finetune_site.jobs.dispatch import keep_schedules
from finetune_site.lib.label_studio import EMAIL
from tests.factories import run_all
from tests.labelstudio.conftest import PASSWORD
from tests.labelstudio.test_review import send, task_of

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
]


def judge_in_page(page, example, output: str) -> None:
    """Log in, open the example's task by the portal's own link, edit, approve, submit."""
    task = task_of(example)
    page.goto(f"{task.project.link.server.url}/user/login/")
    page.fill("input[name=email]", EMAIL)
    page.fill("input[name=password]", PASSWORD)
    page.click("button[type=submit]")
    page.wait_for_url("**/")
    page.goto(task.address)
    field = page.locator('textarea[name="output"]')
    expect(field).to_have_value("It is one.")
    expect(page.get_by_role("radio", name="approve")).not_to_be_checked()
    page.wait_for_load_state("networkidle")  # the page sets its fields a second time, as no person types that early
    field.fill(output)
    page.get_by_text("approve", exact=False).first.click()
    expect(field).to_have_value(output)
    with page.expect_response(lambda answer: "/annotations" in answer.url and answer.request.method == "POST"):
        page.get_by_role("button", name="Submit").click()


def wait_for(example, seconds: float) -> float:
    """Do the jobs that come until the example is approved; returns how long it took."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        run_all()
        example.refresh_from_db()
        if example.state == "approved":
            return time.monotonic() - start
        time.sleep(0.1)
    raise AssertionError(f"still {example.state} after {seconds} seconds")


def test_an_edit_and_approval_in_the_page_are_here_by_webhook(site, example, server, trainer, page, client_of):
    server.portal_url = site
    server.save()
    send(example.dataset, server, trainer)
    judge_in_page(page, example, "It is one, surely.")
    wait_for(example, 120)
    assert example.text.answer == "It is one, surely."
    page.goto(task_of(example).address)
    back = page.get_by_role("link", name="This example in the portal")
    expect(back).to_have_attribute("href", site + example.get_absolute_url())


def test_without_webhooks_the_schedule_brings_it(example, server, trainer, page, settings):
    send(example.dataset, server, trainer)
    judge_in_page(page, example, "It is one, surely.")
    run_all()
    example.refresh_from_db()
    assert example.state == "draft"
    keep_schedules()
    schedule = Schedule.objects.get(name="label studio")
    assert schedule.minutes == settings.LABEL_STUDIO_MINUTES
    import_string(schedule.func)()
    wait_for(example, 120)
    assert example.text.answer == "It is one, surely."
