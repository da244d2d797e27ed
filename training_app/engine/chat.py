"""Task `chat`: the base and the tuned model held ready; requests come in on standard input, tokens go out as events.

A request is one JSON line: {"id": 7, "model": "base" | "tuned", "messages": [...], "max_new_tokens": 256,
"temperature": 0}. {"id": 7, "cancel": true} ends that answer early. End-of-file ends the chat.
"""

import queue
import time
from collections import deque
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from finetune_site.lib.channel import Channel
from training_app.engine.answers import end_tokens
from training_app.engine.hardware import Machine, choose_machine
from training_app.engine.models import load_base, load_tuned
from training_app.engine.spec import ChatSpec
from training_app.engine.template import load_tokenizer, render

MODELS = ("base", "tuned")
TOKEN_LIMIT = 2048

Request = dict[str, Any]


def chat(spec: ChatSpec, channel: Channel) -> dict[str, Any]:
    """Answer requests in the order they come until the input ends or a stop is asked for."""
    tokenizer = load_tokenizer(spec.base_dir)
    machine = choose_machine(spec.threads, spec.device, spec.dtype)
    models = {
        "base": load_base(spec.base_dir, machine.device).to(machine.dtype).eval(),
        "tuned": load_tuned(spec.base_dir, spec.run_dir, spec.method, machine.device).to(machine.dtype).eval(),
    }
    channel.emit("ready")
    inbox = Inbox(channel)
    answered = 0
    while True:
        request = inbox.next()
        if request is not None:
            _answer(request, models, tokenizer, machine, channel, inbox)
            answered += 1
        elif channel.should_stop:
            return {"answered": answered}


class Inbox:
    """Requests that wait, and the ids whose answer nobody wants any more."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: deque[Request] = deque()
        self._cancelled: set[object] = set()

    def next(self) -> Request | None:
        """The next request, or None when none came within a fifth of a second."""
        self._read(timeout=None if self._waiting else 0.2)
        return self._waiting.popleft() if self._waiting else None

    def is_cancelled(self, request_id: object) -> bool:
        self._read(timeout=None)
        return request_id in self._cancelled

    def _read(self, timeout: float | None) -> None:
        try:
            while True:
                block = timeout is not None
                request = self._channel.requests.get(block=block, timeout=timeout)
                timeout = None
                if request.get("cancel"):
                    self._cancelled.add(request.get("id"))
                else:
                    self._waiting.append(request)
        except queue.Empty:
            return


def _answer(
    request: Request, models: dict[str, Any], tokenizer: Any, machine: Machine, channel: Channel, inbox: Inbox
) -> None:
    """Write one answer as `token` events and one `answer` event; a request that makes no sense gets an empty answer."""
    number, began = request.get("id"), time.monotonic()
    if inbox.is_cancelled(number):
        return channel.emit("answer", id=number, text="", tokens=0, seconds=0.0, finish="cancelled")
    if refusal := _refusal(request):
        return channel.emit("answer", id=number, text="", tokens=0, seconds=0.0, finish="error", message=refusal)
    prompt = render(tokenizer, request["messages"], ask=True)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"].to(machine.device)
    ends, temperature = end_tokens(tokenizer), float(request.get("temperature", 0.0))
    stop, writer = _Stop(channel, inbox, number), _Writer(channel, tokenizer, number, set(ends))
    limit = min(int(request.get("max_new_tokens", 256)), TOKEN_LIMIT)
    with torch.inference_mode():
        models[request["model"]].generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=limit,
            do_sample=temperature > 0,
            pad_token_id=ends[0],
            eos_token_id=ends,
            streamer=writer,
            stopping_criteria=[stop],
            **({"temperature": temperature} if temperature > 0 else {}),
        )
    finish = "stop" if writer.has_ended else "cancelled" if stop.was_asked else "length"
    seconds = round(time.monotonic() - began, 2)
    channel.emit("answer", id=number, text=writer.text.strip(), tokens=writer.count, seconds=seconds, finish=finish)
    return None


def _refusal(request: Request) -> str:
    messages = request.get("messages")
    if request.get("model") not in MODELS:
        return f"model must be one of {', '.join(MODELS)}."
    if not isinstance(messages, list) or not messages:
        return "messages must hold at least one message."
    if not all(isinstance(item, dict) and {"role", "content"} <= set(item) for item in messages):
        return "Every message needs a role and a content."
    return ""


class _Stop(StoppingCriteria):
    """Asks after every token whether the answer is still wanted."""

    def __init__(self, channel: Channel, inbox: Inbox, number: object) -> None:
        self._channel, self._inbox, self._number = channel, inbox, number
        self.was_asked = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self.was_asked = self._channel.should_stop or self._inbox.is_cancelled(self._number)
        return torch.full((input_ids.shape[0],), self.was_asked, dtype=torch.bool, device=input_ids.device)


class _Writer(BaseStreamer):
    """Turns tokens into text as they come; half a character waits for its other half."""

    def __init__(self, channel: Channel, tokenizer: Any, number: object, ends: set[int]) -> None:
        self._channel, self._tokenizer, self._number, self._ends = channel, tokenizer, number, ends
        self._ids: list[int] = []
        self._is_prompt = True
        self.text = ""
        self.has_ended = False

    @property
    def count(self) -> int:
        return len(self._ids)

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt once, then one token after the other."""
        if self._is_prompt:
            self._is_prompt = False
            return
        for token in value.flatten().tolist():
            if token in self._ends:
                self.has_ended = True
                continue
            self._ids.append(token)
            text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
            if not text.endswith("\ufffd") and len(text) > len(self.text):
                self._channel.emit("token", id=self._number, text=text[len(self.text) :])
                self.text = text

    def end(self) -> None:
        """The last token has been put."""
