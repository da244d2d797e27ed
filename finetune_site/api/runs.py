"""Base models, runs and evaluations."""

from datetime import datetime
from typing import Any

from django.http import StreamingHttpResponse
from ninja import Field, Query, Router, Schema, Status

from finetune_site.api.errors import ApiError, check
from finetune_site.api.fields import Key, Line, Name, example
from finetune_site.api.idempotency import once
from finetune_site.api.jobs import STREAM, stream
from finetune_site.api.paging import Page, Paging, paged
from finetune_site.api.security import READ, TRAIN, TokenRequest, fetch
from finetune_site.projects.access import get_project
from finetune_site.projects.models import Role
from training_app.access import get_evaluation, get_run
from training_app.forms.runs import RunForm
from training_app.models import BaseModel, Run
from training_app.services import runs as services
from training_app.services.artefacts import text_of

router = Router(tags=["Runs"])
LOG_BYTES = 20_000


class BaseOut(Schema):
    id: int
    name: str
    title: str
    licence: str
    parameters: int
    is_ready: bool


class RunIn(Schema):
    """`knobs`: what differs from the preset, each as on the form of a run."""

    model_config = example(name="First", version=1, base=1, method="lora", knobs={"epochs": 3, "learning_rate": 0.0002})

    name: Name
    version: int
    base: int
    start: int | None = None
    objective: Line = "supervised"
    method: Line = "dora"
    preset: Line = "balanced"
    is_evaluated_after: bool = True
    knobs: dict[Name, bool | int | float | Line] = Field({}, max_length=100)


class RunOut(Schema):
    """`preview`: what the look before the start found, such as tokens, memory and time."""

    id: int
    project_id: int
    name: str
    version_id: int
    base_id: int
    state: str
    method: str
    preset: str
    config: dict[str, Any]
    preview_job_id: int | None
    preview: dict[str, Any]
    job_id: int | None
    result: dict[str, Any]
    tags: list[str]
    created_at: datetime


class PointOut(Schema):
    step: int
    values: dict[str, float | None]


class MetricsOut(Schema):
    state: str
    points: list[PointOut]


class LogOut(Schema):
    log: str


class EvaluationOut(Schema):
    id: int
    run_id: int
    job_id: int | None
    created_at: datetime
    summary: dict[str, Any]


class EvaluationRowOut(Schema):
    index: int
    set: str
    question: str
    reference: str
    base_answer: str
    tuned_answer: str
    base_score: float
    tuned_score: float


@router.get("/base-models", auth=READ, response=Page[BaseOut], operation_id="base_list")
def base_list(request: TokenRequest, paging: Query[Paging]) -> Any:
    """What runs may start from, by name."""
    return paged(BaseModel.objects.order_by("name", "pk"), paging, BaseOut.from_orm)


@router.get("/projects/{int:pk}/runs", auth=READ, response=Page[RunOut], operation_id="run_list")
def run_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """Newest first."""
    runs = Run.objects.filter(project=fetch(request, get_project, pk)).select_related("job")
    return paged(runs, paging, RunOut.from_orm)


@router.post("/projects/{int:pk}/runs", auth=TRAIN, response={201: RunOut}, operation_id="run_create")
@once
def run_create(request: TokenRequest, pk: Key, body: RunIn) -> Status[Any]:
    """Plan a run as a draft; a look at it (tokens, memory, time) begins at once, the training when you start it."""
    project = fetch(request, get_project, pk, Role.TRAINER)
    form = RunForm({**body.knobs, **body.dict(exclude={"knobs"})}, project=project)
    if unknown := sorted(set(body.knobs) - set(form.fields)):
        raise ApiError(422, f"There is no knob named “{unknown[0]}”.", {"knobs": "unknown"})
    check(form)
    made = services.plan_run(actor=request.user, project=project, **form.arguments)
    return Status(201, RunOut.from_orm(made))


@router.get("/runs/{int:pk}", auth=READ, response=RunOut, operation_id="run_read")
def run_read(request: TokenRequest, pk: Key) -> Any:
    """One run, its knobs and what came of it."""
    return RunOut.from_orm(fetch(request, get_run, pk))


