"""Documents: upload, list, read, parse again, what was found in them and the passages they were cut into."""

from datetime import datetime
from typing import Any

from django.conf import settings
from ninja import File, Query, Router, Schema, Status
from ninja.files import UploadedFile

from datasets_app.access import get_document
from datasets_app.services import documents as services
from finetune_site.api.errors import ApiError
from finetune_site.api.fields import Key
from finetune_site.api.idempotency import once
from finetune_site.api.paging import Page, Paging, paged
from finetune_site.api.security import READ, WRITE, TokenRequest, fetch
from finetune_site.projects.access import get_project
from finetune_site.projects.models import Role

router = Router(tags=["Documents"])


class DocumentOut(Schema):
    """`job_id`: the job that parses it; it is parsed where `parsed_at` is set."""

    id: int
    project_id: int
    name: str
    sha256: str
    size: int
    media_type: str
    uploaded_at: datetime
    job_id: int | None
    parsed_at: datetime | None
    pages: int
    characters: int
    warnings: list[Any]


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


@router.get("/projects/{int:pk}/documents", auth=READ, response=Page[DocumentOut], operation_id="document_list")
def document_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """Newest first."""
    return paged(fetch(request, get_project, pk).documents.all(), paging, DocumentOut.from_orm)


@router.post(
    "/projects/{int:pk}/documents",
    auth=WRITE,
    response={201: DocumentOut},
    operation_id="document_upload",
)
@once
def document_upload(request: TokenRequest, pk: Key, file: File[UploadedFile]) -> Status[Any]:
    """Upload one file; it is parsed in the background. Content the project already has is the document it has."""
    project = fetch(request, get_project, pk, Role.TRAINER)
    if (file.size or 0) > settings.UPLOAD_MAX_BYTES:
        limit = settings.UPLOAD_MAX_BYTES // 2**20
        raise ApiError(413, f"The file is larger than {limit} MB. Split it, or ask the operator to raise the limit.")
    name = (file.name or "").replace("\x00", "")
    done = services.upload_document(actor=request.user, project=project, name=name, blocks=file.chunks(2**20))
    return Status(201, DocumentOut.from_orm(done.document))


@router.get("/documents/{int:pk}", auth=READ, response=DocumentOut, operation_id="document_read")
def document_read(request: TokenRequest, pk: Key) -> Any:
    """One document: what was uploaded, and whether it is parsed."""
    return DocumentOut.from_orm(fetch(request, get_document, pk))


@router.post("/documents/{int:pk}/parse", auth=WRITE, response={201: DocumentOut}, operation_id="document_parse")
@once
def document_parse(request: TokenRequest, pk: Key) -> Status[Any]:
    """Parse it anew; what was parsed before stays until the new result is there."""
    found = fetch(request, get_document, pk, Role.TRAINER)
    services.parse_again(actor=request.user, document=found)
    return Status(201, DocumentOut.from_orm(get_document(request.user, pk)))


@router.get("/documents/{int:pk}/chunks", auth=READ, response=Page[ChunkOut], operation_id="chunk_list")
def chunk_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """The passages in reading order."""
    return paged(fetch(request, get_document, pk).chunks.all(), paging, ChunkOut.from_orm)


@router.get("/documents/{int:pk}/elements", auth=READ, response=Page[ElementOut], operation_id="element_list")
def element_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """What was read, piece by piece in reading order: headings, texts, lists, tables."""
    return paged(fetch(request, get_document, pk).elements.all(), paging, ElementOut.from_orm)


@router.delete("/documents/{int:pk}", auth=WRITE, response={204: None}, operation_id="document_delete")
def document_delete(request: TokenRequest, pk: Key) -> Status[None]:
    """Delete it; examples made from it keep where they came from. Owners alone."""
    services.delete_document(actor=request.user, document=fetch(request, get_document, pk, Role.OWNER))
    return Status(204, None)
