"""Files named by their content: the lock under which one appears or goes, and those that no row points at any more."""

import time
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.db import connection

from datasets_app.models import DatasetVersion, Document, ImportBatch
from finetune_site import bucket

# Younger ones may belong to a row that is being written.
MIN_AGE_SECONDS = 3600
ROWS = {"documents": Document, "versions": DatasetVersion, "imports": ImportBatch}


def lock_content(digest: str) -> None:
    """Until the end of the transaction nobody else places or removes the file of this content."""
    with connection.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [digest])


def orphans() -> Iterator[tuple[Path, int]]:
    """Uploads, imports and versions' files that no row names, and what an upload that was cut off left behind: path
    and size in bytes, of disk and bucket."""
    before = time.time() - MIN_AGE_SECONDS
    for name, model in ROWS.items():
        known = set(model._default_manager.values_list("sha256", flat=True))
        folder = Path(settings.MEDIA_ROOT) / name
        found = {kept.path: (kept.size, kept.at.timestamp()) for kept in bucket.listing(folder)}
        for path in folder.rglob("*"):
            if path.is_file():
                found[path] = (path.stat().st_size, path.stat().st_mtime)
        for path, (size, at) in sorted(found.items()):
            if path.stem not in known and at < before:
                yield path, size
