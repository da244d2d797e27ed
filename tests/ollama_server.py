"""Stands where no Ollama can be had: its store, its way of making models and its answers, as its source and its own
tests say, over real inference on the GGUF by llama.cpp, which Ollama too is a front of.

`behave` makes it act as an older version or go wrong on purpose. The same tests run against a real server where
OLLAMA_URL names one.
"""

import hashlib
import json
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from finetune_site.lib.files import sha256_of
from tests.go_template import GoTemplateError, render_go
from training_app.engine.gguf_facts import read_facts

NAME = re.compile(r"(?:[\w.-]+/)?(?:[\w-]+/)?[a-zA-Z0-9_][\w.-]{0,79}(?::[a-zA-Z0-9_][\w.-]{0,79})?")
# What Ollama attaches to a GGUF whose own template is near enough to ChatML's: it knows no default system message.
CHATML = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
EMPTY = "sha256:" + "0" * 64


@dataclass
class Behaviour:
    """`render`: mutate | drop system; `upload`: cut | truncate; `create`: cut | error; `read`: other tokens."""

    version: str = "0.34.2"
    render: str = ""
    upload: str = ""
    create: str = ""
    read: str = ""
    is_full: bool = False
    is_busy: bool = False
    is_endless: bool = False
    piece_seconds: float = 0.0
    key: str = ""


