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
    answer = send(client, url, 1000, CONTENT[1000:])
    assert answer.status_code == 409 and "Upload the file again" in answer.json()["error"]
    assert not Document.objects.exists() and client.get(url).status_code == 404


def test_what_nobody_finishes_goes_after_days(project, trainer, client_of):
    client = client_of(trainer)
    url = begin(client, project).json()["url"]
    send(client, url, 0, CONTENT[:500])
    folder = Upload.objects.get().folder
    call_command("purge")
    assert folder.exists()
    Upload.objects.update(touched_at=timezone.now() - timedelta(days=uploads.KEPT_DAYS, seconds=1))
    call_command("purge")
    assert not folder.exists() and client.get(url).status_code == 404


def test_want_of_room_keeps_what_was_sent(project, trainer, client_of):
    client = client_of(trainer)
    url = begin(client, project).json()["url"]
    for start in (0, 500):
        send(client, url, start, CONTENT[start : start + 500])
    type(project).objects.filter(pk=project.pk).update(disk_limit_gb=0)
    assert "no room left" in send(client, url, 1000, CONTENT[1000:]).content.decode()
    assert "no room left" in send(client, url, len(CONTENT), b"").content.decode()
    assert "no room left" in begin(client, project).json()["error"]
    type(project).objects.filter(pk=project.pk).update(disk_limit_gb=None)
    assert b"being parsed" in send(client, url, len(CONTENT), b"").content
    assert Document.objects.get().path.read_bytes() == CONTENT


def test_who_comes_while_it_is_taken_asks_again(project, trainer, client_of):
    client = client_of(trainer)
    url = begin(client, project, 500).json()["url"]
    Upload.objects.update(finishing_since=timezone.now())
    assert send(client, url, 0, CONTENT[:500]).status_code == 503
    Upload.objects.update(finishing_since=timezone.now() - timedelta(minutes=uploads.FINISH_MINUTES, seconds=1))
    assert send(client, url, 500, b"").status_code == 200


def test_unfinished_uploads_are_limited(project, trainer, client_of, settings):
    settings.UPLOAD_MAX_FILES = 2
    client = client_of(trainer)
    type(project).objects.filter(pk=project.pk).update(disk_limit_gb=1)
    settings.UPLOAD_MAX_BYTES = 2**40
    assert "does not fit" in begin(client, project, 2**30 + 1).json()["error"]
    for _ in range(2):
        assert begin(client, project).status_code == 200
    assert "not finished" in begin(client, project).json()["error"]


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
