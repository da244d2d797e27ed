"""Documents: upload, list, read, parse again, what was found in them and the passages they were cut into."""

from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

from django.conf import settings
from django.shortcuts import get_object_or_404
from ninja import File, Query, Router, Schema, Status
from ninja.files import UploadedFile

from datasets_app import measures
from datasets_app.access import get_document
from datasets_app.engine.spec import Reading
from datasets_app.models import Document
from datasets_app.services import corrections
from datasets_app.services import documents as services
from datasets_app.services.storage import too_large
from finetune_site.api.errors import ApiError
from finetune_site.api.fields import Key, Line, Name, Place, example
from finetune_site.api.idempotency import once
from finetune_site.api.paging import Page, Paging, paged
from finetune_site.api.security import READ, WRITE, TokenRequest, fetch
from finetune_site.lib.channel import InputError
from finetune_site.projects.access import get_project
from finetune_site.projects.models import Role

router = Router(tags=["Documents"])


class DocumentOut(Schema):
    """`state`: how far its reading is; with an earlier reading it stays usable while it is `waiting` (see `parsed_at`).
    `error`: why its last reading came to nothing. `job_id`: the job that parses or cuts it. `reading`: how it is read,
    where that differs from the usual. `health`: how well it was read."""

    id: int
    project_id: int
    name: str
    sha256: str
    size: int
    media_type: str
    uploaded_at: datetime
    state: Literal["waiting", "read", "unread"]
    error: str
    job_id: int | None
    parsed_at: datetime | None
    pages: int
    characters: int
    warnings: list[Any]
    reading: dict[str, Any]
    excluded_pages: list[int]
    health: dict[str, Any]
    withdrawn_at: datetime | None
    withdrawn_why: str


class ReceivedOut(Schema):
    """One file of an archive. `is_new` false: the project had its content already."""

    name: str
    document: DocumentOut | None
    is_new: bool
    error: str


class ArchiveOut(Schema):
    """Each file of an archive."""

    items: list[ReceivedOut]


class ChunkOut(Schema):
    id: int
    index: int
    text: str
    page_start: int | None
    page_end: int | None
    section: list[str]


class ElementOut(Schema):
    """`box`: its place on the page, left, top, right and bottom as shares of the page; null where nobody knows."""

    index: int
    kind: str
    text: str
    page: int | None
    depth: int | None
    section: list[str]
    box: list[float] | None
    is_left_out: bool


class CutIn(Schema):
    """How passages are cut; what is not sent stays as it is. `tokens_of`: the base model in whose tokens the sizes
    are; empty for characters."""

    model_config = example(passage_size=1200, overlap=200)
    cut: Literal["section", "page"] | None = None
    passage_size: int | None = None
    overlap: int | None = None
    tokens_of: Name | Literal[""] | None = None


class ReadingIn(CutIn):
    """How a file is read; what is not sent stays as it is. `last_page` 0 is the end."""

    model_config = example(strategy="ocr", languages=["eng"])
    strategy: Literal["auto", "text", "ocr", "layout"] | None = None
    languages: list[str] | None = None
    first_page: int | None = None
    last_page: int | None = None
    keeps_running_heads: bool | None = None
    finds_tables: bool | None = None
    finds_names: bool | None = None


class CorrectionIn(Schema):
    """`depth`: of a heading, from 0."""

    model_config = example(text="The gearbox weighs 41 kg.")
    text: str | None = None
    kind: Literal["title", "text", "list_item", "table", "code", "caption", "header", "footer"] | None = None
    depth: int | None = None
    is_left_out: bool | None = None


class WithdrawIn(Schema):
    model_config = example(reason="Replaced by the manual of 2027")
    reason: Line


class PageIn(Schema):
    model_config = example(is_left_out=True)
    is_left_out: bool


def reading_of(document: Document, body: CutIn) -> Reading:
    """How the document is read, changed by what was sent. 422 for what cannot be."""
    sent = {name: value for name, value in body.dict().items() if value is not None}
    unit = sent.get("tokens_of", document.reading_settings.tokens_of)
    if unit != document.reading_settings.tokens_of:
        if unit and unit not in measures.names():
            known = ", ".join(measures.names()) or "none"
            raise ApiError(
                422, f"Tokens can be counted as these base models do: {known}.", {"tokens_of": "not among them"}
            )
        if "passage_size" not in sent:
            raise ApiError(422, "In another unit another size is meant.", {"passage_size": "Send it too."})
    try:
        return replace(document.reading_settings, **sent)
    except InputError as error:
        raise ApiError(422, str(error)) from error


@router.get("/projects/{int:pk}/documents", auth=READ, response=Page[DocumentOut], operation_id="document_list")
def document_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """Newest first."""
    return paged(fetch(request, get_project, pk).documents.all(), paging, DocumentOut.from_orm)


@router.post(
    "/projects/{int:pk}/documents",
    auth=WRITE,
    response={200: DocumentOut, 201: DocumentOut},
    operation_id="document_upload",
)
@once
def document_upload(request: TokenRequest, pk: Key, file: File[UploadedFile]) -> Status[Any]:
    """Upload one file; it is parsed in the background (201). Content the project already has is the document it has
    (200): its `state` and `error` tell whether it could be read."""
    project = fetch(request, get_project, pk, Role.TRAINER)
    name = file.name or ""
    if (file.size or 0) > settings.UPLOAD_MAX_BYTES:
        raise ApiError(413, str(too_large(name)))
    done = services.upload_document(actor=request.user, project=project, name=name, blocks=file.chunks(2**20))
    return Status(201 if done.is_new else 200, DocumentOut.from_orm(done.document))


