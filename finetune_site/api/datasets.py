"""Datasets: make, fill, review, seal, take away."""

from datetime import datetime
from typing import Any, Literal

from django.db.models import Count, OuterRef, Q, Subquery, Sum
from django.db.models.functions import Coalesce
from django.http import StreamingHttpResponse
from ninja import Field, File, Form, Query, Router, Schema, Status
from ninja.files import UploadedFile

from datasets_app import access
from datasets_app.forms import GenerateForm, SealForm
from datasets_app.models import Dataset, Example, QualityRules, State, Tally
from datasets_app.services import datasets as services
from datasets_app.services import examples as example_services
from datasets_app.services import quality, sealing, trials
from finetune_site.api.errors import ApiError, check
from finetune_site.api.fields import Key, Line, Name, Text, example
from finetune_site.api.idempotency import once
from finetune_site.api.paging import Page, Paging, paged
from finetune_site.api.security import READ, WRITE, TokenRequest, fetch
from finetune_site.downloads import send_file
from finetune_site.projects.access import get_project
from finetune_site.projects.models import Role

router = Router(tags=["Datasets"])
ImportFormat = Literal["", "messages", "alpaca", "sharegpt", "completion", "preference", "kto", "text"]
PARQUET: dict[str, Any] = {
    "responses": {
        200: {
            "description": "The sealed rows as Parquet.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    }
}


class DatasetIn(Schema):
    model_config = example(name="Kestrel", description="Questions about the Kestrel's manual")

    name: Name
    description: Text = ""


class DatasetOut(Schema):
    """How many examples it has, how many of them are approved and wait for a verdict, and its sealed versions."""

    id: int
    project_id: int
    name: str
    description: str
    created_at: datetime
    total: int
    approved: int
    drafts: int
    sealed: int


class GenerateIn(Schema):
    """`generator`: “extractive”, “verbatim”, or a model as the page offers it: “server key:name”. `recipe`: what a
    model makes, a kind as it is shipped or the id of one of the project's recipes. A trial asks about five passages."""

    model_config = example(documents=[1, 2], generator="extractive", wordings=6)

    documents: list[int] = Field(max_length=1000)
    generator: Line = "extractive"
    wordings: int = Field(6, ge=1, le=12)
    recipe: Line = "qa"
    is_trial: bool = False


class WorkOut(Schema):
    """What was started, and the job that does it."""

    id: int
    job_id: int | None


class Message(Schema):
    role: Literal["system", "user", "assistant"]
    content: Text


class ExampleIn(Schema):
    """A conversation (`messages`), a preference pair (`prompt`, `chosen`, `rejected`) or a `text`."""

    model_config = example(
        messages=[
            {"role": "user", "content": "How heavy is the pump?"},
            {"role": "assistant", "content": "It weighs 31 kilograms."},
        ]
    )

    messages: list[Message] | None = Field(None, max_length=200)
    prompt: Text | None = None
    chosen: Text | None = None
    rejected: Text | None = None
    text: Text | None = None


class JudgeIn(Schema):
    """`text_id`: the text you read; where it is another one by now, nothing is decided."""

    model_config = example(verdict="rejected", reason="The answer is not in the document.", text_id=42)

    verdict: Literal["approved", "rejected", "draft"]
    reason: Line = ""
    text_id: int | None = None


class ExampleOut(Schema):
    id: int
    dataset_id: int
    kind: str
    state: str
    origin: str
    text_id: int | None
    content: dict[str, Any]
    document_id: int | None
    document_name: str
    page_start: int | None
    page_end: int | None
    quote: str
    support: str
    evidence: list[dict[str, Any]]
    doubts: list[str]
    tag: str
    findings: list[str]
    call_id: int | None
    decided_at: datetime | None


class GenerationOut(Schema):
    """`digest`: of the model's weights, as its server told it. `recipe`: all of it, as it was used. Of a trial
    `examples` are those that it would have made."""

    id: int
    dataset_id: int
    generator: str
    is_trial: bool
    digest: str
    recipe: dict[str, Any] | None
    job_id: int | None
    examples: int
    outcomes: dict[str, int]


class CallOut(Schema):
    """One request to a model. `problem`: why its answer could not be used."""

    id: int
    document_id: int | None
    chunk_index: int
    number: int
    prompt: str
    answer: str
    tokens_in: int | None
    tokens_out: int | None
    seconds: float
    problem: str
    at: datetime


class FindingOut(Schema):
    """How many examples have it: of all, and of the approved ones. `is_blocking`: by the project's rules."""

    name: str
    about: str
    count: int
    approved: int
    is_blocking: bool


class QualityOut(Schema):
    """`unchecked`: examples that nobody has looked at since their text is what it is."""

    items: list[FindingOut]
    unchecked: int


class RulesIn(Schema):
    """`blocking`: findings with which no example is sealed. `max_tokens`: of a training row."""

    model_config = example(blocking=["personal", "unverified"], max_tokens=1024, finds_names=False)

    blocking: list[Line] = Field(max_length=50)
    max_tokens: int = Field(1024, ge=16, le=131_072)
    finds_names: bool = False


class RulesOut(Schema):
    blocking: list[str]
    max_tokens: int
    finds_names: bool


class ForecastOut(Schema):
    """All passages at the pace of a trial: tokens read and written, seconds, `cost` in the currency of the server's
    prices. `fullest`: tokens of the trial's longest request, beside the model's `window`."""

    passages: int
    examples: int
    tokens_in: int | None
    tokens_out: int | None
    tokens_per_second: float | None
    seconds: float
    cost: float | None
    answers: int
    followed: int
    fullest: int | None
    window: int
    is_tight: bool


class AgainIn(Schema):
    """`outcome`: of the passages to try again; empty for those alone that have none."""

    model_config = example(outcome="failed")

    outcome: Literal["failed", "timed out", "refused", ""]


class ExampleFilter(Paging):
    state: Literal["draft", "approved", "rejected"] | None = None
    origin: Literal["generated", "imported", "written", "chat"] | None = None
    document: int | None = Field(None, ge=1, le=2**63 - 1)
    on_page: int | None = Field(None, ge=1, le=2**31 - 1)
    support: Literal["verified", "close", "unverified", "stale"] | None = None
    tag: Line = ""
    finding: Line = ""
    text: Line = ""


class SealIn(Schema):
    model_config = example(validation_share=0.1, recall_share=1.0, note="After the second review")

    validation_share: float = Field(0.1, ge=0, le=0.5)
    recall_share: float = Field(1.0, ge=0, le=1)
    note: Line = ""


class VersionOut(Schema):
    id: int
    dataset_id: int
    number: int
    note: str
    job_id: int | None
    created_at: datetime
    sealed_at: datetime | None
    sha256: str
    size: int
    counts: dict[str, Any]


@router.get("/projects/{int:pk}/datasets", auth=READ, response=Page[DatasetOut], operation_id="dataset_list")
def dataset_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """Newest first."""
    project = fetch(request, get_project, pk)
    return paged(_counted().filter(project=project), paging, DatasetOut.from_orm)


@router.post("/projects/{int:pk}/datasets", auth=WRITE, response={201: DatasetOut}, operation_id="dataset_create")
@once
def dataset_create(request: TokenRequest, pk: Key, body: DatasetIn) -> Status[Any]:
    """Make an empty one; its name is the only one of its kind in the project."""
    project = fetch(request, get_project, pk, Role.TRAINER)
    made = services.create_dataset(actor=request.user, project=project, **body.dict())
    return Status(201, DatasetOut.from_orm(_counted().get(pk=made.pk)))


@router.get("/datasets/{int:pk}", auth=READ, response=DatasetOut, operation_id="dataset_read")
def dataset_read(request: TokenRequest, pk: Key) -> Any:
    """One dataset with its counts."""
    return DatasetOut.from_orm(_counted().get(pk=fetch(request, access.get_dataset, pk).pk))


@router.delete("/datasets/{int:pk}", auth=WRITE, response={204: None}, operation_id="dataset_delete")
def dataset_delete(request: TokenRequest, pk: Key) -> Status[None]:
    """Delete it with its examples; one that has a version stays, since runs may stand on it. Owners alone."""
    services.delete_dataset(actor=request.user, dataset=fetch(request, access.get_dataset, pk, Role.OWNER))
    return Status(204, None)


@router.post("/datasets/{int:pk}/generate", auth=WRITE, response={201: WorkOut}, operation_id="generate")
@once
def generate(request: TokenRequest, pk: Key, body: GenerateIn) -> Status[Any]:
    """Make examples from parsed documents, in the background."""
    found = fetch(request, access.get_dataset, pk, Role.TRAINER)
    typed = {
        "documents": body.documents, "model": body.generator, "wordings": body.wordings, "recipe": body.recipe
    }  # fmt: skip
    form = GenerateForm(typed, project=found.project)
    check(form)
    made = services.start_generation(actor=request.user, dataset=found, is_trial=body.is_trial, **form.arguments)
    return Status(201, WorkOut.from_orm(made))


@router.get("/generations/{int:pk}", auth=READ, response=GenerationOut, operation_id="generation_read")
def generation_read(request: TokenRequest, pk: Key) -> Any:
    """One making of examples: how many passages came to which outcome so far."""
    found = fetch(request, access.get_generation, pk)
    return GenerationOut(
        id=found.pk, dataset_id=found.dataset_id, generator=found.generator, job_id=found.job_id,
        is_trial=found.is_trial, digest=found.digest, recipe=found.options.get("recipe"),
        examples=len(found.sample) if found.is_trial else found.examples.count(), outcomes=found.outcome_counts,
    )  # fmt: skip


@router.get("/datasets/{int:pk}/quality", auth=READ, response=QualityOut, operation_id="quality_read")
def quality_read(request: TokenRequest, pk: Key) -> Any:
    """What was found in its examples, as last looked for."""
    found = fetch(request, access.get_dataset, pk)
    told = [FindingOut.from_orm(each) for each in quality.figures(found)]
    return QualityOut(items=told, unchecked=quality.unchecked(found.examples.all()).count())


@router.post("/datasets/{int:pk}/check", auth=WRITE, response={201: WorkOut}, operation_id="quality_check")
@once
def quality_check(request: TokenRequest, pk: Key) -> Status[Any]:
    """Look at all examples, in the background."""
    found = fetch(request, access.get_dataset, pk, Role.TRAINER)
    quality.start_check(actor=request.user, dataset=found)
    found.refresh_from_db()
    return Status(201, WorkOut(id=found.pk, job_id=found.check_job_id))


@router.get("/projects/{int:pk}/quality-rules", auth=READ, response=RulesOut, operation_id="quality_rules_read")
def quality_rules_read(request: TokenRequest, pk: Key) -> Any:
    """What the project lets into a version."""
    return RulesOut.from_orm(QualityRules.of(fetch(request, get_project, pk)))


@router.put("/projects/{int:pk}/quality-rules", auth=WRITE, response=RulesOut, operation_id="quality_rules_set")
def quality_rules_set(request: TokenRequest, pk: Key, body: RulesIn) -> Any:
    """Say what the project lets into a version. Owners alone."""
    project = fetch(request, get_project, pk, Role.OWNER)
    return RulesOut.from_orm(quality.set_rules(actor=request.user, project=project, **body.dict()))


@router.get("/generations/{int:pk}/calls", auth=READ, response=Page[CallOut], operation_id="call_list")
def call_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """The requests to its model as they were asked and answered, oldest first."""
    return paged(fetch(request, access.get_generation, pk).calls.all(), paging, CallOut.from_orm)


@router.get("/generations/{int:pk}/forecast", auth=READ, response=ForecastOut, operation_id="generation_forecast")
def generation_forecast(request: TokenRequest, pk: Key) -> Any:
    """What a trial that has ended tells of all passages: time, tokens, price."""
    found = fetch(request, access.get_generation, pk)
    told = trials.forecast(found) if found.is_trial and found.job and found.job.is_finished else None
    if told is None:
        raise ApiError(409, "This is no trial that has ended with an answer. Start one, and ask when its job is done.")
    return ForecastOut.from_orm(told)


@router.post("/generations/{int:pk}/go-on", auth=WRITE, response={201: WorkOut}, operation_id="generation_go_on")
@once
def generation_go_on(request: TokenRequest, pk: Key) -> Status[Any]:
    """From all passages what a trial made from some."""
    trial = fetch(request, access.get_generation, pk, Role.TRAINER)
    return Status(201, WorkOut.from_orm(services.go_on(actor=request.user, trial=trial)))


@router.post("/generations/{int:pk}/again", auth=WRITE, response={201: WorkOut}, operation_id="generation_again")
@once
def generation_again(request: TokenRequest, pk: Key, body: AgainIn) -> Status[Any]:
    """Ask the model anew for the passages that ended so, and for those that have no outcome."""
    found = fetch(request, access.get_generation, pk, Role.TRAINER)
    services.generate_again(actor=request.user, generation=found, outcome=body.outcome)
    return Status(201, WorkOut.from_orm(access.get_generation(request.user, pk)))


@router.post("/datasets/{int:pk}/import", auth=WRITE, response={201: WorkOut}, operation_id="import_examples")
@once
def import_examples(
    request: TokenRequest,
    pk: Key,
    file: File[UploadedFile],
    format: Form[ImportFormat] = "",
    takes_good_rows: Form[bool] = False,
) -> Status[Any]:
    """Read a file of examples in the background: JSON Lines or one JSON array, in UTF-8. A line that cannot be used
    keeps the whole file out, unless its good ones are taken."""
    found = fetch(request, access.get_dataset, pk, Role.TRAINER)
    name = (file.name or "").replace("\x00", "")
    batch = services.import_examples(
        actor=request.user,
        dataset=found,
        name=name,
        format=format,
        blocks=file.chunks(2**20),
        takes_good_rows=takes_good_rows,
    )
    return Status(201, WorkOut.from_orm(batch))


@router.get("/datasets/{int:pk}/examples", auth=READ, response=Page[ExampleOut], operation_id="example_list")
def example_list(request: TokenRequest, pk: Key, chosen: Query[ExampleFilter]) -> Any:
    """By age, narrowed as on the page of examples."""
    examples = fetch(request, access.get_dataset, pk).examples.select_related("text")
    rows = examples.chosen_by(
        state=chosen.state or "", origin=chosen.origin or "", document=str(chosen.document or ""), text=chosen.text,
        on_page=str(chosen.on_page or ""), support=chosen.support or "", tag=chosen.tag,
        finding=chosen.finding,
    )  # fmt: skip
    return paged(rows.order_by("pk"), chosen, _shown)


@router.post("/datasets/{int:pk}/examples", auth=WRITE, response={201: ExampleOut}, operation_id="example_write")
@once
def example_write(request: TokenRequest, pk: Key, body: ExampleIn) -> Status[Any]:
    """Write one by hand; it waits for review like every other."""
    found = fetch(request, access.get_dataset, pk, Role.TRAINER)
    made = example_services.write_example(actor=request.user, dataset=found, content=_content(body))
    return Status(201, _shown(made))


@router.get("/examples/{int:pk}", auth=READ, response=ExampleOut, operation_id="example_read")
def example_read(request: TokenRequest, pk: Key) -> Any:
    """One example with its present text."""
    return _shown(fetch(request, access.get_example, pk))


@router.put("/examples/{int:pk}", auth=WRITE, response=ExampleOut, operation_id="example_edit")
def example_edit(request: TokenRequest, pk: Key, body: ExampleIn) -> Any:
    """Give it a new text; it has to be judged again."""
    found = fetch(request, access.get_example, pk, Role.REVIEWER)
    example_services.edit_example(actor=request.user, example=found, content=_content(body))
    return _shown(access.get_example(request.user, pk))


@router.put("/examples/{int:pk}/verdict", auth=WRITE, response=ExampleOut, operation_id="example_judge")
def example_judge(request: TokenRequest, pk: Key, body: JudgeIn) -> Any:
    """Approve, reject, or take the decision back (“draft”)."""
    found = fetch(request, access.get_example, pk, Role.REVIEWER)
    text = "" if body.text_id is None else str(body.text_id)
    example_services.judge(actor=request.user, example=found, verdict=body.verdict, reason=body.reason, text=text)
    return _shown(access.get_example(request.user, pk))


@router.get("/datasets/{int:pk}/versions", auth=READ, response=Page[VersionOut], operation_id="version_list")
def version_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """Newest first."""
    return paged(fetch(request, access.get_dataset, pk).versions.all(), paging, VersionOut.from_orm)


@router.post("/datasets/{int:pk}/versions", auth=WRITE, response={201: VersionOut}, operation_id="seal")
@once
def seal(request: TokenRequest, pk: Key, body: SealIn) -> Status[Any]:
    """Seal the approved examples as the next version, in the background."""
    found = fetch(request, access.get_dataset, pk, Role.TRAINER)
    form = SealForm(body.dict())
    check(form)
    return Status(
        201, VersionOut.from_orm(services.seal_version(actor=request.user, dataset=found, **form.cleaned_data))
    )


@router.get("/versions/{int:pk}", auth=READ, response=VersionOut, operation_id="version_read")
def version_read(request: TokenRequest, pk: Key) -> Any:
    """One version: its counts and the hash of its file."""
    return VersionOut.from_orm(fetch(request, access.get_version, pk))


@router.get("/versions/{int:pk}/file", auth=READ, operation_id="version_file", openapi_extra=PARQUET)
def version_file(request: TokenRequest, pk: Key) -> StreamingHttpResponse:
    """The sealed file."""
    found = fetch(request, access.get_version, pk)
    if not found.is_sealed:
        raise ApiError(409, sealing.NOT_SEALED)
    return send_file(found.file_path, f"{found.filename}.parquet", size=found.size, sha256=found.sha256)


def _counted() -> Any:
    # The model's own order is dropped where rows are counted.
    return Dataset.objects.annotate(
        total=_sum(),
        approved=_sum(state=State.APPROVED),
        drafts=_sum(state=State.DRAFT),
        sealed=Count("versions", Q(versions__sealed_at__isnull=False)),
    ).order_by("-created_at", "-pk")


def _sum(**state: str) -> Coalesce:
    changes = Tally.objects.filter(dataset=OuterRef("pk"), **state).order_by().values("dataset")
    return Coalesce(Subquery(changes.annotate(sum=Sum("change")).values("sum")), 0)


def _shown(example: Example) -> ExampleOut:
    content = example.text.content if example.text else {}
    rest = {name: getattr(example, name) for name in ExampleOut.model_fields if name != "content"}
    return ExampleOut(content=content, **rest)


def _content(body: ExampleIn) -> dict[str, Any]:
    content = body.dict(exclude_none=True)
    if set(content) not in ({"messages"}, {"prompt", "chosen", "rejected"}, {"text"}):
        raise ApiError(422, "An example is either messages, or prompt, chosen and rejected, or a text.")
    return content
