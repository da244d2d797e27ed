"""An OpenAI-compatible server that follows a script: for each request what it answers, or how it fails.

What a real one does in the same place is seen in the test with llama.cpp.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """`ended`: “stop”, or “length” for an answer cut at the limit. `status` above 399: an error of the server.
    `seconds`: how long it takes. `dies`: it ends, and answers nothing any more."""

    text: str = ""
    ended: str = "stop"
    status: int = 200
    seconds: float = 0.0
    dies: bool = False


@dataclass
class LlmDouble:
    """`script` is given the messages of a request and its number for that passage, from 1."""

    script: Callable[[list[dict[str, str]]], Reply]
    asked: list[dict[str, Any]] = field(default_factory=list)
    base_url: str = ""
    at_once: int = 0
    most_at_once: int = 0


@contextmanager
def llm_double(script: Callable[[list[dict[str, str]]], Reply]) -> Iterator[LlmDouble]:
    double, lock = LlmDouble(script), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                double.asked.append(asked)
                double.at_once += 1
                double.most_at_once = max(double.most_at_once, double.at_once)
            reply = double.script(asked["messages"])
            if reply.dies:
                threading.Thread(target=stop).start()
            time.sleep(reply.seconds)
            with lock:
                double.at_once -= 1
            if reply.dies:
                self.close_connection = True
                return
            choice = {"index": 0, "finish_reason": reply.ended, "message": {"role": "assistant", "content": reply.text}}
            usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
            told = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
            body = json.dumps({**told, "usage": usage} if reply.status < 400 else {"error": {"message": "no"}}).encode()
            self.send_response(reply.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):  # who asked was killed
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True

    def stop() -> None:
        server.shutdown()
        server.server_close()

    threading.Thread(target=server.serve_forever, daemon=True).start()
    double.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield double
    finally:
        stop()
