"""Files named by their content: the lock under which one appears or goes, and those that no row points at any more."""

import time
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.db import connection

from datasets_app.models import DatasetVersion, Document, ImportBatch

# Younger ones may belong to a row that is being written.
MIN_AGE_SECONDS = 3600
ROWS = {"documents": Document, "versions": DatasetVersion, "imports": ImportBatch}


def lock_content(digest: str) -> None:
    """Until the end of the transaction nobody else places or removes the file of this content."""
    with connection.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [digest])


def orphans() -> Iterator[Path]:
    """Uploads, imports and versions' files that no row names, and what an upload that was cut off left behind."""
    before = time.time() - MIN_AGE_SECONDS
    for name, model in ROWS.items():
        known = set(model._default_manager.values_list("sha256", flat=True))
        for path in sorted((Path(settings.MEDIA_ROOT) / name).rglob("*")):
            if path.is_file() and path.stem not in known and path.stat().st_mtime < before:
                yield path
