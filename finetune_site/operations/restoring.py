"""Putting a backup into a site: everything is verified first, and the database is replaced as a whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.core.cache import cache
from django.core.management.color import no_style
from django.db import connection, transaction
from django.utils import timezone

from finetune_site import bucket
from finetune_site.jobs.events import record
from finetune_site.jobs.models import Job, JobState
from finetune_site.jobs.services import wake
from finetune_site.operations.archive import (
    BLOCK_BYTES,
    FOLDERS,
    TABLES,
    BackupError,
    Manifest,
    members,
    table_of,
    verify,
)
from finetune_site.operations.backup import LEFT_OUT, Say, fingerprint, migrations, place_of, quoted, tables
from finetune_site.operations.sharing import forget_former, send_all
from finetune_site.projects.models import Project
from training_app.models import BaseModel


def restore(path: Path, *, replace: bool = False, say: Say = lambda _: None) -> Manifest:
    """Fill this site from an archive. One that holds anything is refused unless `replace`."""
    _require_empty(replace)
    say("verifying")
    manifest = verify(path)
    _require_same_schema(manifest)
    _require_idle()
    new = Path(settings.DATA_DIR) / "run" / f"restore-{os.getpid()}"
    try:
        say("unpacking files")
        _unpack(path, new)
        say("replacing the database")
        with _swapped(new, manifest), transaction.atomic(durable=True):
            _require_idle()
            _load(path, manifest)
            _forget_models_not_here()
            _queue_again()
    finally:
        shutil.rmtree(new, ignore_errors=True)
    if bucket.is_on():
        say("sending files to the bucket; if this ends early, restore once more")
        forget_former()
        send_all()
    cache.clear()
    ContentType.objects.clear_cache()
    return manifest


def has_other_key(manifest: Manifest) -> bool:
    """Whether the secrets in this backup were sealed under another key than this site's."""
    return manifest.key != fingerprint(settings.SECRET_KEY)


def _require_empty(replace: bool) -> None:
    if replace:
        return
    if Project.objects.exists() or User.objects.exists():
        raise BackupError("This site holds projects or accounts. To replace all of it, add --replace.")


def _require_same_schema(manifest: Manifest) -> None:
    here, there = set(migrations()), set(manifest.migrations)
    if lacking := sorted(there - here):
        raise BackupError(
            f"The backup is of version {manifest.version}, whose database has {lacking[0]}; this one has not. Install "
            "that version or a later one, run manage.py migrate, and restore again."
        )
    if newer := sorted(here - there):
        raise BackupError(
            f"This database has {newer[0]}, the backup of version {manifest.version} has not. Install that version, "
            "restore into an empty database, and then upgrade."
        )


def _require_idle() -> None:
    running = Job.objects.filter(state=JobState.RUNNING).count()
    if running:
        raise BackupError(f"{running} jobs run here. Stop the clusters, wait until the jobs have saved, and try again.")


def _unpack(path: Path, new: Path) -> None:
    for name, stream in members(path):
        if name.partition("/")[0] not in FOLDERS:
            continue
        target = new / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:
            shutil.copyfileobj(stream, out, BLOCK_BYTES)


@contextmanager
def _swapped(new: Path, manifest: Manifest) -> Iterator[None]:
    """The folders change places around the transaction: back again when it fails, the old ones away when it held. Who
    kills the process in between finds the former ones in `old`."""
    old = new / "old"
    moved: list[str] = []
    try:
        for folder in FOLDERS:
            if folder == "models" and not manifest.has_models:
                continue
            here = place_of(folder)
            (old / folder).parent.mkdir(parents=True, exist_ok=True)
            (new / folder).mkdir(parents=True, exist_ok=True)
            if here.exists():
                here.rename(old / folder)
            moved.append(folder)
            (new / folder).rename(here)
        yield
    except BaseException:
        for folder in moved:
            shutil.rmtree(place_of(folder), ignore_errors=True)
            if (old / folder).exists():
                (old / folder).rename(place_of(folder))
        raise


def _load(path: Path, manifest: Manifest) -> None:
    known = tables()
    if unknown := sorted(set(manifest.tables) - set(known)):
        raise BackupError(f"The backup holds the table {unknown[0]}, which this site does not have.")
    with connection.cursor() as cursor:
        # Foreign keys of Django are checked at the commit: the order of the tables does not matter.
        cursor.execute(f"truncate {quoted([*known, *_emptied()])}")
        for name, stream in members(path):
            if not name.startswith(f"{TABLES}/"):
                continue
            table = table_of(name)
            columns = quoted(manifest.tables[table].columns)
            with cursor.copy(f"copy {connection.ops.quote_name(table)} ({columns}) from stdin") as copy:
                while block := stream.read(BLOCK_BYTES):
                    copy.write(block)
        for statement in connection.ops.sequence_reset_sql(no_style(), apps.get_models(include_auto_created=True)):
            cursor.execute(statement)


def _emptied() -> list[str]:
    """What a backup leaves out and this site may hold of its former life; schedules keep themselves."""
    there = set(connection.introspection.table_names())
    return sorted((LEFT_OUT - {"django_q_schedule"}) & there)


def _forget_models_not_here() -> None:
    for base in BaseModel.objects.exclude(ready_at=None):
        if not base.folder.exists():
            BaseModel.objects.filter(pk=base.pk).update(ready_at=None)


def _queue_again() -> None:
    """Jobs that ran at the moment of the backup go on from what their folders kept; one that was being stopped is."""
    for job in Job.objects.filter(state=JobState.RUNNING):
        state = JobState.CANCELLED if job.cancel_requested else JobState.QUEUED
        Job.objects.filter(pk=job.pk).update(
            state=state, token=None, lease_until=None, pid=None, pid_started=None, engine_pid=None, engine_started=None,
            held_slots=[], attempt=max(job.attempt - 1, 0), not_before=None,
            finished_at=timezone.now() if job.cancel_requested else None,
            message="" if job.cancel_requested else "Restored from a backup; the work goes on from what it kept",
        )  # fmt: skip
        record(job, "state", {"state": state})
    for queue in Job.objects.filter(state=JobState.QUEUED).order_by().values_list("queue", flat=True).distinct():
        wake(queue)
