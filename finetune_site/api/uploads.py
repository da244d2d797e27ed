"""Large files part by part: a lost connection costs one part."""

from functools import partial
from typing import Any
from uuid import UUID

from ninja import Field, Router, Schema, Status

from datasets_app.access import get_upload
from datasets_app.models import Upload
from datasets_app.services import uploads as services
from finetune_site.api.documents import ReceivedOut
from finetune_site.api.fields import Key, Line, example
from finetune_site.api.idempotency import once
from finetune_site.api.security import WRITE, TokenRequest, fetch
from finetune_site.projects.access import get_project
from finetune_site.projects.models import Role

router = Router(tags=["Documents"])
BYTES = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string"}}}}}


class UploadIn(Schema):
    """`size` in bytes."""

    model_config = example(name="manual.pdf", size=30_000_000)
    name: Line
    size: int = Field(ge=1, le=2**50)


class UploadOut(Schema):
    """`arrived`: so many bytes are here, and the next part begins there; `part_bytes`: so many it has, the last one
    less. `items`: each file of it once it is whole, one or those of an archive."""

    id: UUID
    name: str
    size: int
    arrived: int
    part_bytes: int = services.PART_BYTES
    items: list[ReceivedOut] = []


@router.post("/projects/{int:pk}/uploads", auth=WRITE, response={201: UploadOut}, operation_id="upload_begin")
@once
def upload_begin(request: TokenRequest, pk: Key, body: UploadIn) -> Status[Any]:
    """Begin to upload a file, or a ZIP archive, in parts. It is kept for two days."""
    project = fetch(request, get_project, pk, Role.TRAINER)
    begun = services.begin_upload(actor=request.user, project=project, name=body.name, size=body.size)
    return Status(201, UploadOut.from_orm(begun))


@router.get("/uploads/{uuid:key}", auth=WRITE, response=UploadOut, operation_id="upload_read")
def upload_read(request: TokenRequest, key: UUID) -> Any:
    """How much of it is here. Only who began it may ask."""
    return UploadOut.from_orm(fetch(request, get_upload, key))


@router.put(
    "/uploads/{uuid:key}/parts/{int:start}",
    auth=WRITE,
    response=UploadOut,
    operation_id="upload_part",
    openapi_extra=BYTES,
)
def upload_part(request: TokenRequest, key: UUID, start: int) -> Any:
    """Send the part that begins at byte `start`, as it is. After the last one the file is taken and parsed; sent again,
    that one says what became of it again. 409: another part is wanted, or the file is no document."""
    arriving: Upload = fetch(request, get_upload, key)
    if arriving.arrived < arriving.size:
        blocks = iter(partial(request.read, 2**20), b"")
        arriving = services.take_part(arriving=arriving, start=start, blocks=blocks)
    told = UploadOut.from_orm(arriving)
    if arriving.arrived == arriving.size:
        received = services.finish(actor=request.user, arriving=arriving)
        told.items = [ReceivedOut.from_orm(entry) for entry in received]
    return told
