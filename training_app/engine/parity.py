"""Is the GGUF the same model? The log-probabilities of the first token, in PyTorch and in llama.cpp, side by side.

Text proves nothing here: a small model's greedy answer may turn on a difference of 0.01 between its two best tokens.
"""

import json
import math
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from finetune_site.lib.channel import Channel, InputError
from training_app.engine.hardware import Machine
from training_app.engine.models import load_base
from training_app.engine.probes import Asked

TOP, SEEN = 5, 40
LIKELY = math.log(0.01)
WAIT_SECONDS = 300


def compare(
    merged: Path, gguf: Path, tokenizer: Any, asked: list[Asked], machine: Machine, channel: Channel
) -> list[dict[str, Any]]:
    """For each prompt the likeliest first tokens with their log-probabilities in both.

    Each row: `question`, `tokens` (text, model, gguf), `difference` (the largest over the tokens that either gives at
    least one chance in a hundred: what is rarer is hardly ever written, and rounding moves it most), and whether both
    cut the prompt into the same tokens (`same_tokens`).
    """
    ours = list(_model_logprobs(merged, asked, machine, channel))
    rows = []
    with llama_cpp(gguf, context=max(len(entry.ids) for entry in asked) + 8, threads=machine.threads) as server:
        for entry, logprobs in zip(asked, ours, strict=True):
            channel.check()
            tokens = _side_by_side(logprobs, server.first_logprobs(entry.ids, SEEN), tokenizer)
            likely = [line for line in tokens if max(line["model"], line["gguf"]) >= LIKELY] or tokens
            rows.append(
                {
                    "question": entry.question,
                    "difference": round(max(abs(line["model"] - line["gguf"]) for line in likely), 4),
                    "tokens": tokens,
                    "same_tokens": server.tokenize(entry.text) == entry.ids,
                }
            )
    return rows


def _side_by_side(ours: torch.Tensor, theirs: dict[int, float], tokenizer: Any) -> list[dict[str, Any]]:
    """The model's likeliest tokens, and those that the GGUF finds likely; rarer ones there count as its rarest seen."""
    chosen = [int(token) for token in ours.topk(TOP).indices]
    chosen += [token for token, value in theirs.items() if value >= LIKELY and token not in chosen]
    rarest = min(theirs.values())
    return [
        {
            "text": tokenizer.decode([token]),
            "model": round(float(ours[token]), 4),
            "gguf": round(theirs.get(token, rarest), 4),
        }
        for token in chosen
    ]


def tokens_differ(rows: list[dict[str, Any]]) -> str:
    """The sentence for prompts that llama.cpp cuts into other tokens; empty when there is none."""
    wrong = [row["question"] for row in rows if not row["same_tokens"]]
    if not wrong:
        return ""
    return f"llama.cpp cuts {len(wrong)} of {len(rows)} prompts into other tokens than the model was trained on."


class Server:
    """llama.cpp's server on one GGUF, in this process."""

    def __init__(self, address: str) -> None:
        self._address = address

    def tokenize(self, text: str) -> list[int]:
        found: list[int] = self._ask("/tokenize", {"content": text, "add_special": False, "parse_special": True})[
            "tokens"
        ]
        return found

    def first_logprobs(self, ids: list[int], count: int) -> dict[int, float]:
        """The log-probabilities of the `count` likeliest first tokens after a prompt given as tokens."""
        body = {"prompt": ids, "n_predict": 1, "n_probs": count, "temperature": 0, "cache_prompt": False}
        told = self._ask("/completion", body)["completion_probabilities"][0]["top_logprobs"]
        return {int(entry["id"]): float(entry["logprob"]) for entry in told}

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(  # noqa: S310  # nosec B310  our own process on loopback
            self._address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:  # noqa: S310  # nosec B310  our own server
            return json.load(answer)


@contextmanager
def llama_cpp(gguf: Path, *, context: int, threads: int) -> Iterator[Server]:
    """A llama.cpp server on a free port of loopback while the context lasts."""
    try:
        import xllamacpp
    except ImportError:
        raise InputError("There is no llama.cpp here to compare with: install the extra publish.") from None
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gguf)
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = context, 1, False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(parameters)
    try:
        yield Server(server.listening_address)
    finally:
        del server


@torch.inference_mode()
def _model_logprobs(merged: Path, asked: list[Asked], machine: Machine, channel: Channel) -> Iterator[torch.Tensor]:
    model = load_base(merged, machine.device).eval()
    for entry in asked:
        channel.check()
        ids = torch.tensor([entry.ids], device=machine.device)
        yield model(input_ids=ids).logits[0, -1].float().log_softmax(-1).cpu()
