"""What can be done to documents."""

import logging
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from datasets_app.engine import media_type, ocr
from datasets_app.engine.spec import Reading
from datasets_app.models import Document, ReadingDefault
from datasets_app.services.storage import Arrival, TooLargeError, arriving, lock_content
from finetune_site import bucket
from finetune_site.bucket import BucketError
from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import JobState
from finetune_site.lib.channel import InputError
from finetune_site.projects.models import Project
from finetune_site.projects.quotas import QuotaError, disk_refusal, give_disk_back, take_disk
from finetune_site.projects.services import audit

logger = logging.getLogger(__name__)
PARSE, CUT = "datasets.parse", "datasets.cut"
MAX_UNPACKED, MAX_RATIO = 4, 200  # of an archive, by the largest upload and by its own size
CUTTING = ("cut", "passage_size", "overlap", "tokens_of")  # what of a reading says how passages are cut


class DocumentError(Exception):
    """The person can mend it; the message says how."""


class PassingError(DocumentError):
    """Nothing is wrong with the file: the same may be taken later, as soon as there is room, or the bucket answers."""


@dataclass(frozen=True)
class Uploaded:
    """`is_new` False: the project already had a document with this content, and it is this one."""

    document: Document
    is_new: bool


@dataclass(frozen=True)
class Received:
    """What became of one file that was sent: a document, or an error with a sentence. `may_pass`: as `PassingError`."""

    name: str
    document: Document | None = None
    is_new: bool = False
    error: str = ""
    may_pass: bool = False


def upload_document(*, actor: User, project: Project, name: str, blocks: Iterable[bytes]) -> Uploaded:
    """Keep a file under its hash, then its row and the job that parses it. `DocumentError` for what is no document."""
    name = plain_name(name)
    with _taking(project, name, blocks) as arrival:
        return _keep(actor, project, name, arrival, _kind(arrival, name))


def upload(*, actor: User, project: Project, name: str, blocks: Iterable[bytes]) -> list[Received]:
    """Keep a file, or every file of a ZIP archive: each is a document, or has a sentence that says why it is none."""
    name = plain_name(name)
    try:
        with _taking(project, name, blocks) as arrival:
            if media_type.is_plain_archive(arrival.aside):
                return list(_unpack(actor, project, name, arrival.aside))
            done = _keep(actor, project, name, arrival, _kind(arrival, name))
            return [Received(name, done.document, is_new=done.is_new)]
    except DocumentError as error:
        return [Received(name, error=str(error), may_pass=isinstance(error, PassingError))]


@contextmanager
def _taking(project: Project, name: str, blocks: Iterable[bytes]) -> Iterator[Arrival]:
    """A file as it arrives; whatever keeps it from being taken is a `DocumentError`."""
    if told := disk_refusal(project):  # before anything is sent here in vain
        raise PassingError(told)
    try:
        with arriving("documents", name, blocks) as arrival:
            yield arrival
    except (InputError, TooLargeError) as error:
        raise DocumentError(str(error)) from error
    except (QuotaError, BucketError) as error:
        raise PassingError(str(error)) from error


def _unpack(actor: User, project: Project, archive_name: str, path: Path) -> Iterator[Received]:
    """The files of an archive by their names alone, whatever folders they lie in; nothing is written under a name that
    the archive gives."""
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir() and not _is_clutter(member.filename)]
        if told := _unpacking_refusal(archive_name, members, path.stat().st_size):
            yield Received(archive_name, error=told)
            return
        for member in members:
            name = plain_name(member.filename)
            try:
                with archive.open(member) as stream:
                    blocks = iter(partial(stream.read, 2**20), b"")
                    done = upload_document(actor=actor, project=project, name=name, blocks=blocks)
                yield Received(name, done.document, is_new=done.is_new)
            except DocumentError as error:
                yield Received(name, error=str(error), may_pass=isinstance(error, PassingError))
            except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
                why = "is encrypted" if "password" in str(error) else "is damaged"
                yield Received(name, error=f"“{name}” {why} in the archive and was not taken.")


