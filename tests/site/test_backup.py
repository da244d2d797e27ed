"""A backup taken from a site at work, and restored into an empty one: the same rows, and every file of theirs."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from django.conf import settings as site_settings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from psycopg import sql

from datasets_app.models import Document
from datasets_app.services import documents
from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import Job, JobState
from finetune_site.lib.files import sha256_of
from finetune_site.operations import restoring
from finetune_site.operations.archive import verify
from finetune_site.operations.backup import kept
from finetune_site.operations.inspection import inspect
from finetune_site.operations.schedules import back_up_when_due
from finetune_site.projects.models import Project
from finetune_site.projects.services import create_project, delete_project
from tests.conftest import ROOT
from tests.factories import claim, run_job

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def data(settings, tmp_path) -> Path:
    settings.DATA_DIR, settings.MEDIA_ROOT = tmp_path / "data", tmp_path / "data" / "files"
    settings.DATA_DIR.mkdir()
    call_command("createcachetable", verbosity=0)
    return settings.DATA_DIR


def upload(owner, project, text: str) -> Document:
    return documents.upload_document(actor=owner, project=project, name="a.txt", blocks=[text.encode()]).document


def run_folder(data: Path) -> Path:
    folder = data / "runs" / "7"
    folder.mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(os.urandom(3_000_000))
    (data / "models" / "1").mkdir(parents=True)
    (data / "models" / "1" / "model.safetensors").write_bytes(os.urandom(1000))
    return folder


def manage(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **env}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def at(url: str, database: str) -> str:
    return urlsplit(url)._replace(path=f"/{database}").geturl()


def contents(dsn: str) -> dict[str, str]:
    """A hash of every table's rows, made by Postgres itself."""
    with psycopg.connect(dsn) as link:
        tables = link.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
        rows = sql.SQL("select md5(coalesce(string_agg(t::text, '' order by t::text), '')) from {} t")
        return {name: link.execute(rows.format(sql.Identifier(name))).fetchone()[0] for (name,) in tables}


@pytest.fixture(scope="module")
def empty_database(django_db_setup, django_db_blocker, tmp_path_factory):
    """The name of a database with the schema alone, as a template of others; and the server's address."""
    with django_db_blocker.unblock():
        name, server = f"{connection.settings_dict['NAME']}_empty", site_settings.DATABASE_URL
    env = {"DATABASE_URL": at(server, name), "FINETUNE_DATA_DIR": str(tmp_path_factory.mktemp("empty"))}
    with psycopg.connect(server, autocommit=True) as link:
        link.execute(f"create database {name}")
        for command in ("migrate", "createcachetable"):
            done = manage(command, "-v0", **env)
            assert done.returncode == 0, done.stderr
        yield name
        link.execute(f"drop database {name} with (force)")


@pytest.fixture
def elsewhere(empty_database, settings, tmp_path):
    """An empty database with the schema, and an empty data folder: the environment of another site."""
    name = f"{empty_database}_copy"
    (tmp_path / "elsewhere").mkdir()
    with psycopg.connect(settings.DATABASE_URL, autocommit=True) as link:
        link.execute(f"create database {name} template {empty_database}")
        yield {
            "DATABASE_URL": at(settings.DATABASE_URL, name),
            "FINETUNE_DATA_DIR": str(tmp_path / "elsewhere"),
            "FINETUNE_SECRET_KEY": settings.SECRET_KEY,
        }
        link.execute(f"drop database {name} with (force)")


