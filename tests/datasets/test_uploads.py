"""Files that arrive in parts, as the page's script and the API send them."""

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone

from datasets_app.models import Document, Upload
from datasets_app.services import uploads
from tests.factories import make_user
from tests.site.test_api_access import secret_of

CONTENT = b"The Orrin pump weighs 41 kg. " * 40
TYPE = "application/octet-stream"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(uploads, "PART_BYTES", 500)


def begin(client, project, size=1160, name="pump.txt"):
    return client.post(reverse("upload_begin", args=[project.pk]), {"name": name, "size": size})


def send(client, url, start, part):
    return client.post(url, part, content_type=TYPE, headers={"Upload-Offset": str(start)})


def test_a_file_comes_part_by_part_and_goes_on_after_a_lost_answer(project, trainer, client_of):
    client = client_of(trainer)
    url = begin(client, project).json()["url"]
    assert send(client, url, 0, CONTENT[:500]).json()["arrived"] == 500
    assert send(client, url, 0, CONTENT[:500]).json()["arrived"] == 500  # its answer was lost, and it is sent again
    assert client.get(url).json()["arrived"] == 500
    assert send(client, url, 500, CONTENT[500:700]).status_code == 409  # the connection broke within it
    assert send(client, url, 500, CONTENT[500:]).status_code == 409  # more than was said
    assert send(client, url, 1000, CONTENT[1000:]).json()["arrived"] == 500  # one before it is missing
    assert send(client, url, 500, CONTENT[500:1000]).json()["arrived"] == 1000
    page = send(client, url, 1000, CONTENT[1000:])
    document = Document.objects.get()
    assert document.path.read_bytes() == CONTENT and document.name == "pump.txt" and document.job
    assert document.get_absolute_url() in page.content.decode() and b"<html" not in page.content
    arriving = Upload.objects.get()
    assert not arriving.folder.exists()
    assert send(client, url, len(CONTENT), b"").content == page.content  # asked again, the same answer


@pytest.mark.parametrize(
    ("size", "name", "sentence"), [(0, "a.txt", "is empty"), (10**12, "a.txt", "Split it"), (5, "", "Name the file")]
)
def test_what_would_not_be_taken_is_refused_before_it_is_sent(project, trainer, client_of, size, name, sentence):
    answer = begin(client_of(trainer), project, size, name)
    assert answer.status_code in (409, 422) and sentence in answer.json()["error"]
    assert not Upload.objects.exists()


def test_what_is_no_document_says_so_at_the_end(project, trainer, client_of):
    client = client_of(trainer)
    url = begin(client, project, 300, "setup.exe").json()["url"]
    page = send(client, url, 0, b"MZ\x90" + bytes(297)).content.decode()
    assert "Windows program" in page and not Document.objects.exists()


@pytest.mark.parametrize("start", ["", "-1", "x", "1" * 20])
def test_a_part_that_says_no_place_is_refused(project, trainer, client_of, start):
    client = client_of(trainer)
    url = begin(client, project).json()["url"]
    assert client.post(url, b"x", content_type=TYPE, headers={"Upload-Offset": start}).status_code == 422


def test_another_trainer_cannot_add_to_it(project, trainer, owner, client_of):
    url = begin(client_of(trainer), project).json()["url"]
    for other in (owner, make_user("stranger")):
        assert send(client_of(other), url, 0, CONTENT[:500]).status_code == 404


def test_a_part_that_is_gone_is_told(project, trainer, client_of):
    client = client_of(trainer)
    url = begin(client, project).json()["url"]
    send(client, url, 0, CONTENT[:500])
    (Upload.objects.get().folder / f"{0:015d}").unlink()
    send(client, url, 500, CONTENT[500:1000])
    assert "Upload the file again" in send(client, url, 1000, CONTENT[1000:]).content.decode()
    assert not Document.objects.exists()


def test_what_nobody_finishes_goes_after_days(project, trainer, client_of):
    client = client_of(trainer)
    url = begin(client, project).json()["url"]
    send(client, url, 0, CONTENT[:500])
    folder = Upload.objects.get().folder
    call_command("purge")
    assert folder.exists()
    Upload.objects.update(begun_at=timezone.now() - timedelta(days=uploads.KEPT_DAYS, seconds=1))
    begin(client, project)
    assert not folder.exists() and Upload.objects.count() == 1
    assert client.get(url).status_code == 404


def test_the_api_takes_parts_too(project, trainer, client):
    headers = {"Authorization": f"Bearer {secret_of(trainer)}"}
    begun = client.post(
        f"/api/v1/projects/{project.pk}/uploads",
        {"name": "pump.txt", "size": len(CONTENT)},
        content_type="application/json",
        headers=headers,
    ).json()
    for start in range(0, len(CONTENT), 500):
        url = f"/api/v1/uploads/{begun['id']}/parts/{start}"
        told = client.put(url, CONTENT[start : start + 500], content_type=TYPE, headers=headers).json()
        assert told["arrived"] == min(start + 500, len(CONTENT))
    assert told["items"][0]["document"]["id"] == Document.objects.get().pk
    again = client.put(url, b"", content_type=TYPE, headers=headers)
    assert again.json() == told
    refused = client.put(f"/api/v1/uploads/{begun['id']}/parts/7", b"x", content_type=TYPE, headers=headers)
    assert refused.status_code == 200  # whole: nothing is wanted any more
