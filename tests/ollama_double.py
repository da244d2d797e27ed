"""Stands where no Ollama can be had: its list of models and its chat, as ollama-python 0.6 reads them.

It judges as a rubric for tests would: 5 when the reference stands in the answer, else 1. Words in an answer make it
misbehave: “nonsense” gets text that follows no schema, “crash” an error of the server. What it was asked is kept.
"""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL, DIGEST = "strict-judge:8b", "sha256:" + "5a" * 32


def prompt_of(asked: dict[str, Any]) -> str:
    return " ".join(message["content"] for message in asked["messages"])


class OllamaDouble:
    """The server's address, what it was asked so far, and whether it is up."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.is_up, self.seconds = True, 0.0
        self.base_url = ""

    @property
    def prompts(self) -> list[str]:
        return [prompt_of(asked) for asked in self.asked]

    def answer(self, prompt: str) -> str | None:
        """What the model says; None: the server breaks."""
        reference, answer = (part.split("\n---\n")[1] for part in re.split(r"Reference, |Answer to judge:", prompt)[1:])
        if "crash" in answer:
            return None
        if "nonsense" in answer:
            return "I would say four."
        is_right = reference in answer
        return json.dumps({"reason": f"It says “{answer}”.", "score": 5 if is_right else 1}, ensure_ascii=False)


@contextmanager
def ollama_double() -> Iterator[OllamaDouble]:
    double = OllamaDouble()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/api/tags" and double.is_up:
                self.reply({"models": [{"name": MODEL, "model": MODEL, "digest": DIGEST, "size": 1}]})
            else:
                self.reply({"error": "not found"}, 404)

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/api/chat" or not double.is_up:
                return self.reply({"error": "model runner has stopped"}, 500)
            double.asked.append(asked)
            double.keys.add(self.headers.get("Authorization"))
            time.sleep(double.seconds)
            said = double.answer(prompt_of(asked))
            if said is None:
                return self.reply({"error": "model runner has stopped"}, 500)
            message = {"role": "assistant", "content": said}
            counts = {"prompt_eval_count": 9, "eval_count": 9, "total_duration": 1, "eval_duration": 1}
            at = "2026-01-01T00:00:00Z"
            return self.reply({"model": asked["model"], "created_at": at, "message": message, "done": True, **counts})

        def reply(self, value: dict[str, Any], status: int = 200) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    double.base_url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
