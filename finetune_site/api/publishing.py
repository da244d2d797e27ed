"""Files of models, publications in Ollama, and the names that people use."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from django.http import StreamingHttpResponse
from ninja import Field, Query, Router, Schema, Status

from datasets_app.models import ModelServer
from finetune_site.api.errors import ApiError, check
from finetune_site.api.fields import Key, Line, Name, Text, example
from finetune_site.api.idempotency import once
from finetune_site.api.paging import Page, Paging, paged
from finetune_site.api.security import PUBLISH, READ, TokenRequest, fetch
from finetune_site.downloads import send_file
from finetune_site.projects.access import get_project
from finetune_site.projects.models import Role
from training_app.access import get_export, get_publication, get_published_model, get_run
from training_app.forms.publishing import PublicationForm
from training_app.models import Publication, PublishedModel
from training_app.services import publishing as services

router = Router(tags=["Publishing"])
BYTES: dict[str, Any] = {
    "responses": {
        200: {
            "description": "The file; `Repr-Digest` holds its SHA-256 (RFC 9530).",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    }
}


class ExportIn(Schema):
    model_config = example(format="q8_0")

    format: Line = Field(description="adapter, merged, f16, bf16, q8_0, or a K-quant")


class ExportOut(Schema):
    """`result`: `file`, `bytes`, `sha256` and what was found against it (`problem`), once it is there."""

    id: int
    run_id: int
    format: str
    job_id: int | None
    created_at: datetime
    is_ready: bool
    result: dict[str, Any]


class ServerOut(Schema):
    id: int
    name: str


class PublicationIn(Schema):
    """As on the form: `server` of those that operators let models be published to, `name` without `ft/`."""

    model_config = example(server=1, name="kestrel", format="q8_0", system="You know the Kestrel.", note="First")

    server: int
    name: Name
    format: Line = "q8_0"
    system: Text = ""
    temperature: float = Field(0.2, ge=0, le=2)
    num_ctx: int = Field(2048, ge=256, le=1_048_576)
    licence: Text = ""
    note: Line = ""


class PublicationOut(Schema):
    """`standing`: working, held, published, failed or withdrawn; `evidence`: of each step what it found."""

    id: int
    model_id: int
    number: int
    run_id: int
    format: str
    tag: str
    standing: str
    problem: str
    job_id: int | None
    evidence: dict[str, Any]
    digest: str
    created_at: datetime
    published_at: datetime | None


class PublishedModelOut(Schema):
    """`current_id`: the publication that the stable name means now."""

    id: int
    project_id: int
    server_id: int
    name: str
    stable_tag: str
    current_id: int | None
    created_at: datetime


class ReasonIn(Schema):
    model_config = example(reason="Its answers were checked by hand.")

    reason: Line = ""


@router.get("/runs/{int:pk}/exports", auth=READ, response=Page[ExportOut], operation_id="export_list")
def export_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """The files that were asked for."""
    return paged(fetch(request, get_run, pk).exports.order_by("pk"), paging, ExportOut.from_orm)


@router.post("/runs/{int:pk}/exports", auth=PUBLISH, response={201: ExportOut}, operation_id="export_create")
@once
def export_create(request: TokenRequest, pk: Key, body: ExportIn) -> Status[Any]:
    """Make a file of a finished run in the background; one that is there stays as it is."""
    run = fetch(request, get_run, pk, Role.TRAINER)
    return Status(201, ExportOut.from_orm(services.start_export(actor=request.user, run=run, format=body.format)))


@router.get("/exports/{int:pk}", auth=READ, response=ExportOut, operation_id="export_read")
def export_read(request: TokenRequest, pk: Key) -> Any:
    """One file: whether it is ready, its size and SHA-256."""
    return ExportOut.from_orm(fetch(request, get_export, pk))


@router.get("/exports/{int:pk}/file", auth=READ, operation_id="export_file", openapi_extra=BYTES)
def export_file(request: TokenRequest, pk: Key) -> StreamingHttpResponse:
    """The file itself."""
    found = fetch(request, get_export, pk)
    if not found.is_ready:
        raise ApiError(409, "The file is not ready. Wait for its job, or look at what was found against it.")
    return send_file(found.path, found.filename, size=found.result["bytes"], sha256=found.result["sha256"])


@router.get("/ollama-servers", auth=READ, response=Page[ServerOut], operation_id="ollama_server_list")
def ollama_server_list(request: TokenRequest, paging: Query[Paging]) -> Any:
    """The servers that operators let models be published to."""
    servers = ModelServer.objects.filter(provider=ModelServer.OLLAMA, takes_models=True).order_by("pk")
    return paged(servers, paging, ServerOut.from_orm)


@router.get("/projects/{int:pk}/models", auth=READ, response=Page[PublishedModelOut], operation_id="model_list")
def model_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """The project's names in Ollama."""
    models = PublishedModel.objects.filter(project=fetch(request, get_project, pk)).order_by("pk")
    return paged(models, paging, PublishedModelOut.from_orm)