@router.post("/projects/{int:pk}/archives", auth=WRITE, response={201: ArchiveOut}, operation_id="archive_upload")
@once
def archive_upload(request: TokenRequest, pk: Key, file: File[UploadedFile]) -> Status[Any]:
    """Upload a ZIP archive: every file in it is a document, or has a sentence that says why it is none."""
    project = fetch(request, get_project, pk, Role.TRAINER)
    received = services.upload(actor=request.user, project=project, name=file.name or "", blocks=file.chunks(2**20))
    return Status(201, ArchiveOut(items=[ReceivedOut.from_orm(each) for each in received]))


@router.get("/documents/{int:pk}", auth=READ, response=DocumentOut, operation_id="document_read")
def document_read(request: TokenRequest, pk: Key) -> Any:
    """One document: what was uploaded, and whether it is parsed."""
    return DocumentOut.from_orm(fetch(request, get_document, pk))


@router.post("/documents/{int:pk}/parse", auth=WRITE, response={201: DocumentOut}, operation_id="document_parse")
@once
def document_parse(request: TokenRequest, pk: Key, body: ReadingIn | None = None) -> Status[Any]:
    """Parse it anew, with other settings where some are sent; what was parsed before stays until the new result is
    there, and corrections are made in it again."""
    found = fetch(request, get_document, pk, Role.TRAINER)
    reading = reading_of(found, body) if body else None
    services.parse_again(actor=request.user, document=found, reading=reading)
    return Status(201, DocumentOut.from_orm(get_document(request.user, pk)))


@router.put("/documents/{int:pk}/reading", auth=WRITE, response=DocumentOut, operation_id="document_cut")
def document_cut(request: TokenRequest, pk: Key, body: CutIn) -> Any:
    """Cut it into other passages, without reading it anew."""
    found = fetch(request, get_document, pk, Role.TRAINER)
    services.cut_again(actor=request.user, document=found, reading=reading_of(found, body))
    return DocumentOut.from_orm(get_document(request.user, pk))


@router.put("/documents/{int:pk}/elements/{int:index}", auth=WRITE, response=ElementOut, operation_id="element_correct")
def element_correct(request: TokenRequest, pk: Key, index: Place, body: CorrectionIn) -> Any:
    """Give a piece another text or kind, or leave it out; what is not sent stays. The correction survives parsing."""
    found = fetch(request, get_document, pk, Role.TRAINER)
    element = get_object_or_404(found.elements.all(), index=index)
    if body.text is not None or body.kind is not None:
        element = corrections.correct_element(
            actor=request.user,
            document=found,
            index=index,
            text=body.text if body.text is not None else element.text,
            kind=body.kind or element.kind,
            depth=body.depth,
        )
    if body.is_left_out is not None:
        element = corrections.leave_element_out(
            actor=request.user, document=found, index=index, is_out=body.is_left_out
        )
    return ElementOut.from_orm(element)


@router.delete(
    "/documents/{int:pk}/elements/{int:index}/correction",
    auth=WRITE,
    response=ElementOut,
    operation_id="element_restore",
)
def element_restore(request: TokenRequest, pk: Key, index: Place) -> Any:
    """As it was read."""
    found = fetch(request, get_document, pk, Role.TRAINER)
    return ElementOut.from_orm(corrections.restore_element(actor=request.user, document=found, index=index))


@router.put("/documents/{int:pk}/pages/{int:number}", auth=WRITE, response=DocumentOut, operation_id="page_leave_out")
def page_leave_out(request: TokenRequest, pk: Key, number: Place, body: PageIn) -> Any:
    """Leave a page out of every passage, or take it in again."""
    found = fetch(request, get_document, pk, Role.TRAINER)
    corrections.leave_page_out(actor=request.user, document=found, page=number, is_out=body.is_left_out)
    return DocumentOut.from_orm(get_document(request.user, pk))


@router.get("/documents/{int:pk}/chunks", auth=READ, response=Page[ChunkOut], operation_id="chunk_list")
def chunk_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """The passages in reading order."""
    return paged(fetch(request, get_document, pk).chunks.all(), paging, ChunkOut.from_orm)


@router.get("/documents/{int:pk}/elements", auth=READ, response=Page[ElementOut], operation_id="element_list")
def element_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """What was read, piece by piece in reading order: headings, texts, lists, tables."""
    return paged(fetch(request, get_document, pk).elements.all(), paging, ElementOut.from_orm)


@router.post("/documents/{int:pk}/withdraw", auth=WRITE, response=DocumentOut, operation_id="document_withdraw")
def document_withdraw(request: TokenRequest, pk: Key, body: WithdrawIn) -> Any:
    """Let nothing more be made from it; what was made stays and is marked. Owners alone."""
    found = fetch(request, get_document, pk, Role.OWNER)
    services.withdraw_document(actor=request.user, document=found, reason=body.reason)
    return DocumentOut.from_orm(get_document(request.user, pk))


@router.post("/documents/{int:pk}/readmit", auth=WRITE, response=DocumentOut, operation_id="document_readmit")
def document_readmit(request: TokenRequest, pk: Key) -> Any:
    """Let it be used again. Owners alone."""
    services.readmit_document(actor=request.user, document=fetch(request, get_document, pk, Role.OWNER))
    return DocumentOut.from_orm(get_document(request.user, pk))


@router.delete("/documents/{int:pk}", auth=WRITE, response={204: None}, operation_id="document_delete")
def document_delete(request: TokenRequest, pk: Key) -> Status[None]:
    """Delete it; examples made from it keep where they came from. Owners alone."""
    services.delete_document(actor=request.user, document=fetch(request, get_document, pk, Role.OWNER))
    return Status(204, None)