def test_a_site_at_work_comes_back_elsewhere_with_all_it_had(data, elsewhere, owner, project, settings, tmp_path):
    adapter = run_folder(data) / "adapter.safetensors"
    for number in range(5):
        upload(owner, project, f"Document {number}")
    Document.objects.update(job=None)  # nothing else is done with them here
    Job.objects.all().delete()
    jobs.enqueue(project=project, owner=owner, kind="datasets.seal", label="it runs")
    claim(Job.objects.get())
    stop, errors = threading.Event(), []

    def people() -> None:
        """Upload and delete all the while."""
        try:
            number = 100
            while not stop.is_set():
                made = upload(owner, project, f"Document {number}")
                Document.objects.filter(pk=made.pk).update(job=None)
                if number % 2:
                    documents.delete_document(actor=owner, document=Document.objects.get(pk=made.pk))
                number += 1
                stop.wait(0.02)
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    worker = threading.Thread(target=people)
    worker.start()
    archive, told = tmp_path / "site.tar", io.StringIO()
    try:
        call_command("backup", str(archive), stdout=told, stderr=io.StringIO())
    finally:
        stop.set()
        worker.join()
    assert errors == []
    assert archive.stat().st_mode & 0o777 == 0o600
    manifest = verify(archive)
    assert f" {len(manifest.members)} members," in told.getvalue()
    assert manifest.gone == [] and not list((data / "run").glob("backup-*"))

    done = manage("restore", str(archive), **elsewhere)
    assert done.returncode == 0, done.stderr
    there = Path(elsewhere["FINETUNE_DATA_DIR"])
    assert sha256_of(there / "runs" / "7" / "adapter.safetensors") == sha256_of(adapter)
    with psycopg.connect(elsewhere["DATABASE_URL"]) as link:
        digests = [row[0] for row in link.execute("select sha256 from datasets_app_document")]
        assert len(digests) == manifest.tables["datasets_app_document"].rows >= 5
        for digest in digests:
            assert sha256_of(there / "files" / "documents" / digest[:2] / digest) == digest
        state, token = link.execute("select state, token from jobs_job where label = 'it runs'").fetchone()
        assert (state, token) == ("queued", None)
        assert link.execute("select count(*) from django_q_ormq").fetchone()[0] > 0  # somebody is asked to do it
        link.execute(
            "insert into projects_project (name, description, is_desk, needs_two, disk_bytes, created_by_id, "
            "created_at) select 'new', '', false, false, 0, id, now() from auth_user limit 1"
        )  # the sequences go on
    again = manage("restore", str(archive), **elsewhere)
    assert again.returncode == 1 and "--replace" in again.stderr


def test_all_rows_of_a_site_at_rest_are_the_same(data, elsewhere, owner, project, settings, tmp_path):
    upload(owner, project, "Ünïcode, a\ttab, a\\backslash and\na line")
    project.description = "a\ttab \\N and\nlines"
    project.save()
    archive = tmp_path / "site.tar"
    call_command("backup", str(archive), "--without-models", stdout=io.StringIO(), stderr=io.StringIO())
    done = manage("restore", str(archive), **{**elsewhere, "FINETUNE_SECRET_KEY": "another" * 10})
    assert done.returncode == 0, done.stderr
    assert "FINETUNE_SECRET_KEY" in done.stderr and "make them ready again" in done.stderr
    here = contents(at(settings.DATABASE_URL, connection.settings_dict["NAME"]))
    there = contents(elsewhere["DATABASE_URL"])
    own = {"django_migrations", "site_cache", "django_session", "django_q_ormq", "django_q_schedule"}
    different = {table for table in here if here[table] != there[table]} - own
    assert different == set()


@pytest.fixture
def archive(data, owner, project, tmp_path) -> Path:
    upload(owner, project, "A document")
    path = tmp_path / "site.tar"
    call_command("backup", str(path), stdout=io.StringIO(), stderr=io.StringIO())
    return path


def refused(path: Path, *options: str) -> str:
    with pytest.raises(CommandError) as told:
        call_command("restore", str(path), *options, stdout=io.StringIO(), stderr=io.StringIO())
    return str(told.value)


def test_replacing_brings_back_what_was_deleted(archive, data, owner, project):
    kept = Document.objects.get().path
    other = create_project(actor=owner, name="Made after the backup")
    delete_project(actor=owner, project=Project.objects.get(pk=project.pk))
    shutil.rmtree(data / "files")
    assert "--replace" in refused(archive)
    call_command("restore", str(archive), "--replace", stdout=io.StringIO(), stderr=io.StringIO())
    assert list(Project.objects.values_list("name", flat=True)) == ["Kestrel"]
    assert other.name not in Project.objects.values_list("name", flat=True)
    assert kept.read_text() == "A document"
    assert not list((data / "run").glob("restore-*"))
    assert create_project(actor=User.objects.get(username="owner"), name="New").pk > project.pk


