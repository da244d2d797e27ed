"""Whether this process may be sent requests: a few cheap checks whose answers say nothing that helps an attacker."""

import logging
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from django.conf import settings
from django.core.cache import cache as site_cache
from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from finetune_site import bucket

BUCKET_IS_WELL, BUCKET_SECONDS = "health: bucket", 30
logger = logging.getLogger(__name__)


def readiness() -> dict[str, str]:
    """Each check with an empty sentence, or with the one that says what to do."""
    checks: dict[str, tuple[Callable[[], object], str]] = {
        "database": (_ask_database, "The database does not answer. Start it, or look at DATABASE_URL."),
        "migrations": (_require_migrations, "The database is of another version. Run manage.py migrate."),
        "cache": (_ask_cache, "The cache cannot be read. Run manage.py createcachetable."),
        "storage": (_write_file, "Files cannot be written. Look at the free space and rights of FINETUNE_DATA_DIR."),
    }
    if bucket.is_on():
        checks["bucket"] = (
            _try_bucket,
            "The bucket cannot be used. Look at FINETUNE_S3_BUCKET, its server and keys.",
        )
    return {name: _try(name, check, sentence) for name, (check, sentence) in checks.items()}


def missing_migrations() -> list[str]:
    """The newest migrations of the code that the database has not seen."""
    applied = MigrationRecorder(connection).applied_migrations()
    return [f"{app}.{name}" for app, name in _newest_migrations() if (app, name) not in applied]


def _try(name: str, check: Callable[[], object], sentence: str) -> str:
    try:
        check()
    except (DatabaseError, InterfaceError, OSError, NotMigrated) as error:
        logger.warning("not ready: %s (%s)", name, type(error).__name__)
        return sentence
    return ""


class NotMigrated(Exception):
    """The database lacks migrations that the code has."""


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("select 1")


def _require_migrations() -> None:
    if missing := missing_migrations():
        raise NotMigrated(", ".join(missing))


def _ask_cache() -> None:
    site_cache.get("health")


def _write_file() -> None:
    Path(settings.MEDIA_ROOT).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=settings.MEDIA_ROOT) as stream:
        stream.write(b"ready")
        stream.flush()


def _try_bucket() -> None:
    if not site_cache.get(BUCKET_IS_WELL):  # probes come every few seconds
        bucket.try_out()
        site_cache.set(BUCKET_IS_WELL, True, BUCKET_SECONDS)


@cache
def _newest_migrations() -> list[tuple[str, str]]:
    # Of the code, which does not change while a process lives: read from the disk once.
    return sorted(MigrationLoader(None).graph.leaf_nodes())
