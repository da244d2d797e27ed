"""What people do in chats: begin, ask, ask again, stop, save, discard, make an example of an answer."""

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from datasets_app.models import Dataset, Example
from datasets_app.services import examples
from datasets_app.services.errors import DatasetError
from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import Job, JobState
from finetune_site.projects.models import Project
from finetune_site.projects.services import operators_desk
from training_app.models import ChatAnswer, ChatTurn, Conversation, PublishedModel, Run
from training_app.services.runs import TrainingError

MAX_PROMPT, MAX_SYSTEM = 8000, 8000
GOOD, BETTER, PAIR = "good", "better", "pair"
VERDICTS = {
    GOOD: "It is good: keep it as it stands",
    BETTER: "It is not: keep the answer that I write instead",
    PAIR: "Keep both as a preference pair: mine is chosen, the model's rejected",
}


@dataclass(frozen=True)
class Manner:
    """How a conversation's questions are answered. `system`: empty for the model's own."""

    system: str = ""
    temperature: float = 0.0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if len(self.system) > MAX_SYSTEM:
            raise TrainingError(f"The system prompt is longer than {MAX_SYSTEM} characters. Shorten it.")


@transaction.atomic
def begin(*, actor: User, partner: Run | PublishedModel, prompt: str, manner: Manner) -> ChatTurn:
    """Put the first question to a run's model and its base, or to a published model."""
    conversation = Conversation.objects.create(
        project=partner.project,
        user=actor,
        run=partner if isinstance(partner, Run) else None,
        model=partner if isinstance(partner, PublishedModel) else None,
    )
    return ask(actor=actor, conversation=conversation, prompt=prompt, manner=manner)


def check_partner(partner: Run | PublishedModel) -> None:
    """`TrainingError` when there is nobody who could answer."""
    if isinstance(partner, Run) and not partner.is_done:
        raise TrainingError("The run has no model yet. Let it end first.")
    if isinstance(partner, PublishedModel) and partner.current is None:
        raise TrainingError(f"No version of {partner} is published now. Publish one, or chat with its run.")


@transaction.atomic
def ask(*, actor: User, conversation: Conversation, prompt: str, manner: Manner) -> ChatTurn:
    """Put a question to every side of a conversation; from now on it is answered in this manner."""
    prompt = prompt.strip()
    check_partner(conversation.partner)
    if not prompt:
        raise TrainingError("Type a question first.")
    if len(prompt) > MAX_PROMPT:
        raise TrainingError(f"The question is longer than {MAX_PROMPT} characters. Shorten it.")
    locked = Conversation.objects.select_for_update().get(pk=conversation.pk)
    if ChatAnswer.objects.filter(turn__conversation=locked, state__in=ChatAnswer.OPEN).exists():
        raise TrainingError("The last question is still being answered. Wait for it, or stop it.")
    turn = ChatTurn.objects.create(conversation=locked, prompt=prompt, **asdict(manner))
    ChatAnswer.objects.bulk_create([ChatAnswer(turn=turn, side=side) for side in conversation.sides])
    _answer_in(conversation, manner)
    _call(actor, conversation)
    return turn


@transaction.atomic
def ask_again(*, actor: User, turn: ChatTurn, manner: Manner) -> None:
    """Have the last question answered anew, in this manner; an answer stays until there is another."""
    conversation = turn.conversation
    check_partner(conversation.partner)
    Conversation.objects.select_for_update().get(pk=conversation.pk)
    if conversation.turns.order_by("-pk").values_list("pk", flat=True).first() != turn.pk:
        raise TrainingError("Only the last question can be answered again: the later ones rest on these answers.")
    if turn.answers.filter(state__in=ChatAnswer.OPEN).exists():
        raise TrainingError("The question is still being answered. Wait for it, or stop it.")
    ChatTurn.objects.filter(pk=turn.pk).update(**asdict(manner))
    for answer in turn.answers.all():
        blank = ChatAnswer(pk=answer.pk, turn=turn, side=answer.side, former=answer.whole if answer.text else {})
        blank.save(force_update=True)
    _answer_in(conversation, manner)
    _call(actor, conversation)


