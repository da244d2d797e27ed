"""A file that arrives in parts: begun, sent part by part, looked at after a lost connection, taken once it is whole.

Each part is a file of its own, here and in the bucket, so any machine of the site takes any part.
"""

import logging
import shutil
import uuid
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Sum
from django.utils import timezone

from datasets_app.models import Document, Upload
from datasets_app.services.documents import DocumentError, PassingError, Received, plain_name, upload
from datasets_app.services.storage import too_large
from finetune_site import bucket
from finetune_site.bucket import BucketError
from finetune_site.lib.files import write_whole
from finetune_site.projects.models import Project
from finetune_site.projects.quotas import disk_limit, disk_refusal

logger = logging.getLogger(__name__)
PART_BYTES = 8 * 2**20
KEPT_DAYS = 2
FINISH_MINUTES = 15  # after which whoever puts a file together is taken for dead


class PartError(DocumentError):
    """The part is not the one that is wanted next; `upload` says which is."""

    def __init__(self, upload: Upload) -> None:
        super().__init__(f"So far {upload.arrived:,} bytes of “{upload.name}” are here. Go on from there.")
        self.upload = upload


class GoneError(DocumentError):
    """The upload, or a part of it, is not here any more: it has to begin anew."""

    def __init__(self, name: str) -> None:
        super().__init__(f"What was sent of “{name}” is not here any more. Upload the file again.")


class _MissingPart(Exception):
    """A part is not here, or not whole."""


def begin_upload(*, actor: User, project: Project, name: str, size: int) -> Upload:
    """Note a file of `size` bytes that will come in parts. `DocumentError`: it would not be taken."""
    name = plain_name(name)
    if size > settings.UPLOAD_MAX_BYTES:
        raise DocumentError(str(too_large(name)))
    if size < 1:
        raise DocumentError(f"“{name}” is empty. Check the file and upload it again.")
    on_their_way = Upload.objects.filter(project=project, outcome=[])
    if on_their_way.filter(by=actor).count() >= settings.UPLOAD_MAX_FILES:
        raise DocumentError(
            f"{settings.UPLOAD_MAX_FILES} uploads of yours are not finished. Finish one of them; what nobody finishes "
            f"is forgotten after {KEPT_DAYS} days."
        )
    limit = disk_limit(project)
    coming = on_their_way.aggregate(bytes=Sum("size"))["bytes"] or 0
    project.refresh_from_db(fields=["disk_bytes"])
    if told := disk_refusal(project):
        raise DocumentError(told)
    if limit is not None and project.disk_bytes + coming + size > limit:
        raise DocumentError(
            f"“{name}” does not fit into what the project may take of the disk. Ask an operator for more."
        )
    return Upload.objects.create(project=project, by=actor, name=name, size=size)


def take_part(*, arriving: Upload, start: int, blocks: Iterable[bytes]) -> Upload:
    """Keep the part that begins at byte `start`; how much is here now. `PartError`: another one is wanted, since this
    one came already or one before it is missing."""
    if start != arriving.arrived:
        raise PartError(arriving)
    wanted = min(PART_BYTES, arriving.size - start)
    aside = arriving.folder / f".{uuid.uuid4().hex}"
    try:
        write_whole(aside, _exactly(blocks, wanted, arriving.name))
        with transaction.atomic():
            locked = _locked(arriving)
            if locked.arrived != start:  # it was sent twice at once, and the other was first
                raise PartError(locked)
            path = _part(arriving, start)
            aside.rename(path)
            bucket.put(path)
            locked.arrived, locked.touched_at = start + wanted, timezone.now()
            locked.save(update_fields=["arrived", "touched_at"])
    except BucketError as error:
        raise DocumentError(str(error)) from error
    finally:
        aside.unlink(missing_ok=True)
    return locked


def finish(*, actor: User, arriving: Upload) -> list[Received]:
    """Take a file that is whole as if it had come at once. Asked again, it says the same again; what may pass, as a
    project without room, keeps the parts. `PassingError`: somebody is at it. `GoneError`: begin anew."""
    with transaction.atomic():
        locked = _locked(arriving)
        if locked.arrived < locked.size:
            raise PartError(locked)
        if not locked.outcome:
            if locked.finishing_since and locked.finishing_since > timezone.now() - timedelta(minutes=FINISH_MINUTES):
                raise PassingError(f"“{locked.name}” is being taken. Ask again in a moment.")
            locked.finishing_since = timezone.now()
            locked.save(update_fields=["finishing_since"])
    if not locked.outcome and (passing := _take(actor, locked)):
        return passing
    documents = Document.objects.in_bulk([entry["document"] for entry in locked.outcome])
    return [Received(**{**entry, "document": documents.get(entry["document"])}) for entry in locked.outcome]


def forget_stale() -> None:
    """Remove uploads that nobody went on with for days, and what is noted of those that were finished. Done hourly."""
    before = timezone.now() - timedelta(days=KEPT_DAYS)
    for stale in Upload.objects.filter(touched_at__lt=before):
        if Upload.objects.filter(pk=stale.pk, touched_at__lt=before).delete()[0]:
            _remove_parts(stale)


def _take(actor: User, arriving: Upload) -> list[Received]:
    """Make documents of it and note what became of them; what failed for a reason that may pass is returned instead."""
    try:
        received = upload(actor=actor, project=arriving.project, name=arriving.name, blocks=_content(arriving))
    except _MissingPart as error:
        Upload.objects.filter(pk=arriving.pk).delete()
        _remove_parts(arriving)
        raise GoneError(arriving.name) from error
    except BaseException:
        Upload.objects.filter(pk=arriving.pk).update(finishing_since=None)
        raise
    if any(entry.may_pass for entry in received):
        Upload.objects.filter(pk=arriving.pk).update(finishing_since=None)
        return received
    arriving.outcome = [_noted(entry) for entry in received]
    Upload.objects.filter(pk=arriving.pk).update(outcome=arriving.outcome)
    _remove_parts(arriving)
    return []


def _locked(arriving: Upload) -> Upload:
    found = Upload.objects.select_for_update(of=("self",)).select_related("project").filter(pk=arriving.pk).first()
    if not found:
        raise GoneError(arriving.name)
    return found


def _noted(entry: Received) -> dict[str, Any]:
    key = entry.document.pk if entry.document else None
    return {"name": entry.name, "document": key, "is_new": entry.is_new, "error": entry.error}


def _part(arriving: Upload, start: int) -> Path:
    return arriving.folder / f"{start:015d}"


def _content(arriving: Upload) -> Iterator[bytes]:
    """All its parts in turn. `_MissingPart`: as after a backup was restored."""
    for start, end in pairwise([*range(0, arriving.size, PART_BYTES), arriving.size]):
        size = 0
        try:
            for block in bucket.blocks(_part(arriving, start)):
                size += len(block)
                yield block
        except FileNotFoundError as error:
            raise _MissingPart from error
        if size != end - start:
            raise _MissingPart


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
    try:
        bucket.remove_below(arriving.folder)
    except BucketError as error:  # `manage.py purge` finds them later
        logger.warning("parts of upload %s stay in the bucket: %s", arriving.pk, error)
