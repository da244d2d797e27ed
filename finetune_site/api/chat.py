"""Chat with the models of runs and with published ones. A conversation is its person's alone."""

from datetime import datetime
from typing import Any

from ninja import Field, Query, Router, Schema, Status

from finetune_site.api.fields import Key, Text, example
from finetune_site.api.idempotency import once
from finetune_site.api.paging import Page, Paging, paged
from finetune_site.api.security import READ, TRAIN, TokenRequest, fetch
from finetune_site.projects.access import get_project
from training_app.access import get_conversation, get_published_model, get_run
from training_app.models import MAX_ANSWER_TOKENS, ChatTurn, Conversation, PublishedModel, Run
from training_app.services import chat as services
from training_app.services.chat import MAX_PROMPT, MAX_SYSTEM, Manner

router = Router(tags=["Chat"])
TURNS = 200


class QuestionIn(Schema):
    model_config = example(prompt="How heavy is the pump?", system="Answer in one sentence.", max_tokens=128)

    prompt: Text = Field(min_length=1, max_length=MAX_PROMPT)
    system: Text = Field("", max_length=MAX_SYSTEM)
    temperature: float = Field(0, ge=0, le=2)
    max_tokens: int = Field(256, ge=1, le=MAX_ANSWER_TOKENS)


class AnswerOut(Schema):
    """`side`: tuned, base or published; `state`: waiting, loading, answering, done or failed."""

    id: int
    side: str
    text: str
    state: str
    problem: str
    finish: str
    tokens: int | None


class TurnOut(Schema):
    id: int
    prompt: str
    is_open: bool
    answers: list[AnswerOut]


class ConversationOut(Schema):
    """`turns`: the last ones; while one `is_open` ask again in a moment for what was written meanwhile."""

    id: int
    project_id: int
    run_id: int | None
    model_id: int | None
    is_saved: bool
    asked_at: datetime
    turns: list[TurnOut]


@router.get(
    "/projects/{int:pk}/conversations", auth=READ, response=Page[ConversationOut], operation_id="conversation_list"
)
def conversation_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """Your own, the one asked last first."""
    project = fetch(request, get_project, pk)
    own = Conversation.objects.of(request.user).filter(project=project).order_by("-asked_at", "-pk")
    return paged(own, paging, _shown)


@router.post("/runs/{int:pk}/conversations", auth=TRAIN, response={201: ConversationOut}, operation_id="run_chat")
@once
def run_chat(request: TokenRequest, pk: Key, body: QuestionIn) -> Status[Any]:
    """Ask a finished run's model and its base."""
    return _begin(request, fetch(request, get_run, pk), body)


@router.post("/models/{int:pk}/conversations", auth=TRAIN, response={201: ConversationOut}, operation_id="model_chat")
@once
def model_chat(request: TokenRequest, pk: Key, body: QuestionIn) -> Status[Any]:
    """Ask a published model."""
    return _begin(request, fetch(request, get_published_model, pk), body)


@router.get("/conversations/{int:pk}", auth=READ, response=ConversationOut, operation_id="conversation_read")
def conversation_read(request: TokenRequest, pk: Key) -> Any:
    """What was asked and answered."""
    return _shown(fetch(request, get_conversation, pk))


@router.post(
    "/conversations/{int:pk}/turns", auth=TRAIN, response={201: ConversationOut}, operation_id="conversation_ask"
)
@once
def conversation_ask(request: TokenRequest, pk: Key, body: QuestionIn) -> Status[Any]:
    """Ask on. One question at a time."""
    found = fetch(request, get_conversation, pk)
    services.ask(actor=request.user, conversation=found, prompt=body.prompt, manner=_manner(body))
    return Status(201, _shown(get_conversation(request.user, pk)))


@router.post("/conversations/{int:pk}/stop", auth=TRAIN, response=ConversationOut, operation_id="conversation_stop")
def conversation_stop(request: TokenRequest, pk: Key) -> Any:
    """End the answers that are being written where they are."""
    found = fetch(request, get_conversation, pk)
    if last := found.turns.order_by("-pk").first():
        services.stop(turn=last)
    return _shown(get_conversation(request.user, pk))


@router.delete("/conversations/{int:pk}", auth=TRAIN, response={204: None}, operation_id="conversation_discard")
def conversation_discard(request: TokenRequest, pk: Key) -> Status[None]:
    """Forget it with all that was said."""
    services.discard(conversation=fetch(request, get_conversation, pk))
    return Status(204, None)


def _begin(request: TokenRequest, partner: Run | PublishedModel, body: QuestionIn) -> Status[Any]:
    turn = services.begin(actor=request.user, partner=partner, prompt=body.prompt, manner=_manner(body))
    return Status(201, _shown(turn.conversation))


def _manner(body: QuestionIn) -> Manner:
    return Manner(body.system.strip(), body.temperature, body.max_tokens)


def _shown(found: Conversation) -> ConversationOut:
    turns = list(found.turns.prefetch_related("answers").order_by("-pk")[:TURNS])
    return ConversationOut(
        id=found.pk,
        project_id=found.project_id,
        run_id=found.run_id,
        model_id=found.model_id,
        is_saved=found.is_saved,
        asked_at=found.asked_at,
        turns=[_turn(turn) for turn in reversed(turns)],
    )


def _turn(turn: ChatTurn) -> TurnOut:
    answers = [AnswerOut.from_orm(answer) for answer in turn.answers.all()]
    return TurnOut(id=turn.pk, prompt=turn.prompt, is_open=turn.is_open, answers=answers)