@dataclass
class Manifest:
    """One model: which GGUF, and the layers beside it."""

    gguf: str
    template: str = ""
    system: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    licence: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(vars(self), sort_keys=True).encode()).hexdigest()


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class OllamaServer:
    """The store, what was asked, and the models that are held in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.models: dict[str, Manifest] = {}
        self.registry: dict[str, Path] = {}
        self.behave = Behaviour()
        self.asked: list[tuple[str, Any]] = []
        self.uploads: list[str] = []  # those that arrived whole
        self.base_url = ""
        self._loaded: dict[str, Any] = {}
        self._facts: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def blob(self, digest: str) -> Path:
        return self.folder / digest.replace(":", "-")

    def keep(self, content: Path | bytes) -> str:
        """Puts a file, or these bytes, under its own digest, which it gives."""
        if isinstance(content, bytes):
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            self.blob(digest).write_bytes(content)
            return digest
        digest = f"sha256:{sha256_of(content)}"
        if not self.blob(digest).exists():
            self.blob(digest).symlink_to(content)
        return digest

    def named(self, name: str, quote: str = "'") -> Manifest:
        found = self.models.get(whole(name))
        if found is None:
            raise Refusal(404, f"model {quote}{name}{quote} not found")
        return found

    def llama(self, digest: str) -> str:
        """The address of llama.cpp with this GGUF, started when it is first needed."""
        with self._lock:
            if digest not in self._loaded:
                import xllamacpp

                parameters = xllamacpp.CommonParams()
                parameters.model.path = str(self.blob(digest))
                parameters.n_ctx, parameters.n_parallel, parameters.warmup = 2048, 1, False
                # One: on a busy machine several wait for one another, and write a tenth as fast.
                parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
                self._loaded[digest] = xllamacpp.Server(parameters)
            return str(self._loaded[digest].listening_address)

    def unload(self) -> None:
        with self._lock:
            self._loaded.clear()

    # --- what the routes do ---

    def create(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Checked before the first line; what comes after it is said within the stream."""
        name = body.get("model") or body.get("name") or ""
        if not NAME.fullmatch(name):
            raise Refusal(400, "invalid model name")
        files = body.get("files")
        for path, digest in (files or {}).items():
            if path.startswith("/") or ".." in path or "\\" in path or ":" in path:
                raise Refusal(400, f"file path must be relative: {path}")
            if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
                raise Refusal(400, f"invalid digest for {path}: invalid digest format")
        if body.get("adapters") and not self.is_old:
            raise Refusal(400, "LoRA adapters are no longer supported")
        if body.get("quantize"):
            raise Refusal(400, "create-time quantization is only supported for safetensors imports")
        if files is None and not body.get("from"):
            raise Refusal(400, "neither 'from' or 'files' was specified")
        if not files:
            raise Refusal(400, "unknown type")
        [digest] = files.values()
        return self._make(whole(name), digest, body)

    def _make(self, name: str, digest: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        path = self.blob(digest)
        if not path.exists():
            raise Refusal(500, f"open {path}: no such file or directory")
        if path.open("rb").read(4) != b"GGUF":
            raise Refusal(400, "supplied file was not in GGUF format")
        yield {"status": "parsing GGUF"}
        if self.behave.is_full:
            yield {"error": f"write {self.folder}: no space left on device"}
            return
        if self.is_old:
            for done in (0, 1):
                yield {"status": "validating GGUF model", "digest": "0" * 19, "completed": done, "total": 1}
            yield {"status": "verifying conversion"}
        yield {"status": f"using existing layer {digest}"}
        template = body.get("template") or ""
        try:
            render_go(template, {"System": "", "Messages": []})
        except GoTemplateError as error:
            yield {"error": str(error)}
            return
        if not template and "<|im_start|>" in self._jinja(digest):
            template = CHATML
            yield {"status": "using autodetected template chatml"}
        if self.behave.create == "cut":
            raise BrokenPipeError
        if self.behave.create == "error":
            yield {"error": "llama runner process has terminated"}
            return
        licence = body.get("license") or []
        manifest = Manifest(
            gguf=digest,
            template=template,
            system=body.get("system") or "",
            parameters=body.get("parameters") or {},
            licence=[licence] if isinstance(licence, str) else list(licence),
        )
        yield {"status": f"creating new layer {manifest.digest}"}
        yield {"status": "writing manifest"}
        self.models[name] = manifest
        yield {"status": "success"}

    def prompt(self, manifest: Manifest, messages: list[dict[str, str]]) -> str:
        """The prompt of a conversation, by the Go template where there is one, else by the GGUF's own."""
        if manifest.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": manifest.system}, *messages]
        if self.behave.render == "drop system":
            messages = [message for message in messages if message["role"] != "system"]
        if manifest.template:
            system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
            named = [{"Role": message["role"], "Content": message["content"]} for message in messages]
            text = render_go(manifest.template, {"System": system, "Messages": named})
        else:
            text = ask(f"{self.llama(manifest.gguf)}/apply-template", {"messages": messages})["prompt"]
        return text + ("\n" if self.behave.render == "mutate" else "")

    def complete(self, manifest: Manifest, prompt: str, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """llama.cpp's own pieces: content, and at last how it ended and how many tokens there were."""
        body: dict[str, Any] = {
            "prompt": prompt,
            "stream": True,
            "n_predict": int(options.get("num_predict", 128)),
            "temperature": float(options.get("temperature", manifest.parameters.get("temperature", 0.8))),
            "stop": [] if self.behave.is_endless else list(manifest.parameters.get("stop", [])),
            "ignore_eos": self.behave.is_endless,
            "cache_prompt": False,
        }
        request = urllib.request.Request(
            f"{self.llama(manifest.gguf)}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

    def _jinja(self, digest: str) -> str:
        return str(read_facts(self.blob(digest)).get("tokenizer.chat_template", ""))

    def facts(self, digest: str) -> dict[str, Any]:
        """The file's keys as `/api/show` tells them: without its name and template, with its weights counted."""
        from gguf import GGUFReader

        if digest not in self._facts:
            reader = GGUFReader(self.blob(digest))
            hidden = ("GGUF.", "general.name", "tokenizer.chat_template")
            told = {name: entry.contents() for name, entry in reader.fields.items() if not name.startswith(hidden)}
            weights = sum(int(tensor.n_elements) for tensor in reader.tensors)
            self._facts[digest] = {**told, "general.parameter_count": weights}
        return self._facts[digest]

    @property
    def is_old(self) -> bool:
        return tuple(map(int, self.behave.version.split("."))) < (0, 34, 1)


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 5


def whole(name: str) -> str:
    """A name with its tag, as it is kept: matched whatever its case."""
    return (name if ":" in name else f"{name}:latest").lower()


def ask(address: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


@contextmanager
def ollama_server(folder: Path) -> Iterator[OllamaServer]:
    """The server on a free port of loopback."""
    state = OllamaServer(folder)

    class Bound(Handler):
        server_state = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.base_url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        state.unload()


class Handler(BaseHTTPRequestHandler):
    server_state: OllamaServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        state = self.server_state
        routes = {"/api/version": self._version, "/api/tags": self._tags, "/api/ps": self._ps}
        if not self._may():
            return None
        if self.path not in routes:
            return self._reply({"error": "not found"}, 404)
        state.asked.append((self.path, None))
        self._reply(routes[self.path]())
        return None

    def do_HEAD(self) -> None:
        if not self._may():
            return
        digest = self.path.removeprefix("/api/blobs/")
        self.send_response(200 if self.server_state.blob(digest).exists() else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        if not self._may():
            return None
        if self.path.startswith("/api/blobs/"):
            return self._take_blob(self.path.removeprefix("/api/blobs/"))
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not raw:
            return self._reply({"error": "missing request body"}, 400)
        try:
            body = json.loads(raw)
        except ValueError as error:
            return self._reply({"error": str(error)}, 400)
        self.server_state.asked.append((self.path, body))
        if self.server_state.behave.is_busy:
            return self._reply({"error": "server busy, please try again.  maximum pending requests exceeded"}, 503)
        routes = {
            "/api/create": lambda: self._lines(self.server_state.create(body), body),
            "/api/show": lambda: self._reply(self._show(body)),
            "/api/copy": lambda: self._copy(body),
            "/api/chat": lambda: self._chat(body),
            "/api/generate": lambda: self._generate(body),
            "/api/pull": lambda: self._lines(self._pull(body["model"]), body),
        }
        try:
            routes.get(self.path, lambda: self._reply({"error": "not found"}, 404))()
        except Refusal as error:
            self._reply({"error": str(error)}, error.status)

    def do_DELETE(self) -> None:
        if not self._may():
            return None
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        name = body.get("model") or body.get("name") or ""
        self.server_state.asked.append((self.path, body))
        if self.server_state.models.pop(whole(name), None) is None:
            return self._reply({"error": f"model '{name}' not found"}, 404)
        self._reply(None)
        return None

    def _may(self) -> bool:
        key = self.server_state.behave.key
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            self._reply({"error": "unauthorized"}, 401)
            return False
        return True

    def _take_blob(self, digest: str) -> None:
        state, length = self.server_state, int(self.headers["Content-Length"])
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            return self._reply({"error": "invalid digest format"}, 400)
        if state.behave.is_full:
            self.close_connection = True
            return self._reply({"error": f"write {state.folder}: no space left on device"}, 500)
        aside, found = state.folder / f"upload-{time.monotonic_ns()}", hashlib.sha256()
        wanted = length // 2 if state.behave.upload else length
        with aside.open("wb") as stream:
            while wanted > 0 and (block := self.rfile.read(min(1 << 20, wanted))):
                stream.write(block)
                found.update(block)
                wanted -= len(block)
        if wanted > 0:  # whoever sent it is gone
            aside.unlink()
            self.close_connection = True
            return None
        if state.behave.upload == "cut":
            self.close_connection = True
            self.connection.close()
            return None
        if state.behave.upload == "truncate":
            self.rfile.read(length - length // 2)
        real = f"sha256:{found.hexdigest()}"
        aside.rename(state.blob(real))  # kept under its true digest also where that is another
        if real != digest:
            return self._reply({"error": f'digest mismatch, expected "{digest}", got "{real}"'}, 400)
        state.uploads.append(digest)
        return self._reply(None, 201)

    def _version(self) -> dict[str, Any]:
        return {"version": self.server_state.behave.version}

    def _tags(self) -> dict[str, Any]:
        return {"models": [self._told(name, model) for name, model in self.server_state.models.items()]}

    def _ps(self) -> dict[str, Any]:
        held = set(self.server_state._loaded)
        running = [(name, model) for name, model in self.server_state.models.items() if model.gguf in held]
        until = {"expires_at": "2026-01-01T00:05:00Z", "size_vram": 0, "context_length": 2048}
        return {"models": [self._told(name, model) | until for name, model in running]}

    def _told(self, name: str, model: Manifest) -> dict[str, Any]:
        size = self.server_state.blob(model.gguf).stat().st_size
        details = {"format": "gguf", "family": "llama", "parameter_size": "134.52M", "quantization_level": "F16"}
        entry = {"name": name, "model": name, "modified_at": "2026-01-01T00:00:00Z", "size": size}
        return {**entry, "digest": model.digest, "details": details}

    def _show(self, body: dict[str, Any]) -> dict[str, Any]:
        model = self.server_state.named(body.get("model", ""))
        parameters = "\n".join(f"{name} {value}" for name, value in model.parameters.items())
        facts = self.server_state.facts(model.gguf)
        is_short = not body.get("verbose")
        return {
            "license": "\n".join(model.licence),
            "modelfile": f"FROM {self.server_state.blob(model.gguf)}",
            "parameters": parameters,
            "template": model.template,
            "system": model.system,
            "details": {"format": "gguf", "family": facts["general.architecture"]},
            "model_info": {name: [] if is_short and _is_long(value) else value for name, value in facts.items()},
            "capabilities": [
                "embedding" if f"{facts['general.architecture']}.pooling_type" in facts else "completion",
                *(["vision"] if f"{facts['general.architecture']}.vision.block_count" in facts else []),
            ],
            "modified_at": "2026-01-01T00:00:00Z",
        }

    def _copy(self, body: dict[str, Any]) -> None:
        state = self.server_state
        state.models[whole(body["destination"])] = state.named(body["source"], '"')
        self._reply(None)

    def _chat(self, body: dict[str, Any]) -> None:
        model = self.server_state.named(body.get("model", ""))
        prompt = self.server_state.prompt(model, body["messages"])
        stamp = {"model": body["model"], "created_at": "2026-01-01T00:00:00Z"}
        if body.get("_debug_render_only"):
            return self._reply({**stamp, "_debug_info": {"rendered_template": prompt}})
        return self._answer(
            model, prompt, body, stamp, lambda text: {"message": {"role": "assistant", "content": text}}
        )

    def _generate(self, body: dict[str, Any]) -> None:
        model = self.server_state.named(body.get("model", ""))
        stamp = {"model": body["model"], "created_at": "2026-01-01T00:00:00Z"}
        if body.get("keep_alive") == 0 and not body.get("prompt"):
            self.server_state.unload()
            return self._reply({**stamp, "response": "", "done": True, "done_reason": "unload"})
        return self._answer(model, body["prompt"], body, stamp, lambda text: {"response": text})

    def _answer(self, model: Manifest, prompt: str, body: dict[str, Any], stamp: Any, shape: Any) -> None:
        def pieces() -> Iterator[dict[str, Any]]:
            for piece in self.server_state.complete(model, prompt, body.get("options") or {}):
                if not piece.get("stop"):
                    time.sleep(self.server_state.behave.piece_seconds)
                    yield {**stamp, **shape(piece["content"]), "done": False}
                    continue
                ended = "length" if piece.get("stop_type") == "limit" else "stop"
                count = piece["tokens_evaluated"] + (1 if self.server_state.behave.read else 0)
                counts = {"prompt_eval_count": count, "eval_count": piece["tokens_predicted"]}
                yield {**stamp, **shape(piece.get("content", "")), "done": True, "done_reason": ended, **counts}

        if body.get("stream", True):
            return self._lines(pieces(), {"stream": True})
        told = list(pieces())
        key = "message" if "message" in told[-1] else "response"
        words = [line[key]["content"] if key == "message" else line[key] for line in told]
        return self._reply({**told[-1], **shape("".join(words))})

    def _pull(self, name: str) -> Iterator[dict[str, Any]]:
        state = self.server_state
        yield {"status": "pulling manifest"}
        if name not in state.registry:
            yield {"error": "pull model manifest: file does not exist"}
            return
        data = state.registry[name].read_bytes()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        for done in (0, len(data) // 2, len(data)):
            yield {"status": f"pulling {digest[7:19]}", "digest": digest, "total": len(data), "completed": done}
        state.blob(digest).write_bytes(data)
        state.models[whole(name)] = Manifest(digest)
        for status in ("verifying sha256 digest", "writing manifest", "success"):
            yield {"status": status}

    def _lines(self, lines: Iterator[dict[str, Any]], body: dict[str, Any]) -> None:
        """A stream of JSON lines: an error before the first has its own status, a later one is a line."""
        if not body.get("stream", True):
            told = list(lines)
            if "error" in told[-1]:
                return self._reply(told[-1], 400)
            return self._reply(told[-1])
        first = next(lines)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self._chunk(first)
            for line in lines:
                self._chunk(line)
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            self.connection.close()
        return None

    def _chunk(self, line: dict[str, Any]) -> None:
        told = json.dumps(line).encode() + b"\n"
        self.wfile.write(f"{len(told):x}\r\n".encode() + told + b"\r\n")
        self.wfile.flush()

    def _reply(self, value: Any, status: int = 200) -> None:
        told = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_: object) -> None:
        pass
