"""Health, figures, and what log lines say: ids of request, person and job, and nothing secret."""

import io
import json
import logging
import logging.config
import uuid

import pytest
from django.conf import settings as site_settings
from django.db import DatabaseError
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import JobState
from finetune_site.jobs.runner import Runner
from finetune_site.operations import health
from finetune_site.projects.models import Role
from finetune_site.projects.services import create_project, invite
from tests.factories import claim

pytestmark = pytest.mark.django_db
TOKEN = "a-token-of-the-scraper"


@pytest.fixture
def lines(monkeypatch):
    """What the site's own handler writes as JSON, as a list of its lines."""
    stream = io.StringIO()
    config = {**site_settings.LOGGING["formatters"]["json"]}
    logging.config.dictConfig({
        "version": 1, "incremental": False, "disable_existing_loggers": False,
        "filters": site_settings.LOGGING["filters"], "formatters": {"json": config},
        "handlers": {"kept": {
            "class": "logging.StreamHandler", "stream": stream, "formatter": "json", "filters": ["context", "refusals"]
        }},
        "root": {"handlers": ["kept"], "level": "INFO"},
        "loggers": {"finetune_site.requests": {"level": "INFO"}},
    })  # fmt: skip
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.config.dictConfig(site_settings.LOGGING)


def test_live_asks_nothing(client, django_assert_num_queries):
    with django_assert_num_queries(0):
        response = client.get(reverse("health_live"))
    assert (response.status_code, response.json()) == (200, {"status": "live"})


def test_ready_names_each_check(client):
    response = client.get(reverse("health_ready"))
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "checks": {"database": "ok", "migrations": "ok", "cache": "ok", "storage": "ok"},
    }


@pytest.mark.parametrize(
    ("check", "error", "word"),
    [
        ("_ask_database", DatabaseError("password=secret"), "DATABASE_URL"),
        ("_require_migrations", health.NotMigrated("jobs.0001"), "manage.py migrate"),
        ("_ask_cache", DatabaseError("no table"), "createcachetable"),
        ("_write_file", OSError(28, "No space left"), "FINETUNE_DATA_DIR"),
    ],
)
def test_not_ready_says_what_to_do_and_no_detail(client, monkeypatch, check, error, word):
    def fail() -> None:
        raise error

    monkeypatch.setattr(health, check, fail)
    response = client.get(reverse("health_ready"))
    assert response.status_code == 503
    [sentence] = [told for told in response.json()["checks"].values() if told != "ok"]
    assert word in sentence
    assert str(error) not in response.content.decode()


def test_a_folder_that_cannot_be_written_is_not_ready(client, settings, tmp_path):
    (tmp_path / "file").write_text("")
    settings.MEDIA_ROOT = tmp_path / "file"
    response = client.get(reverse("health_ready"))
    assert response.status_code == 503 and response.json()["checks"]["storage"] != "ok"


def test_a_migration_that_the_database_lacks_is_named():
    from django.db.migrations.recorder import MigrationRecorder

    assert health.missing_migrations() == []
    MigrationRecorder.Migration.objects.filter(app="jobs").delete()
    assert [name.partition(".")[0] for name in health.missing_migrations()] == ["jobs"]