@router.post("/runs/{int:pk}/start", auth=TRAIN, response={201: RunOut}, operation_id="run_start")
@once
def run_start(request: TokenRequest, pk: Key) -> Status[Any]:
    """Queue a draft for training."""
    started = services.start_run(actor=request.user, run=fetch(request, get_run, pk, Role.TRAINER))
    return Status(201, RunOut.from_orm(started))


@router.post("/runs/{int:pk}/stop", auth=TRAIN, response={201: RunOut}, operation_id="run_stop")
@once
def run_stop(request: TokenRequest, pk: Key) -> Status[Any]:
    """Ask a run to save a checkpoint and stop."""
    services.stop_run(actor=request.user, run=fetch(request, get_run, pk, Role.TRAINER))
    return Status(201, RunOut.from_orm(get_run(request.user, pk)))


@router.post("/runs/{int:pk}/resume", auth=TRAIN, response={201: RunOut}, operation_id="run_resume")
@once
def run_resume(request: TokenRequest, pk: Key) -> Status[Any]:
    """Go on from the newest checkpoint."""
    services.resume_run(actor=request.user, run=fetch(request, get_run, pk, Role.TRAINER))
    return Status(201, RunOut.from_orm(get_run(request.user, pk)))


@router.post("/runs/{int:pk}/again", auth=TRAIN, response={201: RunOut}, operation_id="run_again")
@once
def run_again(request: TokenRequest, pk: Key) -> Status[Any]:
    """A draft that repeats a run exactly."""
    made = services.run_again(actor=request.user, run=fetch(request, get_run, pk, Role.TRAINER))
    return Status(201, RunOut.from_orm(made))


@router.get("/runs/{int:pk}/metrics", auth=READ, response=MetricsOut, operation_id="run_metrics")
def run_metrics(request: TokenRequest, pk: Key) -> Any:
    """The series so far, thinned when it is long."""
    found = fetch(request, get_run, pk)
    points: dict[int, dict[str, float]] = {}
    for step, name, value in found.metrics.thinned().values_list("step", "name", "value"):
        points.setdefault(step, {})[name] = value
    return {"state": found.state, "points": [{"step": step, "values": values} for step, values in points.items()]}


@router.get("/runs/{int:pk}/events", auth=READ, operation_id="run_events", openapi_extra=STREAM)
def run_events(request: TokenRequest, pk: Key) -> StreamingHttpResponse:
    """The events of its training: each step with its numbers. `Last-Event-ID` goes on from there."""
    found = fetch(request, get_run, pk)
    if found.job is None:
        raise ApiError(409, "The run has not been started.")
    return stream(request, found.job)


@router.get("/runs/{int:pk}/log", auth=READ, response=LogOut, operation_id="run_log")
def run_log(request: TokenRequest, pk: Key) -> Any:
    """The end of the engine's log."""
    return {"log": text_of(fetch(request, get_run, pk), "log.txt", LOG_BYTES)}


@router.post("/runs/{int:pk}/evaluations", auth=TRAIN, response={201: EvaluationOut}, operation_id="evaluation_create")
@once
def evaluation_create(request: TokenRequest, pk: Key) -> Status[Any]:
    """Ask base and tuned model the questions that were set apart, in the background."""
    made = services.start_evaluation(actor=request.user, run=fetch(request, get_run, pk, Role.TRAINER))
    return Status(201, EvaluationOut.from_orm(made))


@router.get("/runs/{int:pk}/evaluations", auth=READ, response=Page[EvaluationOut], operation_id="evaluation_list")
def evaluation_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """Newest first."""
    return paged(fetch(request, get_run, pk).evaluations.all(), paging, EvaluationOut.from_orm)


@router.get("/evaluations/{int:pk}", auth=READ, response=EvaluationOut, operation_id="evaluation_read")
def evaluation_read(request: TokenRequest, pk: Key) -> Any:
    """One evaluation with its sums."""
    return EvaluationOut.from_orm(fetch(request, get_evaluation, pk))


@router.get(
    "/evaluations/{int:pk}/rows", auth=READ, response=Page[EvaluationRowOut], operation_id="evaluation_row_list"
)
def evaluation_row_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """Each question with both answers."""
    return paged(fetch(request, get_evaluation, pk).rows.all(), paging, EvaluationRowOut.from_orm)
