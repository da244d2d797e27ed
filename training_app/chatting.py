"""Answers to chats: takes those that wait, one after another, and streams each into its row.

Models of runs answer in one process per device, which leaves when nobody asks, or when something is to be trained
there. Published models answer in their Ollama.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any
from uuid import uuid4

from django.conf import settings
from django.db.models import Q, QuerySet

from finetune_site.jobs import slots
from finetune_site.jobs.events import record
from finetune_site.jobs.handle import EngineFailed, Handle, JobCancelled, JobInputError, JobReleased
from finetune_site.jobs.models import Job, JobEvent, JobState
from finetune_site.jobs.queue import HOST
from finetune_site.jobs.runner import devices_of
from finetune_site.lib.channel import InputError
from finetune_site.lib.process import Engine
from training_app.models import ChatAnswer, Run
from training_app.ollama import Client, OllamaError
from training_app.services.chat import end_without_words, messages_before

WRITE_SECONDS = 0.1
LOOK_SECONDS = 0.2
SOURCES = (
    "turn__conversation__run__base",
    "turn__conversation__run__job",
    "turn__conversation__model__server",
    "turn__conversation__model__current__job",
)
STOPPED_BY_OPERATOR = "An operator stopped the chat process. Ask again."
HOPELESS = (
    "This could not be answered, also when it was tried again. Ask again; the operator finds the reason in the log."
)
State, Finish, Side = ChatAnswer.State, ChatAnswer.Finish, ChatAnswer.Side


@dataclass(frozen=True)
class End:
    """How an answer ended."""

    text: str
    finish: str
    tokens: int
    seconds: float


class Unwanted(Exception):
    """Its person stopped the answer or discarded the conversation."""


class Displaced(Exception):
    """Something is to be trained on this device: the answer has to wait."""


class Refused(Exception):
    """This answer cannot be had; the message says why."""


Pieces = Iterator[str | End | None]  # None: nothing new, look whether to go on


def serve_runs(
    handle: Handle, prepare: Callable[[Run], None], module: str, spec_path: Path, preload: str | None
) -> None:
    """Answer with the models of runs until nobody has asked for a while. `preload`: see `Engine`."""
    with contextlib.closing(Seat(handle, module, spec_path, preload)) as seat:
        answers = ChatAnswer.objects.exclude(side=Side.PUBLISHED)
        _serve(handle, answers, lambda answer: seat.ask(answer, prepare), seat.is_free)


def serve_published(handle: Handle, client_of: Callable[[Any], Client]) -> None:
    """Pass on what published models answer, until nobody has asked for a while."""
    answers = ChatAnswer.objects.filter(side=Side.PUBLISHED)
    _serve(handle, answers, lambda answer: _ask_ollama(answer, client_of), lambda: True)


def _serve(
    handle: Handle,
    answers: QuerySet[ChatAnswer],
    ask: Callable[[ChatAnswer], Pieces],
    may: Callable[[], bool],
) -> None:
    """Write waiting answers, each taken by this job alone, for as long as somebody asks and it may."""
    _take_back(handle, answers)
    waiting = answers.filter(state=State.WAITING)
    idle_seconds = settings.CHAT_IDLE_SECONDS
    asked_at = time.monotonic() - (0 if waiting.exists() else idle_seconds)
    try:
        while True:
            handle.check()
            is_wanted = waiting.exists()
            if may() and is_wanted and (answer := handle.write(lambda: _take(handle.job, waiting))):
                _write_answer(handle, answer, ask(answer))
            elif not is_wanted and time.monotonic() - asked_at >= idle_seconds:
                return
            else:
                time.sleep(LOOK_SECONDS)
            if is_wanted:
                asked_at = time.monotonic()
    except JobCancelled:
        handle.write(lambda: waiting.update(state=State.FAILED, problem=STOPPED_BY_OPERATOR))
        raise


def _take_back(handle: Handle, answers: QuerySet[ChatAnswer]) -> None:
    """Answers that a lost job left half-way wait again. Those on which a job failed for good are not tried again: they
    would take the next one along."""
    half = answers.filter(state__in=(State.LOADING, State.ANSWERING))
    is_lost = ~Q(taken_by__state=JobState.RUNNING) | Q(taken_by=handle.job) | Q(taken_by=None)
    is_hopeless = Q(taken_by__state=JobState.FAILED)
    if handle.job.attempt >= handle.job.max_attempts:
        is_hopeless |= Q(taken_by=handle.job)
    hopeless, lost = half.filter(is_hopeless).values("pk"), half.filter(is_lost).values("pk")
    handle.write(lambda: answers.filter(pk__in=hopeless).update(state=State.FAILED, problem=HOPELESS))
    handle.write(lambda: answers.filter(pk__in=lost).update(state=State.WAITING, text=""))


def _take(job: Job, waiting: QuerySet[ChatAnswer]) -> ChatAnswer | None:
    locked = waiting.select_for_update(skip_locked=True, of=("self",)).order_by("pk").first()
    if locked is None:
        return None
    ChatAnswer.objects.filter(pk=locked.pk).update(state=State.LOADING, taken_by=job)
    return ChatAnswer.objects.select_related(*SOURCES).get(pk=locked.pk)


def _write_answer(handle: Handle, answer: ChatAnswer, pieces: Pieces) -> None:
    """Stream one answer into its row; whatever ends it, the row says how."""
    pen = Pen(handle, answer)
    try:
        for piece in pieces:
            handle.check()
            if isinstance(piece, End):
                pen.end(piece.text or pen.text, finish=piece.finish, tokens=piece.tokens, seconds=piece.seconds)
                return
            pen.add(piece or "")
        raise Refused("The answer ended in the middle. Ask again.")
    except Unwanted:
        pen.end(pen.text, finish=Finish.STOPPED)
    except Displaced:
        pen.put_back()
    except JobReleased:
        pen.put_back()
        raise
    except JobCancelled:
        pen.end(pen.text, state=State.FAILED, problem=STOPPED_BY_OPERATOR)
        raise
    except (Refused, InputError, JobInputError, EngineFailed) as error:
        pen.end(pen.text, state=State.FAILED, problem=str(error)[:500])


class Pen:
    """Writes an answer into its row, a few times a second, and tells the page that there is more."""

    def __init__(self, handle: Handle, answer: ChatAnswer) -> None:
        self._handle, self._answer = handle, answer
        self._written_at = self._looked_at = 0.0
        self._written = ""
        self.text = ""

    def add(self, piece: str) -> None:
        """Take a piece of the answer; `Unwanted` when nobody wants more of it."""
        self.text += piece
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            if not ChatAnswer.objects.filter(pk=self._answer.pk, stop_requested=False).exists():
                raise Unwanted
        if self.text != self._written and now - self._written_at >= WRITE_SECONDS:
            self._write(text=self.text, state=State.ANSWERING)
            self._written_at, self._written = now, self.text

    def end(self, text: str, *, state: str = State.DONE, **fields: Any) -> None:
        """The last word on it; a conversation that was discarded meanwhile needs none."""
        try:
            self._write(text=text, state=state, **fields)
        except Unwanted:
            return
        if job := self._answer.turn.conversation.news_job:  # the last hint is enough for who comes back
            heard = JobEvent.objects.filter(job=job, kind="chat", payload__turn=self._answer.turn_id)
            self._handle.write(lambda: heard.exclude(pk=heard.order_by("-pk").values("pk")[:1]).delete())

    def put_back(self) -> None:
        """Let the answer wait again from its first word, unless it was stopped."""
        if ChatAnswer.objects.filter(pk=self._answer.pk, stop_requested=True).exists():
            self.end(self.text, finish=Finish.STOPPED)
            return
        with contextlib.suppress(Unwanted):
            self._write(text="", state=State.WAITING, taken_by=None)

    def _write(self, **fields: Any) -> None:
        conversation = self._answer.turn.conversation

        def write() -> None:
            job = conversation.news_job
            # Held first, as the deletion of a project does: the other way round each would wait for the other.
            if job and not Job.objects.select_for_update().filter(pk=job.pk).exists():
                raise Unwanted
            is_wordless = fields["text"] == "" and fields["state"] in (State.DONE, State.FAILED)
            if is_wordless:
                is_there = end_without_words(self._answer, **fields)
            else:
                is_there = bool(ChatAnswer.objects.filter(pk=self._answer.pk).update(**fields))
            if not is_there:
                raise Unwanted
            if job:
                # Only a hint: the whole project hears it, the words are the asker's.
                record(job, "chat", {"turn": self._answer.turn_id})

        self._handle.write(write)


class Seat:
    """A device of this machine and the chat process on it. Trainings come first: while they hold it, it is theirs."""

    def __init__(self, handle: Handle, module: str, spec_path: Path, preload: str | None) -> None:
        self._handle, self._module, self._spec_path, self._preload = handle, module, spec_path, preload
        self._device: IO[str] | None = None
        self._engine: Engine | None = None
        self._told = ""

    def close(self) -> None:
        if self._engine:
            self._engine.__exit__()
        if self._device:
            self._device.close()
        self._engine = self._device = None

    def is_free(self) -> bool:
        """Whether we sit on a device that nothing is trained on; gives way, or looks for another, when not."""
        if self._device and _is_training_on(slots.number(self._device)):
            self.close()
        if self._device is None:
            free = [number for number in range(settings.JOB_SLOTS["gpu"]) if not _is_training_on(number)]
            self._device = next((stream for number in free if (stream := slots.take("device", number))), None)
            self._tell("Models stay in memory until nobody asks" if self._device else "Waiting: trainings come first")
        return self._device is not None

    def _tell(self, message: str) -> None:
        if message != self._told:
            self._told = message
            self._handle.progress(0, message=message)

    def ask(self, answer: ChatAnswer, prepare: Callable[[Run], None]) -> Pieces:
        """Have the process on our device answer. `Displaced` when the device is needed, `Refused` with a reason."""
        run = answer.turn.conversation.run
        assert run is not None
        prepare(run)
        engine, looked_at = self._ready_engine(), time.monotonic()
        key = uuid4().hex  # of this try: the engine remembers what was cancelled
        try:
            engine.send({"id": key, **_request(answer)})
            while True:
                if time.monotonic() - looked_at > LOOK_SECONDS:
                    looked_at = time.monotonic()
                    if not self.is_free() or self._engine is not engine:
                        raise Displaced
                event = engine.next_event(0.1)
                if event is None and engine.is_done:
                    raise BrokenPipeError
                if event is None or event.get("id") != key:
                    yield None
                elif event["event"] == "token":
                    yield str(event["text"])
                elif event["event"] == "answer" and event["finish"] == "error":
                    raise Refused(event["message"])
                elif event["event"] == "answer":
                    finish = Finish.STOPPED if event["finish"] == "cancelled" else event["finish"]
                    yield End(event["text"], finish, event["tokens"], event["seconds"])
                    return
        except BrokenPipeError:
            told = "The chat process ended in the middle of the answer; often that means too little memory. Ask again."
            raise Refused(told) from None
        finally:  # also when it is not wanted any more
            if self._engine is engine and not engine.is_done:
                with contextlib.suppress(BrokenPipeError):
                    engine.send({"id": key, "cancel": True})

    def _ready_engine(self) -> Engine:
        if self._engine and not self._engine.is_done:
            return self._engine
        assert self._device is not None
        if self._engine:
            self._engine.__exit__()
        devices = devices_of("gpu", [slots.number(self._device)])
        env = {"CUDA_VISIBLE_DEVICES": devices} if devices is not None else None
        log_path = self._spec_path.with_suffix(".log")
        self._engine = Engine(self._module, [str(self._spec_path)], log_path=log_path, env=env, preload=self._preload)
        self._handle.adopt(self._engine)
        while True:
            self._handle.check()
            event = self._engine.next_event(0.5)
            if event and event["event"] == "ready":
                return self._engine
            if event and event["event"] == "failed":
                raise EngineFailed(event["message"])
            if event is None and self._engine.is_done:
                raise EngineFailed("The chat process ended before it was ready.")


def _is_training_on(device: int) -> bool:
    if settings.CHAT_BESIDE_TRAINING:
        return False
    working = Job.objects.filter(queue="gpu", state=JobState.RUNNING, host=HOST)
    return working.filter(held_slots__contains=[device]).exists()


def _request(answer: ChatAnswer) -> dict[str, Any]:
    run = answer.turn.conversation.run
    assert run is not None
    return {
        "base_dir": str(run.base.folder),
        "run_dir": str(run.folder) if answer.side == Side.TUNED else "",
        "method": run.method,
        "messages": messages_before(answer),
        "max_new_tokens": answer.turn.max_tokens,
        "temperature": answer.turn.temperature,
    }


def _ask_ollama(answer: ChatAnswer, client_of: Callable[[Any], Client]) -> Pieces:
    """What the stable tag of a published model answers. A thread reads it, as Ollama may be silent for minutes."""
    turn, model = answer.turn, answer.turn.conversation.model
    assert model is not None
    ChatAnswer.objects.filter(pk=answer.pk).update(model=model.current.tag if model.current else model.stable_tag)
    heard: SimpleQueue[Any] = SimpleQueue()
    unwanted, began, messages = threading.Event(), time.monotonic(), messages_before(answer)
    options = {"temperature": turn.temperature, "num_predict": turn.max_tokens}

    def read() -> None:
        try:
            with (
                client_of(model.server) as client,
                contextlib.closing(client.stream(model.stable_tag, messages, **options)) as pieces,
            ):
                for piece in pieces:
                    heard.put(piece)
                    if unwanted.is_set():
                        return  # Ollama hears that nobody listens, and stops
        except Exception as error:  # whatever it is, the answer ends with it
            heard.put(error)

    threading.Thread(target=read, daemon=True, name="ollama").start()
    try:
        while True:
            try:
                piece = heard.get(timeout=0.1)
            except Empty:
                yield None
                continue
            if isinstance(piece, OllamaError):
                raise Refused(str(piece))
            if isinstance(piece, Exception):
                raise piece
            if not isinstance(piece, str):
                finish = Finish.LENGTH if piece.ended_by == "length" else Finish.STOP
                yield End(piece.text.strip(), finish, piece.tokens, round(time.monotonic() - began, 2))
                return
            yield piece
    finally:
        unwanted.set()
