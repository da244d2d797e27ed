"""Review in Label Studio: what can be sent where, bringing decisions back, and how it stands."""

from datetime import datetime
from typing import Any, Literal

from django.http import Http404
from ninja import Field, Query, Router, Schema, Status

from datasets_app.access import get_dataset
from datasets_app.forms import LabelStudioSendForm
from datasets_app.models import Dataset, LabelStudioLink, LabelStudioServer
from datasets_app.services import labelstudio as services
from finetune_site.api.datasets import WorkOut
from finetune_site.api.errors import check
from finetune_site.api.fields import Key, Line, example
from finetune_site.api.idempotency import once
from finetune_site.api.paging import Page, Paging, paged
from finetune_site.api.security import READ, WRITE, TokenRequest, fetch
from finetune_site.projects.access import get_project
from finetune_site.projects.models import Role

router = Router(tags=["Label Studio"])


class LabelStudioServerOut(Schema):
    id: int
    name: str


class SendIn(Schema):
    """Which examples go there; what is there already is not sent twice."""

    model_config = example(server=1, state="draft", text="pump")

    server: int
    state: Literal["draft", "approved", "rejected", ""] = "draft"
    document: int | None = Field(None, ge=1, le=2**63 - 1)
    text: Line = Field("", max_length=200)


class CountsOut(Schema):
    approved: int
    rejected: int
    open: int
    sent: int
    decided: int
    conflicts: int
    agreement: float | None


class ReviewOut(Schema):
    """`state`: how the connection stands, with the sentence (`problem`) that says what is wrong."""

    dataset_id: int
    dataset: str
    server: str
    state: str
    problem: str
    synced_at: datetime | None
    sync_job_id: int | None
    projects: list[str]
    counts: CountsOut


@router.get(
    "/label-studio-servers", auth=READ, response=Page[LabelStudioServerOut], operation_id="label_studio_server_list"
)
def label_studio_server_list(request: TokenRequest, paging: Query[Paging]) -> Any:
    """The connections that operators have registered."""
    return paged(LabelStudioServer.objects.order_by("pk"), paging, LabelStudioServerOut.from_orm)


@router.get("/projects/{int:pk}/label-studio", auth=READ, response=Page[ReviewOut], operation_id="label_studio_list")
def label_studio_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """The project's datasets that are reviewed there, each with its counts and how far annotators agree."""
    links = _links().filter(dataset__project=fetch(request, get_project, pk)).order_by("dataset")
    counts = services.counts([link.dataset for link in links])
    return paged(links, paging, lambda link: _shown(link, counts[link.dataset_id]))


@router.get("/datasets/{int:pk}/label-studio", auth=READ, response=ReviewOut, operation_id="label_studio_read")
def label_studio_read(request: TokenRequest, pk: Key) -> Any:
    """How the review of one dataset stands."""
    return _alone(_link(fetch(request, get_dataset, pk)))


@router.post(
    "/datasets/{int:pk}/label-studio/send", auth=WRITE, response={201: WorkOut}, operation_id="label_studio_send"
)
@once
def label_studio_send(request: TokenRequest, pk: Key, body: SendIn) -> Status[Any]:
    """Send examples there, in the background; the first time makes the project there."""
    dataset = fetch(request, get_dataset, pk, Role.TRAINER)
    form = LabelStudioSendForm(body.dict(), dataset=dataset)
    check(form)
    return Status(201, WorkOut.from_orm(services.start_sending(actor=request.user, dataset=dataset, **form.arguments)))


@router.post(
    "/datasets/{int:pk}/label-studio/sync", auth=WRITE, response={201: ReviewOut}, operation_id="label_studio_sync"
)
@once
def label_studio_sync(request: TokenRequest, pk: Key) -> Status[Any]:
    """Bring decisions back now; `sync_job_id` is the job that does."""
    link = _link(fetch(request, get_dataset, pk, Role.REVIEWER))
    services.hint(link, looks_whole=True)
    return Status(201, _alone(_links().get(pk=link.pk)))


def _links() -> Any:
    return LabelStudioLink.objects.select_related("dataset", "server").prefetch_related("projects")


def _link(dataset: Dataset) -> LabelStudioLink:
    found: LabelStudioLink | None = _links().filter(dataset=dataset).first()
    if found is None:
        raise Http404
    return found


def _alone(link: LabelStudioLink) -> ReviewOut:
    return _shown(link, services.counts([link.dataset])[link.dataset_id])


def _shown(link: LabelStudioLink, counts: services.ReviewCounts) -> ReviewOut:
    return ReviewOut(
        dataset_id=link.dataset_id,
        dataset=link.dataset.name,
        server=link.server.name,
        state=link.state,
        problem=link.problem,
        synced_at=link.synced_at,
        sync_job_id=link.sync_job_id,
        projects=[link.server.link(there.path) for there in link.projects.all() if there.remote_id],
        counts=CountsOut.from_orm(counts),
    )