def _unpacking_refusal(name: str, members: list[zipfile.ZipInfo], packed: int) -> str:
    """Why an archive of so many bytes is not unpacked; empty when it is."""
    size = sum(member.file_size for member in members)
    most = settings.UPLOAD_MAX_FILES
    if len(members) > most:
        return f"“{name}” holds {len(members)} files; at most {most} are taken at once. Split it."
    if size > MAX_UNPACKED * settings.UPLOAD_MAX_BYTES or (size > 10**8 and size > MAX_RATIO * packed):
        return f"“{name}” unpacks to {size / 1e6:,.0f} MB, far more than documents do. It is not unpacked."
    return "" if members else f"“{name}” holds no file."


def _is_clutter(name: str) -> bool:
    """What systems put beside people's files."""
    parts = name.replace("\\", "/").split("/")
    return (
        "__MACOSX" in parts or parts[-1] in {"", ".DS_Store", "Thumbs.db", "desktop.ini"} or parts[-1].startswith("._")
    )


def plain_name(name: str) -> str:
    """The last part of a name, which never becomes a path."""
    return Path(name.replace("\\", "/").replace("\x00", "")).name[:255] or "unnamed"


@transaction.atomic
def parse_again(*, actor: User, document: Document, reading: Reading | None = None) -> None:
    """Parse a document anew, with other settings where some are given; what was parsed before stays until the new
    result is there, and people's corrections are made in it too."""
    locked = Document.objects.select_for_update().get(pk=document.pk)
    # One that is only being cut may: it is cut anew at the end of its reading.
    if locked.job and locked.job.kind == PARSE and not locked.job.is_finished:
        raise DocumentError("The document is being parsed already. Wait for it, or stop the job.")
    if told := reading_refusal(locked, reading or locked.reading_settings):
        raise DocumentError(told)
    before = locked.reading
    if reading is not None:
        locked.reading = chosen(reading)
        locked.save(update_fields=["reading"])
    _enqueue(actor, locked)
    audit(document.project, actor, "parsed again", document, before=before, after=locked.reading)


@transaction.atomic
def cut_again(*, actor: User, document: Document, reading: Reading) -> None:
    """Cut a document into other passages, without reading it anew."""
    locked = Document.objects.select_for_update().get(pk=document.pk)
    before = locked.reading
    locked.reading = chosen(replace(locked.reading_settings, **{name: getattr(reading, name) for name in CUTTING}))
    locked.save(update_fields=["reading"])
    audit(locked.project, actor, "cut again", locked, before=before, after=locked.reading)
    enqueue_cut(actor, locked)


@transaction.atomic
def set_reading_default(*, actor: User, project: Project, reading: Reading) -> None:
    """How documents are read that are uploaded to the project from now on."""
    default, _ = ReadingDefault.objects.select_for_update().get_or_create(project=project)
    before, default.reading = default.reading, chosen(reading)
    default.save()
    audit(project, actor, "set how documents are read", project, before=before, after=default.reading)


def reading_refusal(document: Document, reading: Reading) -> str:
    """Why the document surely cannot be read like this, as far as it can be known here; empty when it can be tried."""
    if not document.has_pictures:
        return ""
    if reading.strategy == "layout" and document.media_type == media_type.PDF and not settings.LAYOUT_MODEL:
        return "To read PDFs by their look needs a layout model, which the operator has not set. Choose another way."
    try:
        if document.pages:  # once it was read
            reading.pages(document.pages)
        if reading.strategy != "text" and ocr.languages():  # else it is read elsewhere, where they may be installed
            ocr.check(reading.languages)
    except InputError as error:
        return str(error)
    return ""


def chosen(reading: Reading) -> dict[str, Any]:
    """What of it differs from the usual, as it is kept."""
    usual = vars(Reading())
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(reading).items()
        if value != usual[name]
    }


