"""Machines without a shared folder: their files meet in a bucket, here of a real S3 server that keeps it in memory."""

import io
import logging
import os
import time
from pathlib import Path

import boto3
import pytest
from django.conf import settings
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.urls import reverse
from django.utils.html import escape
from moto.server import ThreadedMotoServer

from datasets_app.models import Document, ImportBatch
from datasets_app.services import datasets, documents
from finetune_site import bucket
from finetune_site.bucket import BucketError, Mirror
from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import Job
from finetune_site.lib.files import sha256_of
from finetune_site.operations.health import readiness
from finetune_site.operations.invariants import INVARIANTS
from finetune_site.operations.sharing import bring_all, forget_former
from tests.factories import run_all, run_job
from tests.training.test_runs import plan
from training_app.models import ChatAnswer, Evaluation, Export, Run
from training_app.services import artefacts, chat, housekeeping, runs
from training_app.services.chat import Manner

NAME = "finetune-test"


@pytest.fixture(scope="module")
def server():
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def client(server):
    """Looks into the bucket past our code."""
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    found = boto3.client("s3", endpoint_url=server, **keys)
    found.create_bucket(Bucket=NAME)
    yield found
    for entry in found.list_objects_v2(Bucket=NAME).get("Contents", []):
        found.delete_object(Bucket=NAME, Key=entry["Key"])


@pytest.fixture
def machine(settings, client, server, tmp_path, monkeypatch):
    """Makes this process another machine: a disk of its own, the same database and bucket."""
    settings.S3_BUCKET = NAME
    options = {"bucket_name": NAME, "endpoint_url": server, "region_name": "us-east-1"}
    options |= {"access_key": "k", "secret_key": "s"}
    settings.STORAGES = {
        **settings.STORAGES,
        "bucket": {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options},
    }

    def become(name: str) -> Path:
        settings.DATA_DIR = tmp_path / name
        settings.MEDIA_ROOT = settings.DATA_DIR / "files"
        settings.MEDIA_ROOT.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(artefacts, "HOST", name)
        return settings.DATA_DIR

    become("web")
    return become


