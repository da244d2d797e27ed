"""A document in a real browser: its page's picture, and each piece lit where it stands."""

import re

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from datasets_app.models import Document, Upload
from datasets_app.services import documents, uploads
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


def test_three_files_are_dropped_and_what_is_left_out_stays_out(page, site, workers, project, trainer, shoot, problems):  # noqa: F811
    log_in(page, site, "trainer")
    page.goto(site + reverse("document_list", args=[project.pk]))
    texts = {
        "pump.md": "# The Orrin pump\n\nIt weighs 12 kg.\n\nIt was painted red by mistake.\n",
        "valve.md": "# The valve\n\nIt opens at 12 bar.\n",
        "parts.csv": "part,weight\nrotor,4 kg\n",
        "nothing.txt": "",
    }
    dropped = page.evaluate_handle(
        """texts => {
            const transfer = new DataTransfer();
            for (const [name, text] of Object.entries(texts)) transfer.items.add(new File([text], name));
            return transfer;
        }""",
        texts,
    )
    page.dispatch_event("[data-drop]", "drop", {"dataTransfer": dropped})
    for name in texts:
        if texts[name]:
            expect(page.get_by_role("row").filter(has_text=name).get_by_text("done")).to_be_visible(timeout=300_000)
    expect(page.get_by_text("“nothing.txt” is empty")).to_be_visible()
    page.get_by_role("row").filter(has_text="pump.md").get_by_role("link", name="pump.md").click()
    wrong = page.locator(".element").filter(has_text="painted red by mistake")
    wrong.get_by_role("button", name="Leave out").click()
    expect(wrong.get_by_text("left out")).to_be_visible()
    wrong.get_by_role("link", name="Correct").click()
    page.get_by_label("Text", exact=True).fill("   ")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("This field is required.")).to_be_visible()
    page.get_by_label("Text", exact=True).fill("It was painted green.")
    page.get_by_role("button", name="Save").click()
    mended = page.locator(".element").filter(has_text="It was painted green.")
    expect(mended.get_by_text("left out")).to_be_visible()
    shoot("document-corrected")
    page.get_by_role("button", name="Parse again").click()
    expect(page.get_by_text("compare readings")).to_be_visible(timeout=300_000)
    expect(mended.get_by_text("left out")).to_be_visible()
    expect(wrong).to_have_count(0)
    page.get_by_role("link", name="Passages").click()
    expect(page.get_by_text("It weighs 12 kg.")).to_be_visible()
    expect(page.get_by_text("painted")).to_have_count(0)
    page.go_back()
    page.get_by_role("link", name="How it is read").click()
    expect(page.get_by_text("1 passage (now 1)")).to_be_visible()
    page.get_by_label("Length of a passage").fill("300")
    page.get_by_label("Length of a passage").press("Tab")
    expect(page.get_by_text("The passages this would cut")).to_be_visible()
    shoot("document-reading")
    page.get_by_role("button", name="Save and only cut passages anew").click()
    expect(page.get_by_role("heading", name="pump.md")).to_be_visible()
    page.get_by_role("link", name="compare readings").click()
    expect(page.get_by_text("Both read the same pieces.")).to_be_visible()


def test_a_large_file_goes_on_after_a_lost_connection_and_after_a_reload(
    page,
    site,
    project,
    trainer,
    tmp_path,
    monkeypatch,
    problems,  # noqa: F811
):
    monkeypatch.setattr(uploads, "PART_BYTES", 1000)
    path = tmp_path / "long.txt"
    path.write_text("The Orrin pump weighs 41 kg. " * 120)
    log_in(page, site, "trainer")
    page.goto(site + reverse("document_list", args=[project.pk]))
    started = []

    def lose(route):
        """The second part is lost once, and the third whenever it is sent, until the page is loaded anew."""
        start = int(route.request.headers["upload-offset"])
        started.append(start)
        if start == 2000 or (start == 1000 and started.count(1000) == 1):
            route.abort()
        else:
            route.continue_()

    page.route("**/documents/arriving/*", lose)
    page.get_by_label("Drop files here or choose them").set_input_files(path)
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_text("the connection broke; trying again")).to_be_visible()
    for _ in range(600):
        page.wait_for_timeout(100)
        if 2000 in started:
            break
    assert started[:4] == [0, 1000, 1000, 2000] and Upload.objects.get().arrived == 2000
    page.unroute("**/documents/arriving/*")
    page.reload()
    page.on("request", lambda request: started.append(request.headers.get("upload-offset", "")))
    page.get_by_label("Drop files here or choose them").set_input_files(path)
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("row").filter(has_text="long.txt")).to_be_visible()
    assert [start for start in started if isinstance(start, str) and start] == ["2000", "3000"]
    assert Document.objects.get().path.read_text() == path.read_text()
    assert page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('upload'))") == []
