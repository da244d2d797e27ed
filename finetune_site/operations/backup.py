"""Taking a backup while the site works: the tables as of one moment, and every file that they name.

Why they fit together: all tables are read in one repeatable-read transaction. A file is whole on the disk before its
row is committed, so each row of that moment had its file. Files that people delete meanwhile are held by hard links
made right after the moment; should one have gone in between, a row's file is missing among the links, and a new moment
is taken. Only a file that is missing twice is really gone, and is named in the manifest.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO

from django.apps import apps
from django.conf import settings
from django.db import connection, transaction
from django.db.migrations.recorder import MigrationRecorder

from datasets_app.services.storage import ROWS
from finetune_site.lib.kernel import start_time
from finetune_site.lib.process import is_alive
from finetune_site.operations.archive import FOLDERS, FORMAT, TABLES, BackupError, Manifest, Table, Writer
from finetune_site.operations.sharing import bring_all

PIECE_BYTES = 8 * 1024 * 1024  # a table's piece is held in memory, as tar wants its size first
TRIES = 5
# What is of this machine or this minute: the restored site makes it anew, and people log in again.
LEFT_OUT = {"django_session", "django_q_ormq", "django_q_task", "django_q_schedule", "jobs_machine"}
LEFT_OUT |= {"datasets_app_tally"}  # counted anew as the examples come back
LEFT_OUT |= {"datasets_app_upload"}  # files on their way are sent again

Say = Callable[[str], None]


def take(path: Path, *, has_models: bool = True, say: Say = lambda _: None) -> Manifest:
    """Write a backup to `path`, which exists only when it is whole; readable by its owner alone."""
    if path.exists():
        raise BackupError(f"{path} exists already. Choose another name.")
    if not path.parent.is_dir():
        raise BackupError(f"There is no folder {path.parent}. Make it first.")
    aside = path.with_name(f"{path.name}.part")
    bring_all(has_models=has_models, say=say)
    try:
        with _held_folder() as held, open(aside, "wb", opener=_private) as stream:
            manifest = _write(stream, held, has_models, say)
            stream.flush()
            os.fsync(stream.fileno())
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)
    return manifest


def kept() -> list[Path]:
    """The archives in the operator's folder, newest first."""
    found = Path(settings.BACKUP_DIR).glob("finetune-site-*.tar") if settings.BACKUP_DIR else ()
    return sorted(found, key=lambda path: path.name, reverse=True)


def tables() -> dict[str, list[str]]:
    """Every table of the site's own models that is backed up, with its columns."""
    models = apps.get_models(include_auto_created=True)
    names = {model._meta.db_table for model in models if model._meta.managed} - LEFT_OUT
    with connection.cursor() as cursor:
        cursor.execute(
            "select table_name, column_name from information_schema.columns where table_schema = current_schema() "
            "and table_name = any(%s) and is_generated = 'NEVER' order by table_name, ordinal_position",
            [sorted(names)],
        )
        found: dict[str, list[str]] = {}
        for table, column in cursor.fetchall():
            found.setdefault(table, []).append(column)
    return found


def migrations() -> list[str]:
    return sorted(f"{app}.{name}" for app, name in MigrationRecorder(connection).applied_migrations())


def fingerprint(key: str) -> str:
    """Tells whether two keys are the same; made slowly, so that a weak key is not found by trying."""
    return hashlib.pbkdf2_hmac("sha256", key.encode(), b"finetune site: backup", 300_000).hex()[:16]


def place_of(folder: str) -> Path:
    """Where a folder of an archive lies in this site."""
    return Path(settings.MEDIA_ROOT) if folder == "files" else Path(settings.DATA_DIR) / folder


def quoted(names: list[str]) -> str:
    return ", ".join(connection.ops.quote_name(name) for name in names)


def _write(stream: IO[bytes], held: Path, has_models: bool, say: Say) -> Manifest:
    writer = Writer(stream)
    folders = [name for name in FOLDERS if has_models or name != "models"]
    missing: set[str] = set()
    for _ in range(TRIES):
        with transaction.atomic(durable=True):
            with connection.cursor() as cursor:
                cursor.execute("set transaction isolation level repeatable read, read only")
            named = _named_files()
            shutil.rmtree(held)
            links = dict(_hold(held, folders))
            lacking = named - {Path(name).stem for name in links if name.startswith("files/")}
            if lacking - missing:
                missing |= lacking
                continue
            facts = {table: _copy_out(writer, table, columns) for table, columns in tables().items()}
            applied, server = migrations(), connection.cursor().connection.info.server_version
        break
    else:
        raise BackupError("People delete too much at the moment. Start the backup again.")
    say(f"{sum(table.rows for table in facts.values())} rows of {len(facts)} tables")
    for name, path in sorted(links.items()):
        with contextlib.suppress(FileNotFoundError):  # could not be linked, and went meanwhile
            writer.add_file(name, path)
    say(f"{len(links)} files")
    manifest = Manifest(
        format=FORMAT,
        version=version("finetune-site"),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        postgres=str(server),
        key=fingerprint(settings.SECRET_KEY),
        has_models=has_models,
        migrations=applied,
        tables=facts,
        members=dict(writer.members),  # without the manifest itself, which comes last
        gone=sorted(lacking),
    )
    writer.finish(manifest)
    return manifest


def _named_files() -> set[str]:
    """The hashes of all files that rows name at this moment."""
    rows = (model._default_manager.exclude(sha256="").values_list("sha256", flat=True) for model in ROWS.values())
    return {digest for digests in rows for digest in digests}


def _hold(held: Path, folders: list[str]) -> Iterator[tuple[str, Path]]:
    """Hard links to all files: (name in the archive, link). A file system without links gives the files themselves."""
    for folder in folders:
        root = place_of(folder)
        for place, _, names in os.walk(root):
            for name in names:
                path = Path(place) / name
                relative = f"{folder}/{path.relative_to(root).as_posix()}"
                link = held / relative
                link.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(path.resolve(), link)
                except FileNotFoundError:
                    continue  # went while we looked: the check of the rows tells whether that matters
                except OSError:
                    link = path
                if link.is_file():
                    yield relative, link


def _copy_out(writer: Writer, table: str, columns: list[str]) -> Table:
    rows = number = 0
    piece = bytearray()

    def close() -> None:
        nonlocal number
        writer.add_bytes(f"{TABLES}/{table}/{number:06}", bytes(piece))
        piece.clear()
        number += 1

    names = quoted(columns)
    with (
        connection.cursor() as cursor,
        cursor.copy(f"copy {connection.ops.quote_name(table)} ({names}) to stdout") as copy,
    ):
        for row in copy:  # one row a block, each ends with the only bare newline in it
            piece += row
            rows += 1
            if len(piece) >= PIECE_BYTES:
                close()
    if piece:
        close()
    return Table(columns=columns, rows=rows)


@contextlib.contextmanager
def _held_folder() -> Iterator[Path]:
    """A folder for the links, on the disk of the files; those of backups that were killed are removed."""
    home = Path(settings.DATA_DIR) / "run"
    for left in home.glob("backup-*-*"):
        pid, started = left.name.split("-")[1:]
        if not is_alive(int(pid), int(started)):
            shutil.rmtree(left, ignore_errors=True)
    held = home / f"backup-{os.getpid()}-{start_time(os.getpid())}"
    held.mkdir(parents=True)
    try:
        yield held
    finally:
        shutil.rmtree(held, ignore_errors=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