@pytest.fixture
def names(client):
    return lambda: sorted(entry["Key"] for entry in client.list_objects_v2(Bucket=NAME).get("Contents", []))


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def texts(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


# Single files


def test_a_file_is_put_fetched_read_and_removed(machine, names):
    path = machine("a") / "files" / "documents" / "x"
    write(path.parent, x="content")
    digest = sha256_of(path)
    bucket.put(path)
    assert names() == ["files/documents/x"]
    there = machine("b") / "files" / "documents" / "x"
    assert (there.exists(), bucket.has(there)) == (False, True)
    assert b"".join(bucket.blocks(there)) == b"content" and not there.exists()  # streamed, not kept
    assert bucket.fetch(there, digest).read_text() == "content"
    assert [kept.path for kept in bucket.listing(there.parent)] == [there]
    bucket.remove(there)
    assert (names(), there.exists(), bucket.has(there)) == ([], False, False)
    with pytest.raises(FileNotFoundError):
        bucket.fetch(there)


def test_another_content_than_was_put_is_refused_and_leaves_nothing(machine, client):
    path = machine("a") / "files" / "x"
    client.put_object(Bucket=NAME, Key="files/x", Body=b"forged")
    with pytest.raises(BucketError, match="not what was put there"):
        bucket.fetch(path, "0" * 64)
    assert list(path.parent.iterdir()) == []


def test_a_large_file_goes_in_parts_and_is_never_held_whole(machine, client):
    path = machine("a") / "files" / "large"
    block = os.urandom(1 << 20)
    with path.open("wb") as stream:
        for _ in range(20):
            stream.write(block)
    bucket.put(path)
    assert "-" in client.head_object(Bucket=NAME, Key="files/large")["ETag"]  # the mark of several parts
    there = machine("b") / "files" / "large"
    sizes = [len(piece) for piece in bucket.blocks(there)]
    assert sum(sizes) == 20 << 20 and max(sizes) <= bucket.BLOCK_BYTES
    assert sha256_of(bucket.fetch(there)) == sha256_of(path)


def test_a_bucket_that_is_away_or_refuses_is_told_in_a_sentence(machine, settings, client):
    path = machine("a") / "files" / "x"
    write(path.parent, x="content")
    options = settings.STORAGES["bucket"]["OPTIONS"]

    def use(**changed):
        settings.STORAGES = {
            **settings.STORAGES,
            "bucket": {**settings.STORAGES["bucket"], "OPTIONS": options | changed},
        }

    use(bucket_name="no-such-bucket")
    with pytest.raises(BucketError, match="refuses us \\(NoSuchBucket\\)"):
        bucket.put(path)
    use(endpoint_url="http://127.0.0.1:1")
    with pytest.raises(BucketError, match="does not answer"):
        bucket.put(path)


# Folders that are worked in


def test_a_folder_is_what_was_kept_last_on_whichever_machine(machine, names):
    a = machine("a") / "runs" / "1"
    write(a, log="one", adapter__w="weights", half__x="y")
    (a / "half").rename(a / "half.part")
    Mirror(a).push()
    b = machine("b") / "runs" / "1"
    Mirror(b).pull()
    assert texts(b) == {"log": "one", "adapter/w": "weights"}  # what is written aside is not there yet
    write(b, log="one two", checkpoints__step="c")
    (b / "adapter" / "w").unlink()
    Mirror(b).push()
    blobs = [name for name in names() if "/blobs/" in name]
    assert len(blobs) == 2  # what nothing names any more is gone
    machine("a")
    (a / "half.part" / "x").unlink()
    write(a, stray="of an attempt that was lost")
    Mirror(a).pull()
    assert texts(a) == {"log": "one two", "checkpoints/step": "c"}


def test_the_machine_that_kept_it_last_keeps_what_is_newer_here(machine):
    a = machine("a") / "runs" / "1"
    write(a, log="one")
    Mirror(a).push()
    write(a, log="one and more that the runner did not keep before it died")
    Mirror(a).pull()
    assert texts(a)["log"].startswith("one and more")


def test_who_may_not_write_changes_nothing(machine):
    a = machine("a") / "runs" / "1"
    write(a, log="one")
    Mirror(a).push()
    write(a, log="two")

    def lost():
        raise RuntimeError("another has the job")

    with pytest.raises(RuntimeError):
        Mirror(a).push(may_write=lost)
    b = machine("b") / "runs" / "1"
    Mirror(b).pull()
    assert texts(b) == {"log": "one"}


def test_parts_are_left_alone_and_dropped(machine, names):
    a = machine("a") / "runs" / "1"
    write(a, adapter__w="weights", checkpoints__s="c", best="b")
    Mirror(a).push()
    b = machine("b") / "runs" / "1"
    Mirror(b).pull(without=("checkpoints", "best"))
    assert texts(b) == {"adapter/w": "weights"}
    Mirror(b).pull()
    assert texts(b) == {"adapter/w": "weights", "checkpoints/s": "c", "best": "b"}
    Mirror(b).drop(("checkpoints", "best"))
    assert texts(b) == {"adapter/w": "weights"} and len(names()) == 2
    machine("a")
    Mirror(a).pull()
    assert texts(a) == {"adapter/w": "weights"}


def test_a_file_that_grows_or_is_replaced_while_it_is_sent(machine, monkeypatch):
    a = machine("a") / "runs" / "1"
    write(a, log="x" * 3_000_000, best="old")
    save = bucket._save

    def save_later(name, stream):
        with (a / "log").open("a") as log:
            log.write("more")
        write(a, new="weights")
        (a / "new").rename(a / "best")
        save(name, stream)

    monkeypatch.setattr(bucket, "_save", save_later)
    Mirror(a).push()
    b = machine("b") / "runs" / "1"
    Mirror(b).pull()  # every file is what its hash says, or this would have been refused
    found = texts(b)
    assert found["best"] in ("old", "weights") and set(found["log"][:3_000_000]) == {"x"}


def test_a_run_that_was_not_brought_here_is_not_kept(machine, names):
    class Planned:
        pk, folder = 1, machine("a") / "runs" / "1"

    write(Planned.folder, adapter__w="weights")
    artefacts.run_mirror(Planned).push()
    kept = names()
    Planned.folder = machine("b") / "runs" / "1"
    Planned.folder.mkdir(parents=True)
    keeper = artefacts.Keeper(Planned, lambda: None)
    keeper.keep_quietly()  # the attempt ended before the folder was here
    assert names() == kept
    with keeper.at_work():
        artefacts.run_mirror(Planned).pull()
    keeper.keep_quietly()
    assert names() == kept


def test_a_folder_that_was_removed_for_all_is_removed_here(machine):
    a = machine("a") / "models" / "1"
    write(a, w="weights")
    Mirror(a).push()
    b = machine("b") / "models" / "1"
    Mirror(b).pull()
    bucket.remove_below(b)
    Mirror(b).pull()
    assert not b.exists()
    write(b, w="another base of this name")
    Mirror(b).push()
    machine("a")
    Mirror(a).pull()
    assert texts(a) == {"w": "another base of this name"}


def test_the_end_of_a_kept_log_is_read_without_fetching_it(machine):
    a = machine("a") / "runs" / "1"
    write(a, log="0123456789", empty="")
    Mirror(a).push()
    b = machine("b") / "runs" / "1"
    assert Mirror(b).read("log", 4) == b"6789" and Mirror(b).read("log", 100) == b"0123456789"
    assert Mirror(b).read("empty", 4) == Mirror(b).read("none", 4) == b"" and not b.exists()


def test_without_a_bucket_nothing_is_asked(machine, settings, names):
    a = machine("a") / "runs" / "1"
    write(a, log="one")
    settings.S3_BUCKET = ""
    Mirror(a).push()
    bucket.put(a / "log")
    Mirror(machine("b") / "runs" / "1").pull()
    assert names() == [] and not bucket.has(machine("b") / "runs" / "1" / "log")


# The site


@pytest.mark.django_db
def test_a_document_is_uploaded_here_and_parsed_there(machine, project, trainer, names):
    line = b'{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}\n'
    document = documents.upload_document(
        actor=trainer, project=project, name="a.txt", blocks=[b"Some words.\n"]
    ).document
    dataset = datasets.create_dataset(actor=trainer, project=project, name="D")
    batch = datasets.import_examples(actor=trainer, dataset=dataset, name="a.jsonl", format="", blocks=[line])
    assert len(names()) == 2
    machine("worker")
    run_all()
    document.refresh_from_db()
    assert document.parsed_at and document.elements.count() == 1
    assert ImportBatch.objects.get(pk=batch.pk).added == 1
    assert all(not list(each.find(True)) for each in INVARIANTS)
    machine("another")
    assert all(not list(each.find(True)) for each in INVARIANTS)  # its files are in the bucket


@pytest.mark.django_db
def test_while_the_bucket_is_away_nothing_is_lost_and_people_are_told(machine, project, trainer, settings):
    def send(name):
        return documents.upload_document(actor=trainer, project=project, name=name, blocks=[name.encode()]).document

    document = send("a.txt")
    machine("worker")
    store = settings.STORAGES["bucket"]
    away = {**store, "OPTIONS": {**store["OPTIONS"], "endpoint_url": "http://127.0.0.1:1"}}
    settings.STORAGES = {**settings.STORAGES, "bucket": away}
    with pytest.raises(documents.DocumentError, match="does not answer"):
        send("b.txt")
    assert Document.objects.count() == 1
    waits = run_job(document.job)
    assert waits.state == "queued" and "does not answer" in waits.message, waits.error_text  # tried again later
    settings.STORAGES = {**settings.STORAGES, "bucket": store}
    Job.objects.update(not_before=None)
    assert run_job(waits).state == "succeeded"


@pytest.mark.django_db(transaction=True)
def test_what_no_row_names_is_purged_from_the_bucket(machine, project, trainer, names, monkeypatch):
    def upload(text):
        return documents.upload_document(actor=trainer, project=project, name="a.txt", blocks=[text]).document

    kept, gone = upload(b"kept"), upload(b"gone")
    write(machine("b") / "runs" / "99", log="of a project that is no more")
    Mirror(machine("b") / "runs" / "99").push()
    Document.objects.filter(pk=gone.pk).delete()
    machine("c")
    said = io.StringIO()
    call_command("purge", stdout=said)
    assert "0 files" in said.getvalue()  # too young
    monkeypatch.setattr(time, "time", lambda clock=time.time: clock() + 7200)
    call_command("purge", stdout=said)
    assert "2 files and folders" in said.getvalue()
    assert names() == [f"files/documents/{kept.sha256[:2]}/{kept.sha256}"]
    monkeypatch.undo()
    machine("b")
    Job.objects.update(state="succeeded")
    kept.refresh_from_db()
    documents.delete_document(actor=trainer, document=kept)
    assert names() == []


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_each_step_on_another_machine(
    machine, project, trainer, viewer, client_of, base, request, settings, monkeypatch
):
    settings.CHAT_IDLE_SECONDS = 0
    machine("sealer")
    version = request.getfixturevalue("version")
    machine("web")
    browser = client_of(trainer)
    plan(browser, project, version, base)
    machine("looker")
    run_all()
    run = Run.objects.get()
    assert run.preview_job.state == "succeeded", run.preview_job.error_text
    machine("web")
    browser.post(reverse("run_start", args=[run.pk]))

    # It is stopped behind a checkpoint, and goes on elsewhere.
    first = machine("first")
    told = artefacts.Keeper.checkpoint

    def stop(keeper):
        told(keeper)
        jobs.cancel(actor=trainer, job=Job.objects.get(run=run))

    with monkeypatch.context() as patched:
        patched.setattr(artefacts.Keeper, "checkpoint", stop)
        settings.JOB_HEARTBEAT_SECONDS = 0.2
        stopped = run_job(Job.objects.get(run=run))
    assert stopped.state == "cancelled", stopped.error_text
    machine("web")
    log = (first / "runs" / str(run.pk) / "log.txt").read_text()
    assert log and escape(log[-200:]) in browser.get(reverse("run_log", args=[run.pk])).content.decode()
    jobs.requeue(actor=trainer, job=stopped)
    machine("second")
    done = run_job(Job.objects.get(run=run))
    assert done.state == "succeeded", done.error_text
    assert done.events.filter(kind="log", payload__line__startswith="Goes on from the checkpoint at step").exists()
    run.refresh_from_db()
    steps = list(run.metrics.filter(name="loss").order_by("step").values_list("step", flat=True))
    assert steps == list(range(1, run.preview["steps"] + 1))

    machine("judge")
    run_all("gpu")
    evaluation = Evaluation.objects.get()
    assert evaluation.summary, evaluation.job.error_text
    assert not (run.folder / "checkpoints").exists()  # only what it needs
    machine("talker")
    chat.begin(actor=trainer, partner=run, prompt="Question 0 about part 3?", manner=Manner(max_tokens=4))
    run_all("chat")
    assert {answer.state for answer in ChatAnswer.objects.all()} == {"done"}
    machine("exporter")
    browser.post(reverse("export_create", args=[run.pk]), {"format": "merged"})
    run_all()
    export = Export.objects.get()
    machine("web")
    assert export.is_ready and not export.path.exists()
    response = client_of(viewer).get(reverse("export_download", args=[export.pk]))
    assert sum(map(len, response)) == export.result["bytes"] == int(response["Content-Length"])
    parquet = client_of(viewer).get(reverse("version_download", args=[version.pk, "parquet"]))
    assert b"".join(parquet)[:4] == b"PAR1" and not version.file_path.exists()
    assert all(not list(each.find(True)) for each in INVARIANTS)

    # Checkpoints go for all.
    assert housekeeping.purge_run(actor=trainer, run=run) > 0
    assert artefacts.bytes_of(run, artefacts.TO_GO_ON) == 0 and not Export.objects.exists()

    # A machine that has nothing can back all of it up.
    there = machine("backup")
    bring_all(has_models=True, say=lambda _: None)
    assert (there / "runs" / str(run.pk) / "adapter").is_dir() and (there / "models" / str(base.pk)).is_dir()
    assert version.file_path.exists()


@pytest.mark.django_db
def test_a_wish_for_a_checkpoint_reaches_the_machine_that_trains(machine, project, trainer, version, base):
    run = Run.objects.create(
        project=project, name="R", version=version, base=base, method="lora", preset="quick", config={},
        created_by=trainer,
    )  # fmt: skip
    run.job = jobs.enqueue(project=project, owner=trainer, kind="training.train", label="R")
    run.save()
    Job.objects.filter(pk=run.job_id).update(state="running", token="00000000-0000-0000-0000-000000000001")
    run.refresh_from_db()
    runs.wish_checkpoint(actor=trainer, run=run)
    machine("trainer")
    keeper = artefacts.Keeper(run, lambda: None)
    wish = run.folder / artefacts.CHECKPOINT_WISH
    run.folder.mkdir(parents=True)
    with keeper.at_work():
        until = time.monotonic() + 60
        while not wish.exists() and time.monotonic() < until:
            time.sleep(0.05)
    assert wish.exists() and not list(bucket.listing(run.folder))  # taken once


@pytest.mark.django_db
def test_a_site_with_files_gets_a_bucket(machine, project, trainer, settings, names):
    settings.S3_BUCKET = ""
    document = documents.upload_document(actor=trainer, project=project, name="a.txt", blocks=[b"Words.\n"]).document
    with pytest.raises(CommandError, match="There is no bucket"):
        call_command("share_files")
    settings.S3_BUCKET = NAME
    assert names() == []
    said = io.StringIO()
    call_command("share_files", stdout=said)
    assert "1 files and folders are in the bucket" in said.getvalue()
    machine("b")
    assert bucket.fetch(document.path, document.sha256).read_bytes() == b"Words.\n"


@pytest.mark.django_db
def test_a_restore_leaves_nothing_of_a_former_life_there(machine, names):
    here = machine("web")
    for folder in ("runs/7", "runs/8", "models/3"):
        write(here / folder, weights="former")
        Mirror(here / folder).push()
    machine("restored")
    write(settings_folder() / "runs" / "7", weights="restored")
    forget_former()
    assert {name.split("/blobs")[0].split("/manifest")[0] for name in names()} == {"runs/7"}


def settings_folder() -> Path:
    return Path(settings.DATA_DIR)


@pytest.mark.django_db
def test_a_state_that_is_replaced_while_it_is_read_is_read_anew(machine, monkeypatch):
    a = machine("a") / "runs" / "1"
    write(a, log="one")
    Mirror(a).push()
    b, real = machine("b") / "runs" / "1", Mirror.manifest
    stale = [{"log": {"sha256": "0" * 64, "size": 3}}]  # whose blob another machine has removed since
    seen = [*stale]
    monkeypatch.setattr(Mirror, "manifest", lambda self: seen.pop() if seen else real(self))
    assert Mirror(b).read("log", 100) == b"one"
    seen = stale * 2
    Mirror(b).pull()
    assert texts(b) == {"log": "one"}


@pytest.mark.django_db
def test_health_tries_the_bucket(machine, settings, client, names):
    cache.clear()
    assert readiness()["bucket"] == "" and names() == []
    options = {**settings.STORAGES["bucket"]["OPTIONS"], "bucket_name": "no-such-bucket"}
    settings.STORAGES = {**settings.STORAGES, "bucket": {**settings.STORAGES["bucket"], "OPTIONS": options}}
    assert readiness()["bucket"] == ""  # not asked again within half a minute
    cache.clear()
    assert "bucket cannot be used" in readiness()["bucket"]
    settings.S3_BUCKET = ""
    assert "bucket" not in readiness()