def _answer_in(conversation: Conversation, manner: Manner) -> None:
    Conversation.objects.filter(pk=conversation.pk).update(asked_at=timezone.now(), **asdict(manner))


def stop(*, turn: ChatTurn) -> None:
    """End the answers where they are. Those that nobody writes, or nobody any more, end at once."""
    turn.answers.filter(state__in=ChatAnswer.OPEN).update(stop_requested=True)
    alone = turn.answers.filter(state__in=ChatAnswer.OPEN).exclude(taken_by__state=JobState.RUNNING)
    for answer in alone:
        end_without_words(answer, state=ChatAnswer.State.DONE, finish=ChatAnswer.Finish.STOPPED)


def end_without_words(answer: ChatAnswer, **fields: Any) -> bool:
    """End an answer of which nothing was written: what stood there before is there again. False when it is gone."""
    row = ChatAnswer.objects.filter(pk=answer.pk)
    former = row.values_list("former", flat=True).first() or {}
    return bool(row.update(**{"text": "", **fields, **former}))


def save(*, conversation: Conversation) -> None:
    Conversation.objects.filter(pk=conversation.pk).update(is_saved=True)


def discard(*, conversation: Conversation) -> None:
    """Forget a conversation with all that was said; who is answering it notices and stops."""
    conversation.delete()


def forget_old() -> None:
    """Discard what nobody saved and nobody has gone on with for long."""
    since = timezone.now() - timedelta(days=settings.CHAT_DAYS)
    Conversation.objects.filter(is_saved=False, asked_at__lt=since).delete()


@transaction.atomic
def keep_as_example(
    *, actor: User, answer: ChatAnswer, dataset: Dataset, verdict: str, better: str, with_earlier: bool = False
) -> Example:
    """Make an example of an answer, to be reviewed like every other: the answer, or a better one, or both as a pair.

    `with_earlier`: the turns before go with it, and what the model said in them is then taught as well.
    """
    locked = ChatAnswer.objects.select_for_update().get(pk=answer.pk)
    turn, better = answer.turn, better.strip()
    if locked.state != ChatAnswer.State.DONE or not locked.text:
        raise TrainingError("There is no whole answer yet. Wait for it.")
    if locked.example_id:
        raise TrainingError("This answer was kept already.")
    if verdict == GOOD and locked.finish not in ("", ChatAnswer.Finish.STOP):
        raise TrainingError("The answer was cut, so it is not kept as it stands. Write the whole one instead.")
    if dataset.project_id != turn.conversation.project_id:
        raise TrainingError("The dataset belongs to another project.")
    if verdict not in VERDICTS:
        raise TrainingError("Say whether the answer is good.")
    if verdict != GOOD and better in ("", locked.text):
        raise TrainingError("Write the better answer first.")
    asked = messages_before(answer) if with_earlier else messages_alone(answer)
    if verdict == PAIR and len(asked) > 1:
        raise TrainingError(
            "A preference pair holds one question alone, without system prompt and earlier turns. Keep the better "
            "answer as a conversation instead."
        )
    if verdict == PAIR:
        content: dict[str, object] = {"prompt": turn.prompt, "chosen": better, "rejected": locked.text}
    else:
        said = locked.text if verdict == GOOD else better
        content = {"messages": [*asked, {"role": "assistant", "content": said}]}
    try:
        example = examples.write_example(actor=actor, dataset=dataset, content=content, chatted_with=name_of(answer))
    except DatasetError as error:
        raise TrainingError(str(error)) from error
    ChatAnswer.objects.filter(pk=answer.pk).update(example=example)
    return example