@router.get("/models/{int:pk}", auth=READ, response=PublishedModelOut, operation_id="model_read")
def model_read(request: TokenRequest, pk: Key) -> Any:
    """One name and which version it means."""
    return PublishedModelOut.from_orm(fetch(request, get_published_model, pk))


@router.get("/models/{int:pk}/publications", auth=READ, response=Page[PublicationOut], operation_id="publication_list")
def publication_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """Its versions, newest first."""
    found = fetch(request, get_published_model, pk).publications.select_related("model", "job")
    return paged(found, paging, PublicationOut.from_orm)


@router.post("/runs/{int:pk}/publications", auth=PUBLISH, response={201: PublicationOut}, operation_id="publish")
@once
def publish(request: TokenRequest, pk: Key, body: PublicationIn) -> Status[Any]:
    """Publish a finished run under a name: each step is proved before people get the version under it."""
    run = fetch(request, get_run, pk, Role.TRAINER)
    form = PublicationForm(body.dict(), run=run)
    check(form)
    return Status(201, _told(request, services.start_publication(actor=request.user, run=run, **form.arguments)))


@router.get("/publications/{int:pk}", auth=READ, response=PublicationOut, operation_id="publication_read")
def publication_read(request: TokenRequest, pk: Key) -> Any:
    """One version with the evidence of each step."""
    return PublicationOut.from_orm(fetch(request, get_publication, pk))


@router.post(
    "/publications/{int:pk}/override", auth=PUBLISH, response={201: PublicationOut}, operation_id="publication_override"
)
@once
def publication_override(request: TokenRequest, pk: Key, body: ReasonIn) -> Status[Any]:
    """Promote what the gate holds, for a reason that is kept. Owners alone."""
    found = fetch(request, get_publication, pk, Role.OWNER)
    services.override_gate(actor=request.user, publication=found, reason=body.reason)
    return Status(201, _told(request, found))


@router.post(
    "/publications/{int:pk}/{act}", auth=PUBLISH, response={201: PublicationOut}, operation_id="publication_act"
)
@once
def publication_act(
    request: TokenRequest, pk: Key, act: Literal["switch", "withdraw", "again", "discard"], body: ReasonIn
) -> Status[Any]:
    """`switch`: make it the stable one (roll back, or forward); `withdraw` it from Ollama; `again`: look at the gate
    anew; `discard` what is held or was not published."""
    found = fetch(request, get_publication, pk, Role.TRAINER)
    acts: dict[str, Callable[[], None]] = {
        "switch": lambda: services.switch(actor=request.user, publication=found, reason=body.reason),
        "withdraw": lambda: services.withdraw(actor=request.user, publication=found),
        "again": lambda: services.try_gate_again(actor=request.user, publication=found),
        "discard": lambda: services.discard(actor=request.user, publication=found),
    }
    acts[act]()
    return Status(201, _told(request, found))


def _told(request: TokenRequest, publication: Publication) -> PublicationOut:
    return PublicationOut.from_orm(get_publication(request.user, publication.pk))
