"""A chat server on standard input and output: the base model and the tuned one, side by side, token by token.

A request is one JSON line: {"id": 7, "model": "base" or "tuned", "messages": [...], "max_new_tokens": 256,
"temperature": 0}; {"id": 7, "cancel": true} ends an answer early. Answers come as `token` and `answer` events.
"""

import threading
import time
from collections import deque
from queue import Empty
from typing import Any

import torch
from transformers import StoppingCriteria, TextIteratorStreamer

from finetune_site.lib.channel import Channel
from training_app.engine import data, models
from training_app.engine.spec import ChatSpec

TOKEN_LIMIT = 1024


def run(spec: ChatSpec, link: Channel) -> dict[str, Any]:
    """Answer requests until the input ends or a stop is asked for."""
    models.set_threads(spec.threads)
    device = models.device_of(spec.device)
    tokenizer = models.load_tokenizer(spec.base_dir)
    loaded = {
        "base": models.load_base(spec.base_dir, device).eval(),
        "tuned": models.load_tuned(spec.base_dir, spec.run_dir, spec.method, device),
    }
    link.emit("ready")
    waiting: deque[dict[str, Any]] = deque()
    answered = 0
    while True:
        _collect(link, waiting, timeout=0.2)
        if waiting:
            _answer(link, loaded, tokenizer, waiting)
            answered += 1
        elif link.should_stop:
            return {"answered": answered}


def _collect(link: Channel, waiting: deque[dict[str, Any]], timeout: float) -> set[int]:
    """Move new requests to `waiting`; returns the ids that were cancelled, which are no longer in it."""
    cancelled = set()
    try:
        while True:
            request = link.requests.get(timeout=timeout)
            timeout = 0
            if request.get("cancel"):
                cancelled.add(request["id"])
            else:
                waiting.append(request)
    except Empty:
        pass
    for request in [entry for entry in waiting if entry["id"] in cancelled]:
        waiting.remove(request)
        link.emit("answer", id=request["id"], text="", tokens=0, seconds=0, finish="cancelled")
    return cancelled


def _answer(link: Channel, loaded: dict[str, Any], tokenizer: Any, waiting: deque[dict[str, Any]]) -> None:
    """Stream one answer; a cancel for it may come while it is generated."""
    request = waiting.popleft()
    model, stop = loaded[request["model"]], _Stop()
    prompt = data.render(tokenizer, request["messages"], is_prompt=True, name="The conversation")
    inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(model.device)
    streamer: Any = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)  # type: ignore[no-untyped-call]
    temperature = float(request.get("temperature", 0))
    limit = min(int(request.get("max_new_tokens", 256)), TOKEN_LIMIT)
    options = {
        **inputs,
        "streamer": streamer,
        "max_new_tokens": limit,
        "do_sample": temperature > 0,
        "stopping_criteria": [stop],
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": sorted(data.end_tokens(tokenizer)),
        **({"temperature": temperature} if temperature > 0 else {}),
    }
    began = time.monotonic()
    thread = threading.Thread(target=_generate, args=(model, options, streamer), daemon=True)
    thread.start()
    text, pieces = "", 0
    for piece in streamer:
        text, pieces = text + piece, pieces + 1
        if piece:
            link.emit("token", id=request["id"], text=piece)
        if request["id"] in _collect(link, waiting, timeout=0) or link.should_stop:
            stop.asked = True
    thread.join()
    finish = "cancelled" if stop.asked else "length" if pieces >= limit else "stop"
    seconds = round(time.monotonic() - began, 2)
    link.emit("answer", id=request["id"], text=text.strip(), tokens=pieces, seconds=seconds, finish=finish)


@torch.no_grad()
def _generate(model: Any, options: dict[str, Any], streamer: Any) -> None:
    try:
        model.generate(**options)
    finally:
        streamer.end()  # an error must not leave the reader waiting for ever


class _Stop(StoppingCriteria):
    asked = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.asked, dtype=torch.bool, device=input_ids.device)