def test_figures_need_the_token_or_an_operator(client, client_of, viewer, operator, settings):
    url, bearer = reverse("metrics"), {"Authorization": f"Bearer {TOKEN}"}
    assert client.get(url, headers={"Authorization": "Bearer "}).status_code == 404  # no token set: none is right
    settings.METRICS_TOKEN = TOKEN
    assert client.get(url).status_code == 404
    assert client.get(url, headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 404
    assert client.get(url, headers={"Authorization": f"Basic {TOKEN}"}).status_code == 404
    assert client_of(viewer).get(url).status_code == 403
    assert client_of(operator).get(url).status_code == 200
    assert client.get(url, headers=bearer).status_code == 200


def test_figures_tell_of_queues_jobs_and_devices(client_of, operator, project, owner):
    from finetune_site.jobs import machines

    machines.report()
    for _ in range(2):
        jobs.enqueue(project=project, owner=owner, kind="training.train", label="a run")
    stopped = jobs.enqueue(project=project, owner=owner, kind="datasets.seal", label="a version")
    jobs.cancel(actor=owner, job=stopped)
    client = client_of(operator)
    client.get(reverse("home"))
    text = client.get(reverse("metrics")).content.decode()
    assert 'finetune_jobs{queue="gpu",state="queued"} 2.0' in text
    assert 'finetune_jobs{queue="default",state="queued"} 0.0' in text
    assert 'finetune_jobs_ended_last_hour{kind="datasets.seal",state="cancelled"} 1.0' in text
    assert 'finetune_request_seconds_count{method="GET",status="200",view="home"}' in text
    assert 'finetune_device_memory_bytes{device="cpu"' in text
    assert "finetune_disk_free_bytes" in text and "finetune_live_viewers 0.0" in text


def test_figures_cost_the_same_however_much_there_is(client_of, operator, project, owner):
    from django.db import connection

    client = client_of(operator)

    def cost() -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            client.get(reverse("metrics"))
        return len(queries)

    cost()
    before = cost()
    for kind in ("training.train", "datasets.seal", "datasets.parse"):
        jobs.enqueue(project=project, owner=owner, kind=kind, label="work")
    assert cost() == before


def test_unknown_methods_and_addresses_make_no_new_series(client, client_of, operator):
    client.generic("BREW", "/no/such/address/4711")
    text = client_of(operator).get(reverse("metrics")).content.decode()
    assert 'method="other",status="404",view="none"' in text
    assert "BREW" not in text and "/no/such" not in text


def test_a_request_has_an_id_that_its_lines_and_its_answer_carry(client_of, viewer, lines, settings):
    response = client_of(viewer).get(
        reverse("job_list") + "?q=private-words", headers={"X-Request-ID": "not-trusted-1"}
    )
    given = response["X-Request-ID"]
    assert uuid.UUID(given).hex == given  # ours: nobody vouches for the other
    [line] = [line for line in lines() if line["logger"] == "finetune_site.requests"]
    assert (line["request_id"], line["user"], line["level"]) == (given, viewer.pk, "INFO")
    assert line["message"].startswith("GET /jobs/ 200")
    assert "private-words" not in json.dumps(lines())


def test_behind_a_proxy_its_id_is_kept_when_it_is_one(client, settings):
    settings.BEHIND_PROXY = True
    ask = lambda value: client.get(reverse("health_live"), headers={"X-Request-ID": value})["X-Request-ID"]  # noqa: E731
    assert ask("from-the-proxy.1") == "from-the-proxy.1"
    assert ask("<script>alert(1)</script>") != "<script>alert(1)</script>"
    assert ask("x" * 65) != "x" * 65


def test_a_refusal_is_one_line_without_a_traceback(client_of, viewer, lines):
    assert client_of(viewer).get(reverse("ollama_list")).status_code == 403
    refused = [line for line in lines() if line["logger"] == "django.request"]
    assert len(refused) == 1 and "traceback" not in refused[0] and refused[0]["user"] == viewer.pk


def test_an_invitation_is_never_logged(client, owner, lines):
    project = create_project(actor=owner, name="Other")
    _, token = invite(actor=owner, project=project, email="new@example.org", role=Role.VIEWER)
    client.get(reverse("join", args=[token]))
    client.get(reverse("join", args=["x" + token]))
    told = json.dumps(lines())
    assert "join/<str:token>" in told and token not in told


def test_an_error_of_ours_shows_the_id_of_its_traceback(client_of, viewer, lines, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("finetune_site.jobs.views._list_context", fail)
    client = client_of(viewer)
    client.raise_request_exception = False
    response = client.get(reverse("job_list"))
    [line] = [line for line in lines() if "broken on purpose" in line.get("traceback", "")]
    assert response.status_code == 500
    assert line["request_id"] == response["X-Request-ID"]
    assert response["X-Request-ID"] in response.content.decode()
    assert "broken on purpose" not in response.content.decode()


def test_every_line_of_an_attempt_names_its_job(project, owner, lines, monkeypatch):
    job = jobs.enqueue(project=project, owner=owner, kind="datasets.seal", label="gone")
    Runner("default", 0).do(claim(job))
    job.refresh_from_db()
    assert job.state != JobState.RUNNING
    told = [line for line in lines() if line["logger"] == "finetune_site.jobs.runner"]
    assert told and all((line["job"], line["attempt"]) == (job.pk, 1) for line in told)