def name_of(answer: ChatAnswer) -> str:
    """Who answered, as people call it."""
    conversation = answer.turn.conversation
    if conversation.model:
        return answer.model or conversation.model.stable_tag
    assert conversation.run is not None
    named = f"{conversation.run.base}"
    return f"{named}, tuned in the run “{conversation.run}”" if answer.side == ChatAnswer.Side.TUNED else named


def messages_before(answer: ChatAnswer) -> list[dict[str, str]]:
    """What its model is asked: system prompt, the earlier turns, and the question."""
    *system, question = messages_alone(answer)
    return [*system, *messages_earlier(answer), question]


def messages_earlier(answer: ChatAnswer) -> list[dict[str, str]]:
    """The turns before, as the same side answered them itself; one that it left without a word is left out."""
    conversation, messages = answer.turn.conversation_id, []
    earlier = ChatAnswer.objects.filter(turn__conversation=conversation, turn__lt=answer.turn_id, side=answer.side)
    for before in earlier.exclude(text="").select_related("turn").order_by("turn"):
        messages.append({"role": "user", "content": before.turn.prompt})
        messages.append({"role": "assistant", "content": before.text})
    return messages


def messages_alone(answer: ChatAnswer) -> list[dict[str, str]]:
    """The question without the turns before it, after its system prompt."""
    system = [{"role": "system", "content": answer.turn.system}] if answer.turn.system else []
    return [*system, {"role": "user", "content": answer.turn.prompt}]


def trainings_in_the_way() -> list[Job]:
    """The jobs that hold every device now, so that no run's model can answer; none when one is free."""
    if settings.CHAT_BESIDE_TRAINING:
        return []
    working = list(Job.objects.filter(queue="gpu", state=JobState.RUNNING))
    hosts = {job.host for job in working}
    chats = Job.objects.filter(kind="training.chat", state=JobState.RUNNING).exclude(host__in=hosts)
    held = sum(len(job.held_slots) for job in working)
    is_full = held >= settings.JOB_SLOTS["gpu"] * max(1, len(hosts))
    return working if working and is_full and not chats.exists() else []


def prospect(answer: ChatAnswer) -> str:
    """What an answer without words waits for."""
    is_published = answer.side == ChatAnswer.Side.PUBLISHED
    if answer.state == ChatAnswer.State.LOADING:
        return "Ollama reads the question…" if is_published else "The model is loaded or reads the question…"
    if is_published or not (trainings := trainings_in_the_way()):
        return "Waiting for its turn…"
    left = [job.seconds_left for job in trainings if job.seconds_left is not None]
    when = f" in about {max(1, round(min(left) / 60))} min" if left else ""
    return f"A training or evaluation uses the device and comes first; this is answered when it has ended{when}."


@transaction.atomic
def call_for_waiting() -> None:
    """See that somebody will look for answers whose job was stopped or lost before it came to them."""
    open_ones = ChatAnswer.objects.filter(state__in=ChatAnswer.OPEN).exclude(taken_by__state=JobState.RUNNING)
    for sides in ((ChatAnswer.Side.PUBLISHED,), (ChatAnswer.Side.TUNED, ChatAnswer.Side.BASE)):
        answer = open_ones.filter(side__in=sides).select_related("turn__conversation__user").order_by("pk").first()
        if answer:
            _call(answer.turn.conversation.user, answer.turn.conversation)


def _call(actor: User, conversation: Conversation) -> None:
    """See that somebody will look for waiting answers once this transaction ends.

    A job that waits looks when its turn comes, and cannot be taken while we hold its row; one that runs may be about to
    leave, so it does not count. A job that finds nothing to answer ends at once.
    """
    kind = "training.chat" if conversation.run_id else "training.chat_ollama"
    desk = Project.objects.select_for_update(no_key=True).get(pk=operators_desk(actor=actor).pk)
    waiting = Job.objects.filter(kind=kind, state=JobState.QUEUED, cancel_requested=False)
    if not waiting.select_for_update().exists():
        jobs.enqueue(project=desk, owner=actor, kind=kind, label="answers that wait")
