"""Files named by their content: how one arrives, the lock under which it appears or goes, and those that no row points
at any more."""

import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import connection, transaction

from datasets_app.models import DatasetVersion, Document, ImportBatch
from finetune_site import bucket
from finetune_site.lib.files import write_whole

# Younger ones may belong to a row that is being written.
MIN_AGE_SECONDS = 3600
ROWS = {"documents": Document, "versions": DatasetVersion, "imports": ImportBatch}


@dataclass(frozen=True)
class Arrival:
    """A file that was sent, written aside. `size` in bytes."""

    aside: Path
    sha256: str
    size: int

    def keep(self, path: Path) -> None:
        """Place it here and in the bucket, in the transaction that writes its row. `BucketError`: it is here alone."""
        lock_content(self.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.aside.rename(path)
        bucket.put(path)


class TooLargeError(Exception):
    """The person can mend it; the message says how."""


def too_large(name: str) -> TooLargeError:
    limit = settings.UPLOAD_MAX_BYTES // 2**20
    return TooLargeError(f"“{name}” is larger than {limit} MB. Split it, or ask the operator to raise the limit.")


@contextmanager
def arriving(folder: str, name: str, blocks: Iterable[bytes]) -> Iterator[Arrival]:
    """What is sent, aside in a folder of the uploads; what is not kept by the end is gone. `TooLargeError`."""
    aside = Path(settings.MEDIA_ROOT) / folder / f".arriving-{uuid.uuid4().hex}"
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        digest = write_whole(aside, _limited(blocks, name))
        yield Arrival(aside, digest, aside.stat().st_size)
    finally:
        aside.unlink(missing_ok=True)


def _limited(blocks: Iterable[bytes], name: str) -> Iterator[bytes]:
    size = 0
    for block in blocks:
        size += len(block)
        if size > settings.UPLOAD_MAX_BYTES:
            raise too_large(name)
        yield block


@transaction.atomic
def remove_orphan(path: Path) -> None:
    """Remove a file that `orphans` named, unless a row has come to it since."""
    digests = sorted({path.stem, path.parent.name})  # of an upload, or of the upload whose page it shows
    for digest in digests:
        lock_content(digest)
    is_young = path.exists() and path.stat().st_mtime >= time.time() - MIN_AGE_SECONDS
    if not is_young and not any(model._default_manager.filter(sha256__in=digests).exists() for model in ROWS.values()):
        bucket.remove(path)


def lock_content(digest: str) -> None:
    """Until the end of the transaction nobody else places or removes the file of this content."""
    with connection.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [digest])


def orphans() -> Iterator[tuple[Path, int]]:
    """Uploads, imports and versions' files that no row names, pictures of such uploads' pages, and what an upload that
    was cut off left behind: path and size in bytes, of disk and bucket."""
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
    documents = set(Document.objects.values_list("sha256", flat=True))
    for path in (settings.DATA_DIR / "cache" / "pages").glob("*/*/*"):
        if path.parent.name not in documents and path.stat().st_mtime < before:
            yield path, path.stat().st_size