def enqueue_cut(owner: User, document: Document) -> None:
    """Have a document cut into passages soon. A reading that is under way does it at its end, and a cut that waits does
    it for all that changed before it."""
    job = document.job
    if job and (job.state == JobState.QUEUED or (job.kind == PARSE and not job.is_finished)):
        return
    document.job = jobs.enqueue(
        project=document.project, owner=owner, kind=CUT, label=document.name, url=document.get_absolute_url()
    )
    document.save(update_fields=["job"])


@transaction.atomic
def withdraw_document(*, actor: User, document: Document, reason: str) -> None:
    """Let nothing more be made from a document. What was made from it stays and is marked."""
    locked = Document.objects.select_for_update().get(pk=document.pk)
    if not reason.strip():
        raise DocumentError("Say why the document is withdrawn: who meets what was made from it will ask.")
    if locked.withdrawn_at:
        return
    locked.withdrawn_at, locked.withdrawn_by, locked.withdrawn_why = timezone.now(), actor, reason.strip()[:300]
    locked.save(update_fields=["withdrawn_at", "withdrawn_by", "withdrawn_why"])
    audit(locked.project, actor, "withdrew", locked, after={"reason": locked.withdrawn_why})


@transaction.atomic
def readmit_document(*, actor: User, document: Document) -> None:
    """Let a withdrawn document be used again."""
    locked = Document.objects.select_for_update().get(pk=document.pk)
    if locked.withdrawn_at:
        audit(locked.project, actor, "readmitted", locked, before={"reason": locked.withdrawn_why})
        locked.withdrawn_at, locked.withdrawn_by, locked.withdrawn_why = None, None, ""
        locked.save(update_fields=["withdrawn_at", "withdrawn_by", "withdrawn_why"])


@transaction.atomic
def delete_document(*, actor: User, document: Document) -> None:
    """Remove a document and what was parsed of it. Examples keep its name and their quotes; sealed versions stay."""
    if document.job and not document.job.is_finished:
        raise DocumentError("The document is being parsed. Stop the job first.")
    audit(document.project, actor, "deleted", document, before={"sha256": document.sha256, "size": document.size})
    digest, path, pictures = document.sha256, document.path, document.picture_folder
    document.delete()
    give_disk_back(document.project, document.size)
    transaction.on_commit(lambda: _forget(digest, path, pictures))


@transaction.atomic
def _forget(digest: str, path: Path, pictures: Path) -> None:
    """Remove a file that no document of any project has, and the pictures of its pages."""
    lock_content(digest)
    if not Document.objects.filter(sha256=digest).exists():
        shutil.rmtree(pictures, ignore_errors=True)
        try:
            bucket.remove(path)
        except BucketError as error:  # `manage.py purge` finds it later
            logger.warning("document file %s stays in the bucket: %s", digest, error)


def _kind(arrival: Arrival, name: str) -> str:
    """What it is; `InputError` for what is no document, or surely more text than is read of one."""
    kind = media_type.sniff(arrival.aside, name)
    media_type.check_text_size(kind, arrival.size)
    return kind


@transaction.atomic
def _keep(actor: User, project: Project, name: str, arrival: Arrival, kind: str) -> Uploaded:
    """The file under the name of its content, and its row."""
    default = ReadingDefault.objects.filter(project=project).first()
    facts = {"name": name, "size": arrival.size, "media_type": kind, "uploaded_by": actor}
    facts |= {"reading": default.reading if default else {}}
    arrival.keep(Document(sha256=arrival.sha256).path)
    document, is_new = Document.objects.get_or_create(project=project, sha256=arrival.sha256, defaults=facts)
    if is_new:
        _enqueue(actor, document)
        take_disk(project, arrival.size)
        audit(project, actor, "uploaded", document, after={"sha256": arrival.sha256, "size": arrival.size})
    return Uploaded(document, is_new)


def _enqueue(actor: User, document: Document) -> None:
    document.job = jobs.enqueue(
        project=document.project,
        owner=actor,
        kind=PARSE,
        label=document.name,
        url=reverse("document", args=[document.pk]),
    )
    document.save(update_fields=["job"])
