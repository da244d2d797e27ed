"""Task `chat`: models held ready in one process; requests come in on standard input, tokens go out as events.

A request is one JSON line: {"id": 7, "base_dir": "/…", "run_dir": "/…", "method": "lora", "messages": [...],
"max_new_tokens": 256, "temperature": 0}; without a run_dir the base itself answers. {"id": 7, "cancel": true} ends that
answer early. End-of-file ends the chat.
"""

import queue
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

import jinja2
import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from finetune_site.lib.channel import Channel, InputError
from training_app.engine.answers import end_tokens
from training_app.engine.hardware import Machine, choose_machine
from training_app.engine.models import load_base, load_tuned
from training_app.engine.spec import METHODS, ChatSpec
from training_app.engine.template import load_tokenizer, render

TOKEN_LIMIT = 2048

Request = dict[str, Any]


def chat(spec: ChatSpec, channel: Channel) -> dict[str, Any]:
    """Answer requests in the order they come until the input ends or a stop is asked for."""
    shelf = Shelf(choose_machine(spec.threads, spec.device, spec.dtype), spec.keep)
    channel.emit("ready")
    inbox = Inbox(channel)
    answered = 0
    while True:
        request = inbox.next()
        if request is not None:
            try:
                _answer(request, shelf, channel, inbox)
            except InputError as error:  # this model or this request; the next may be right
                _end(channel, request, finish="error", message=str(error))
            answered += 1
        elif channel.should_stop:
            return {"answered": answered}


@dataclass(frozen=True)
class Loaded:
    """A model and what it reads with. `context`: how many tokens of prompt and answer it takes."""

    model: Any
    tokenizer: Any
    context: int


class Shelf:
    """The models in memory: the ones asked last stay."""

    def __init__(self, machine: Machine, keep: int) -> None:
        self.machine = machine
        self._keep = keep
        self._held: OrderedDict[tuple[str, str], Loaded] = OrderedDict()

    def holds(self, request: Request) -> bool:
        return _key(request) in self._held

    def take(self, request: Request) -> Loaded:
        """The model that a request names, loaded if it is not there; `InputError` when it cannot be."""
        key = _key(request)
        if key not in self._held:
            while len(self._held) >= self._keep:
                self._held.popitem(last=False)
            if self.machine.device.type == "cuda":
                torch.cuda.empty_cache()
            self._held[key] = self._load(*key, str(request.get("method", "")))
        self._held.move_to_end(key)
        return self._held[key]

    def _load(self, base_dir: str, run_dir: str, method: str) -> Loaded:
        tokenizer = load_tokenizer(base_dir)
        if not run_dir:
            model = load_base(base_dir, self.machine.device)
        elif method in METHODS:
            model = load_tuned(base_dir, run_dir, method, self.machine.device)
        else:
            raise InputError(f"method must be one of {', '.join(METHODS)}.")
        context = int(model.config.get_text_config().max_position_embeddings)
        return Loaded(model.to(self.machine.dtype).eval(), tokenizer, context)


def _key(request: Request) -> tuple[str, str]:
    return str(request.get("base_dir", "")), str(request.get("run_dir") or "")


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


def _answer(request: Request, shelf: Shelf, channel: Channel, inbox: Inbox) -> None:
    """Write one answer as `token` events and one `answer` event; `loading` comes first where the model has to."""
    number = request.get("id")
    if inbox.is_cancelled(number):
        return _end(channel, request, finish="cancelled")
    messages = _messages(request)
    if not shelf.holds(request):
        channel.emit("loading", id=number)
    held, began = shelf.take(request), time.monotonic()
    try:
        prompt = render(held.tokenizer, messages, ask=True)
    except jinja2.TemplateError as error:
        raise InputError(f"The model's chat template refuses the conversation: {error}") from error
    ids = held.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"].to(shelf.machine.device)
    room = held.context - ids.shape[1]
    if room < 1:
        raise InputError(
            f"The conversation has {ids.shape[1]} tokens, and the model reads {held.context}. Begin a new one."
        )
    ends, temperature = end_tokens(held.tokenizer), float(request.get("temperature", 0.0))
    stop, writer = _Stop(channel, inbox, number), _Writer(channel, held.tokenizer, number, set(ends))
    with torch.inference_mode():
        held.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=min(int(request.get("max_new_tokens", 256)), TOKEN_LIMIT, room),
            do_sample=temperature > 0,
            pad_token_id=ends[0],
            eos_token_id=ends,
            streamer=writer,
            stopping_criteria=[stop],
            **({"temperature": temperature} if temperature > 0 else {}),
        )
    finish = "stop" if writer.has_ended else "cancelled" if stop.was_asked else "length"
    seconds = round(time.monotonic() - began, 2)
    return _end(channel, request, text=writer.text.strip(), tokens=writer.count, seconds=seconds, finish=finish)


def _end(channel: Channel, request: Request, **told: Any) -> None:
    channel.emit("answer", **{"id": request.get("id"), "text": "", "tokens": 0, "seconds": 0.0, **told})


def _messages(request: Request) -> list[dict[str, str]]:
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InputError("messages must hold at least one message.")
    if not all(isinstance(item, dict) and {"role", "content"} <= set(item) for item in messages):
        raise InputError("Every message needs a role and a content.")
    return messages


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
