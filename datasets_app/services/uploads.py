"""A file that arrives in parts: begun, sent part by part, looked at after a lost connection, taken once it is whole.

Each part is a file of its own, here and in the bucket, so any machine of the site takes any part.
"""

import shutil
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from datasets_app.models import Document, Upload
from datasets_app.services.documents import DocumentError, Received, plain_name, upload
from finetune_site import bucket
from finetune_site.bucket import BucketError
from finetune_site.lib.files import write_whole
from finetune_site.projects.models import Project
from finetune_site.projects.quotas import disk_refusal

PART_BYTES = 8 * 2**20
KEPT_DAYS = 2


class PartError(DocumentError):
    """The part is not the one that is wanted next; `upload` says which is."""

    def __init__(self, upload: Upload) -> None:
        super().__init__(f"So far {upload.arrived:,} bytes of “{upload.name}” are here. Go on from there.")
        self.upload = upload


def begin_upload(*, actor: User, project: Project, name: str, size: int) -> Upload:
    """Note a file of `size` bytes that will come in parts. `DocumentError`: it would not be taken."""
    limit = settings.UPLOAD_MAX_BYTES
    name = plain_name(name)
    if size > limit:
        raise DocumentError(
            f"“{name}” is larger than {limit // 2**20} MB. Split it, or ask the operator to raise the limit."
        )
    if size < 1:
        raise DocumentError(f"“{name}” is empty. Check the file and upload it again.")
    if told := disk_refusal(project):
        raise DocumentError(told)
    forget_stale()
    return Upload.objects.create(project=project, by=actor, name=name, size=size)


def take_part(*, arriving: Upload, start: int, blocks: Iterable[bytes]) -> Upload:
    """Keep the part that begins at byte `start`; how much is here now. `PartError`: another one is wanted, since this
    one came already or one before it is missing."""
    if start != arriving.arrived:
        raise PartError(arriving)
    path = arriving.folder / f"{start:015d}"
    wanted = min(PART_BYTES, arriving.size - start)
    try:
        write_whole(path, _exactly(blocks, wanted, arriving.name))
        bucket.put(path)
    except BucketError as error:
        raise DocumentError(str(error)) from error
    with transaction.atomic():
        locked = Upload.objects.select_for_update().get(pk=arriving.pk)
        if locked.arrived != start:  # it was sent twice at once, and the other was first: the same part
            raise PartError(locked)
        locked.arrived = start + wanted
        locked.save(update_fields=["arrived"])
    return locked


def finish(*, actor: User, arriving: Upload) -> list[Received]:
    """Take a file that is whole as if it had come at once. Asked again, it says the same again."""
    with transaction.atomic():
        locked = Upload.objects.select_for_update().select_related("project").get(pk=arriving.pk)
        if locked.arrived < locked.size:
            raise PartError(locked)
        if not locked.outcome:
            received = upload(actor=actor, project=locked.project, name=locked.name, blocks=_content(locked))
            locked.outcome = [_noted(entry) for entry in received]
            locked.save(update_fields=["outcome"])
    _remove_parts(locked)
    documents = Document.objects.in_bulk([entry["document"] for entry in locked.outcome])
    return [Received(**{**entry, "document": documents.get(entry["document"])}) for entry in locked.outcome]


def forget_stale() -> None:
    """Remove uploads that nobody finished for days, and what is noted of those that were."""
    for stale in Upload.objects.filter(begun_at__lt=timezone.now() - timedelta(days=KEPT_DAYS)):
        _remove_parts(stale)
        stale.delete()


def _noted(entry: Received) -> dict[str, Any]:
    key = entry.document.pk if entry.document else None
    return {"name": entry.name, "document": key, "is_new": entry.is_new, "error": entry.error}


def _content(arriving: Upload) -> Iterator[bytes]:
    """All its parts in turn. `DocumentError`: one is gone, as after a backup was restored."""
    for start, end in pairwise([*range(0, arriving.size, PART_BYTES), arriving.size]):
        size = 0
        try:
            for block in bucket.blocks(arriving.folder / f"{start:015d}"):
                size += len(block)
                yield block
        except (FileNotFoundError, BucketError) as error:
            raise DocumentError(f"A part of “{arriving.name}” is gone. Upload the file again.") from error
        if size != end - start:
            raise DocumentError(f"A part of “{arriving.name}” was cut. Upload the file again.")


def _exactly(blocks: Iterable[bytes], size: int, name: str) -> Iterator[bytes]:
    """Pass blocks of so many bytes on; `DocumentError` for more, or for less, as a cut connection leaves."""
    got = 0
    for block in blocks:
        got += len(block)
        if got > size:
            break
        yield block
    if got != size:
        raise DocumentError(f"A part of “{name}” must have {size:,} bytes. Send it again.")


def _remove_parts(arriving: Upload) -> None:
    shutil.rmtree(arriving.folder, ignore_errors=True)
    bucket.remove_below(arriving.folder)
