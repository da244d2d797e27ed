"""A chat engine kept in memory: takes waiting turns, streams both answers into their rows, leaves when nobody asks."""

import time
from pathlib import Path
from typing import Any

from django.conf import settings

from finetune_site.jobs.handle import EngineFailed, Handle
from finetune_site.lib.process import Engine
from training_app.models import ChatTurn, Run

WRITE_SECONDS = 0.25
LOOK_SECONDS = 0.3
MAX_NEW_TOKENS = 256
WHICH = ("tuned", "base")


def serve(handle: Handle, run: Run, module: str, spec_path: Path, log_path: Path) -> None:
    """Answer the run's turns until none came for a while. A turn that a lost attempt left half-way is asked again."""
    turns = ChatTurn.objects.filter(run=run)
    handle.write(lambda: turns.filter(state=ChatTurn.State.ANSWERING).update(state=ChatTurn.State.WAITING))
    handle.progress(0, 2, unit="models", message="Loading both models; about ten seconds")
    with Engine(module, [str(spec_path)], log_path=log_path) as engine:
        handle.adopt(engine)
        _wait_until_ready(handle, engine)
        minutes = max(1, round(settings.CHAT_IDLE_SECONDS / 60))
        handle.progress(2, 2, unit="models", message=f"In memory until nobody has asked for {minutes} minutes")
        asked_at = time.monotonic()
        while True:
            handle.check()
            turn = turns.filter(state=ChatTurn.State.WAITING).first()
            if turn:
                _answer(handle, engine, turn)
                asked_at = time.monotonic()
            elif time.monotonic() - asked_at > settings.CHAT_IDLE_SECONDS and _leave(handle, run):
                return
            else:
                time.sleep(LOOK_SECONDS)


def _wait_until_ready(handle: Handle, engine: Engine) -> None:
    while True:
        handle.check()
        event = engine.next_event(0.5)
        if event and event["event"] == "ready":
            return
        if event and event["event"] == "failed":
            raise EngineFailed(event["message"])
        if event is None and engine.is_done:
            raise EngineFailed("The chat process ended while it loaded the models.")


def _answer(handle: Handle, engine: Engine, turn: ChatTurn) -> None:
    """Ask the tuned model, then the base; what they write reaches row and page a few times a second."""
    _write(handle, turn, state=ChatTurn.State.ANSWERING, base_answer="", tuned_answer="")
    messages = [{"role": "user", "content": turn.prompt}]
    for which in WHICH:
        request = {"id": f"{turn.pk}-{which}", "model": which, "messages": messages, "max_new_tokens": MAX_NEW_TOKENS}
        engine.send(request)
        _stream(handle, engine, turn, which)
    _write(handle, turn, state=ChatTurn.State.DONE)


def _stream(handle: Handle, engine: Engine, turn: ChatTurn, which: str) -> None:
    text, written_at = "", 0.0
    while True:
        handle.check()
        event = engine.next_event(0.5)
        if event is None and engine.is_done:
            raise EngineFailed("The chat process ended in the middle of an answer.")
        if event is None or event.get("id") != f"{turn.pk}-{which}":
            continue
        if event["event"] == "token":
            text += event["text"]
            if time.monotonic() - written_at > WRITE_SECONDS:
                _write(handle, turn, **{f"{which}_answer": text})
                written_at = time.monotonic()
        elif event["event"] == "answer":
            answer = event["text"] or event.get("message", "")
            _write(handle, turn, **{f"{which}_answer": answer, f"{which}_seconds": event["seconds"]})
            return


def _write(handle: Handle, turn: ChatTurn, **fields: Any) -> None:
    handle.write(lambda: ChatTurn.objects.filter(pk=turn.pk).update(**fields))
    handle.publish("chat", {"turn": turn.pk})  # only a hint: the whole project hears it, the words are the asker's


def _leave(handle: Handle, run: Run) -> bool:
    """Let go of the run unless somebody asked in this very moment: asking locks the run too."""

    def let_go() -> bool:
        Run.objects.select_for_update().get(pk=run.pk)
        if ChatTurn.objects.filter(run=run, state=ChatTurn.State.WAITING).exists():
            return False
        Run.objects.filter(pk=run.pk).update(chat_job=None)
        return True

    return handle.write(let_go)
