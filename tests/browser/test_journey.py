"""The journey as people walk it: each step in a real browser, by mouse and by keyboard."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.engine.tiny import make_tiny_model
from tests.factories import PASSWORD

pytestmark = [pytest.mark.browser]
MANUAL = Path("datasets_app/samples/kestrel-40-manual.pdf")


def log_in(page, site, name):
    page.goto(f"{site}/login")
    page.get_by_label("Username or e-mail").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Projects")).to_be_visible()


@pytest.fixture
def problems(page):
    """What the browser complained about; a page that throws, or does what its policy forbids, fails the test."""
    found = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", lambda told: "Content Security Policy" in told.text and found.append(told.text))
    yield found
    assert found == []


def test_from_a_document_to_a_model_that_answers(
    page, site, workers, project, trainer, shoot, problems, settings, tmp_path
):
    from training_app.models import BaseModel

    settings.ENGINE_THREADS = 1
    settings.CHAT_IDLE_SECONDS = 1
    BaseModel.objects.all().delete()
    BaseModel.objects.create(
        name="tiny:1", title="Tiny", source="folder", location=str(make_tiny_model(tmp_path / "tiny"))
    )
    log_in(page, site, "trainer")
    page.get_by_role("link", name="Kestrel").first.click()
    expect(page.get_by_text("Upload the documents that the model should know.")).to_be_visible()
    shoot("project-empty")

    page.get_by_role("link", name="Upload documents").click()
    page.get_by_label("Drop files here or choose them").set_input_files(MANUAL)
    page.get_by_role("button", name="Upload").click()
    row = page.get_by_role("row", name=re.compile("kestrel-40-manual.pdf"))
    expect(row.get_by_text("done")).to_be_visible()  # live, without a reload
    expect(row.get_by_role("cell", name="10", exact=True)).to_be_visible()  # its pages, with it
    shoot("documents")
    row.get_by_role("link").click()
    expect(page.get_by_role("img", name=re.compile("^Page 1 of"))).to_be_visible()
    page.get_by_role("link", name="All text").click()
    expect(page.get_by_role("cell", name="Lorvan 150")).to_be_visible()
    shoot("document")

    page.get_by_role("link", name="Datasets").click()
    page.get_by_role("link", name="New dataset").first.click()
    page.get_by_label("Name").fill("Facts of the mill")
    page.get_by_role("button", name="Create dataset").click()
    page.get_by_role("link", name="Generate from documents").click()
    page.get_by_label("kestrel-40-manual.pdf").check()
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("10 made")).to_be_visible()
    shoot("generation")

    page.get_by_role("link", name="Review", exact=True).click()
    expect(page.locator("mark")).to_be_visible()
    first = page.locator("article h2").inner_text()
    shoot("review")
    page.keyboard.press("a")
    expect(page.get_by_text("1 of 558 judged")).to_be_visible()
    page.keyboard.press("u")
    expect(page.get_by_text("0 of 558 judged")).to_be_visible()
    expect(page.locator("article h2")).to_have_text(first)
    page.keyboard.press("r")
    page.keyboard.press("n")  # while the answer to the r is under way it does nothing: nobody judges unseen
    expect(page.get_by_text("1 of 558 judged")).to_be_visible()
    page.keyboard.press("n")
    expect(page.get_by_text("1 of 558 judged")).to_be_visible()
    page.get_by_role("link", name="All examples").click()
    page.get_by_label("State").select_option("draft")
    page.get_by_role("button", name="Filter").click()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Approve all 557").click()
    expect(page.get_by_text("557 examples are approved.")).to_be_visible()

    page.get_by_role("link", name="Facts of the mill").first.click()
    page.get_by_role("link", name="Seal a version").click()
    shoot("seal")
    page.get_by_role("button", name=re.compile("^Seal ")).click()
    expect(page.get_by_text("SHA-256")).to_be_visible()
    page.reload()
    shoot("version")
    page.get_by_role("link", name="Fine-tune on it").click()

    page.get_by_text("Every knob").click()
    page.get_by_label("Epochs").fill("2")
    page.get_by_label("Batch rows").fill("64")
    shoot("run-form")
    page.get_by_role("button", name="Look before it starts").click()
    start = page.get_by_role("button", name="Start training")
    expect(start).to_be_visible()
    expect(page.locator(".token-trained").nth(1)).to_be_visible()
    shoot("run-preview")
    start.click()
    expect(page.locator(".u-wrap")).to_be_visible()
    expect(page.get_by_role("link", name="Chat", exact=True)).to_be_visible()  # live: nobody reloads
    page.reload()
    expect(page.locator(".u-wrap")).to_be_visible()
    shoot("run")

    expect(page.get_by_text(re.compile(r"^recall: \d+ of"))).to_be_visible()  # live too
    page.get_by_role("link", name="Chat", exact=True).click()
    page.get_by_label("Ask both models").fill("What is the oil type of the Brannick gearbox?")
    page.keyboard.press("Enter")
    turn = page.locator("[data-turn]").last
    expect(turn).to_be_visible()
    expect(page.locator("[data-turn-open]")).to_have_count(0)
    expect(page.locator("[data-answer=base]")).not_to_be_empty()
    page.goto(f"{site}/jobs/")
    expect(page.get_by_role("heading", name="Ended")).to_be_visible()
    shoot("jobs")


def test_a_refused_file_is_said_on_the_page_at_once(page, site, project, trainer, tmp_path, problems):
    log_in(page, site, "trainer")
    page.goto(f"{site}/projects/{project.pk}/documents/")
    path = tmp_path / "setup.pdf"
    path.write_bytes(b"MZ" + b"\x00" * 2000)
    page.get_by_label("Drop files here or choose them").set_input_files(path)
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("alert")).to_contain_text("Windows program")


def test_live_updates_reach_a_second_tab_and_polling_takes_over(page, context, site, project, trainer, problems):
    """One tab streams; in the other the stream is blocked, as by a proxy that forbids it."""
    from datasets_app.models import Document
    from finetune_site.jobs import queue, services
    from finetune_site.jobs.events import record

    document = Document.objects.create(
        project=project, name="a.txt", sha256="0" * 64, size=1, media_type="text/plain", uploaded_by=trainer
    )
    document.job = services.enqueue(project=project, owner=trainer, kind="datasets.parse", label="a.txt")
    document.save()
    log_in(page, site, "trainer")
    page.goto(f"{site}/projects/{project.pk}/documents/")
    other = context.new_page()
    other.route("**/projects/*/live*", lambda route: route.abort())
    other.goto(f"{site}/projects/{project.pk}/documents/")
    page.bring_to_front()
    expect(page.locator("[data-live-state]")).to_have_text("live")
    job = queue.claim("default", pid=1, pid_started=1)
    queue.update(job, done=3, total=7, unit="pages")
    record(job, "progress", {})
    expect(page.get_by_text("3 of 7 pages")).to_be_visible()
    other.bring_to_front()
    expect(other.get_by_text("3 of 7 pages")).to_be_visible()


def test_a_job_that_ends_between_the_page_and_its_stream_is_shown_as_ended(page, site, project, trainer, problems):
    from datasets_app.models import Document
    from finetune_site.jobs import queue, services
    from finetune_site.jobs.models import JobState

    document = Document.objects.create(
        project=project, name="a.txt", sha256="0" * 64, size=1, media_type="text/plain", uploaded_by=trainer
    )
    document.job = services.enqueue(project=project, owner=trainer, kind="datasets.parse", label="a.txt")
    document.save()

    def end_first(route):
        job = queue.claim("default", pid=1, pid_started=1)
        if job:
            queue.finish(job, JobState.FAILED, code="input", text="There is nothing in it.")
        route.continue_()

    log_in(page, site, "trainer")
    page.goto(f"{site}/projects/{project.pk}/")
    expect(page.locator("[data-live-state]")).to_have_text("live")  # the server listens before the page in question
    page.wait_for_timeout(500)
    page.route("**/projects/*/live*", end_first)
    page.goto(f"{site}{document.get_absolute_url()}")
    expect(page.get_by_text("There is nothing in it.").first).to_be_visible()


def test_a_person_joins_by_invitation_and_sees_what_the_role_allows(page, site, project, owner, problems):
    log_in(page, site, "owner")
    page.goto(f"{site}/projects/{project.pk}/members/")
    page.get_by_label("E-mail address").fill("new@example.org")
    page.locator("#invite_role").select_option("viewer")
    page.get_by_role("button", name="Make invitation link").click()
    link = page.get_by_label("Invitation link").input_value()
    page.wait_for_load_state()  # the menu opens by a script
    page.get_by_label("Open your menu").click()
    page.get_by_role("button", name="Log out").click()
    page.goto(link)
    page.get_by_role("link", name="Make an account").click()
    expect(page.get_by_label("Email")).to_have_value("new@example.org")
    page.get_by_label("Username").fill("newcomer")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password (again)").fill(PASSWORD)
    page.get_by_role("button", name="Make account").click()
    expect(page.get_by_role("heading", name="Kestrel")).to_be_visible()
    page.get_by_role("link", name="Documents").first.click()
    expect(page.get_by_text("Trainers and owners of the project upload documents.")).to_be_visible()
    expect(page.get_by_role("button", name="Upload")).to_have_count(0)