def test_a_damaged_archive_touches_nothing(archive, data):
    content = bytearray(archive.read_bytes())
    content[content.index(b"A document")] ^= 1
    archive.write_bytes(content)
    assert "damaged" in refused(archive, "--replace")
    archive.write_bytes(content[: len(content) // 2])
    assert "Take another" in refused(archive, "--replace")
    assert Document.objects.get().path.read_text() == "A document"
    with pytest.raises(CommandError, match="Take another"):
        call_command("backup", str(archive), "--verify")


def test_what_is_no_backup_is_refused(data, tmp_path):
    path = tmp_path / "other.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("files/../../etc/passwd"))
    assert "belongs to no part" in refused(path, "--replace")
    path.write_text("no archive at all")
    assert "no backup of this site" in refused(path, "--replace")


def test_another_schema_is_refused_with_the_version_to_install(archive, monkeypatch):
    monkeypatch.setattr(restoring, "migrations", lambda: ["jobs.0001_initial"])
    assert "run manage.py migrate" in refused(archive, "--replace")
    monkeypatch.setattr(restoring, "migrations", lambda: [*verify(archive).migrations, "jobs.9999_later"])
    assert "jobs.9999_later" in refused(archive, "--replace")


def test_a_failure_half_way_leaves_rows_and_files_as_they_were(archive, data, owner, monkeypatch):
    later = create_project(actor=owner, name="Later")
    text = upload(owner, later, "Later words").path

    def fail() -> None:
        raise OSError("The disk is full.")

    monkeypatch.setattr(restoring, "_queue_again", fail)
    assert "disk is full" in refused(archive, "--replace")
    assert Project.objects.filter(name="Later").exists() and text.read_text() == "Later words"


def test_running_jobs_are_not_pulled_from_under_their_runners(archive, owner, project):
    Document.objects.update(job=None)
    Job.objects.all().delete()
    claim(jobs.enqueue(project=project, owner=owner, kind="datasets.seal", label="runs"))
    assert "Stop the clusters" in refused(archive, "--replace")
    assert Job.objects.get().state == JobState.RUNNING


def test_a_backup_never_writes_over_another(archive):
    with pytest.raises(CommandError, match="exists already"):
        call_command("backup", str(archive))
    with pytest.raises(CommandError, match="Make it first"):
        call_command("backup", str(archive.parent / "nowhere" / "b.tar"))
    said = io.StringIO()
    call_command("backup", str(archive), "--verify", stdout=said)
    assert "whole" in said.getvalue()


def test_backups_come_by_themselves_and_the_oldest_go(data, operator, project, settings, tmp_path):
    assert back_up_when_due() is None  # no folder, no backup
    assert "FINETUNE_BACKUP_DIR" in system_line().text
    settings.BACKUP_DIR, settings.BACKUP_KEEP = str(tmp_path / "kept"), 2
    (tmp_path / "kept").mkdir()
    assert system_line().state == "look"
    for day in ("20200101", "20200102"):
        old = tmp_path / "kept" / f"finetune-site-{day}-000000.tar"
        old.write_bytes(b"old")
        os.utime(old, (1, 1))
    assert system_line().state == "broken"
    job = back_up_when_due()
    assert job is not None and back_up_when_due() is None  # one at a time
    assert run_job(job).state == JobState.SUCCEEDED
    newest, older = kept()
    assert older.name == "finetune-site-20200102-000000.tar"
    assert verify(newest).tables["projects_project"].rows == 2  # and the operators' desk
    assert back_up_when_due() is None and system_line().state == "fine"


def test_a_backup_without_its_folder_says_so(data, operator, settings, tmp_path):
    settings.BACKUP_DIR = str(tmp_path / "nowhere")
    ended = run_job(back_up_when_due())
    assert ended.state == JobState.FAILED and "Make it first" in ended.error_text


def system_line():
    [section] = [section for section in inspect() if section.title == "Backups"]
    return section.lines[0]
