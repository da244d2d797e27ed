"""Client of an Ollama server, over the official `ollama` package and httpx: returns dataclasses, raises `OllamaError`.

httpx where the package falls short: it follows redirects, sends a blob without asking whether it is there and without
telling how far it is, and drops what `_debug_render_only` answers. Loaded by workers alone.
"""

import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import ollama

from finetune_site.lib.channel import parse_json

CONNECT_SECONDS, ANSWER_SECONDS, LONG_SECONDS = 5.0, 30.0, 900.0  # a create may be silent for minutes
BLOCK = 1 << 20
BLOB = re.compile(r"[/\\]sha256[-:]([0-9a-f]{64})\s*$")


class Trouble(StrEnum):
    """What kind of thing went wrong, for those who act on it."""

    UNREACHABLE = "unreachable"
    ADDRESS = "address"
    TOKEN = "token"  # noqa: S105
    GONE = "gone"
    FULL = "full"
    BUSY = "busy"
    REFUSED = "refused"
    CUT = "cut"  # an answer that ended in the middle


PASSING = (Trouble.UNREACHABLE, Trouble.BUSY, Trouble.CUT)


class OllamaError(Exception):
    """The message is for people: what happened and what to do."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble = trouble


@dataclass(frozen=True)
class Model:
    """One model of a server. `digest` says which weights, prompts and parameters it is; `size` in bytes."""

    name: str
    digest: str
    size: int
    parameters: str = ""
    quantization: str = ""
    family: str = ""
    is_remote: bool = False


@dataclass(frozen=True)
class Loaded:
    """A model that is held in memory. Sizes in bytes."""

    name: str
    size: int
    size_vram: int
    until: str


@dataclass(frozen=True)
class Look:
    """A server as it is now."""

    version: str
    models: tuple[Model, ...] = ()
    loaded: tuple[Loaded, ...] = ()

    def named(self, name: str) -> Model | None:
        return next((model for model in self.models if model.name == name), None)


@dataclass(frozen=True)
class Shown:
    """What a server says of one model."""

    template: str
    system: str
    parameters: str
    architecture: str
    modelfile: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()

    @property
    def blob(self) -> str:
        """The SHA-256 of the model's file; empty where the server does not tell. The rest of what it calls the path is
        a server's word about a disk, and not used."""
        lines = self.modelfile.splitlines()
        if any(line.startswith("ADAPTER ") for line in lines):
            return ""  # the file alone is not the model
        found = BLOB.search(next((line for line in lines if line.startswith("FROM ")), ""))
        return found[1] if found else ""


@dataclass(frozen=True)
class Answer:
    """A whole answer, with how many tokens the prompt had and why it ended (`stop`, `length`)."""

    text: str
    prompt_tokens: int
    tokens: int
    ended_by: str


class Client:
    """One server. `key` is sent as a bearer token. Every call raises `OllamaError` and nothing else."""

    def __init__(self, url: str, key: str = "", *, seconds: float = ANSWER_SECONDS) -> None:
        self._url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        self._http = httpx.Client(base_url=self._url, headers=headers, timeout=timeout, follow_redirects=False)
        self._official = ollama.Client(host=self._url, headers=headers, timeout=timeout, follow_redirects=False)
        if not key:  # it would send OLLAMA_API_KEY of our environment, which is another server's
            self._official._client.headers.pop("authorization", None)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._official._client.close()

    def look(self) -> Look:
        """Version, models and what is loaded."""
        version = str(self._get("/api/version").get("version", ""))
        models = [_model(entry) for entry in self._get("/api/tags").get("models") or []]
        loaded = [
            Loaded(entry.model or "", entry.size or 0, entry.size_vram or 0, str(entry.expires_at or ""))
            for entry in self._asked(self._official.ps).models
        ]
        return Look(version, tuple(models), tuple(loaded))

    def find(self, name: str) -> Model | None:
        """The model of that name; None when there is none."""
        models = [_model(entry) for entry in self._get("/api/tags").get("models") or []]
        return Look("", tuple(models)).named(name)

    def show(self, name: str, *, is_whole: bool = False) -> Shown:
        """What the server says of a model; lists of more than five entries stand in it only where `is_whole`."""
        told = self._post("/api/show", {"model": name, "verbose": is_whole})
        facts = told.get("model_info") or {}
        return Shown(
            template=told.get("template") or "",
            system=told.get("system") or "",
            parameters=told.get("parameters") or "",
            architecture=str(facts.get("general.architecture") or ""),
            modelfile=told.get("modelfile") or "",
            facts=facts,
            capabilities=tuple(told.get("capabilities") or ()),
        )

    def upload(self, path: Path, sha256: str, progress: Callable[[int], None]) -> bool:
        """Put a file into the server's store under its SHA-256; False when it was there already.

        `progress` hears how many bytes are through, and may raise to stop.
        """
        address = f"/api/blobs/sha256:{sha256}"
        known = self._sent("HEAD", address)
        if known.status_code == 200:
            return False
        if known.status_code != 404:
            raise self._explained(known)

        def blocks() -> Iterator[bytes]:
            done = 0
            with path.open("rb") as stream:
                while block := stream.read(BLOCK):
                    yield block
                    done += len(block)
                    progress(done)

        headers = {"Content-Length": str(path.stat().st_size)}
        answer = self._sent("POST", address, content=blocks(), headers=headers, timeout=_patient())
        if answer.status_code not in (200, 201):
            raise self._explained(answer)
        return True

    def create(
        self,
        name: str,
        sha256: str,
        *,
        template: str = "",
        system: str = "",
        parameters: Mapping[str, Any] | None = None,
        licence: Sequence[str] = (),
        on_status: Callable[[str], None] = lambda status: None,
    ) -> None:
        """Make a model of one GGUF that is in the store. Only a stream that ends with success has made one."""
        optional = {"template": template, "system": system, "parameters": dict(parameters or {}), "license": licence}
        body = {"model": name, "files": {"model.gguf": f"sha256:{sha256}"}}
        last = ""
        for told in self._lines("/api/create", {**body, **{k: v for k, v in optional.items() if v}}):
            last = str(told.get("status", ""))
            on_status(last)
        if last != "success":
            raise OllamaError(Trouble.CUT, f"Ollama broke off while it made {name}: the last it said was “{last}”.")

    def pull(self, name: str, progress: Callable[[str, int, int], None]) -> None:
        """Have the server fetch a model from its registry; `progress` hears status, bytes done and in all."""
        last = ""
        for told in self._lines("/api/pull", {"model": name}):
            last = str(told.get("status", ""))
            progress(last, int(told.get("completed") or 0), int(told.get("total") or 0))
        if last != "success":
            raise OllamaError(Trouble.CUT, f"Ollama broke off while it fetched {name}: the last it said was “{last}”.")

    def copy(self, source: str, destination: str) -> None:
        self._asked(lambda: self._official.copy(source, destination))

    def delete(self, name: str) -> None:
        """Remove a name; what no other name needs goes with it. Nothing happens when there is none."""
        try:
            self._asked(lambda: self._official.delete(name))
        except OllamaError as error:
            if error.trouble != Trouble.GONE:
                raise

    def unload(self, name: str) -> None:
        self._post("/api/generate", {"model": name, "keep_alive": 0, "stream": False})

    def rendered(self, name: str, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that the server makes of a conversation, without computing an answer."""
        body = {"model": name, "messages": list(messages), "stream": False, "_debug_render_only": True}
        told = self._post("/api/chat", body, timeout=_patient())
        found = (told.get("_debug_info") or {}).get("rendered_template")
        if not isinstance(found, str):
            raise OllamaError(
                Trouble.REFUSED, "This Ollama does not show the prompts that it makes. Use version 0.13 or later."
            )
        return found

    def chat(self, name: str, messages: Sequence[Mapping[str, str]], **options: Any) -> Answer:
        """A whole answer. `options` are Ollama's: temperature, num_predict, num_ctx."""
        body = {"model": name, "messages": list(messages), "stream": False, "options": options, "truncate": False}
        told = self._post("/api/chat", body, timeout=_patient())
        return _answer(told, str((told.get("message") or {}).get("content", "")))

    def read(self, name: str, text: str) -> int:
        """How many tokens the server makes of a text, as it stands."""
        body = {"model": name, "prompt": text, "raw": True, "stream": False}
        options = {"num_predict": 1, "temperature": 0}
        told = self._post("/api/generate", {**body, "options": options}, timeout=_patient())
        return int(told.get("prompt_eval_count") or 0)

    def stream(
        self, name: str, messages: Sequence[Mapping[str, str]], **options: Any
    ) -> Generator[Answer | str, None, None]:
        """An answer piece by piece, and at last the whole of it."""
        text = ""
        body = {"model": name, "messages": list(messages), "stream": True, "options": options, "truncate": False}
        for told in self._lines("/api/chat", body):
            piece = str((told.get("message") or {}).get("content", ""))
            text += piece
            if piece:
                yield piece
            if told.get("done"):
                yield _answer(told, text)
                return
        raise OllamaError(Trouble.CUT, "Ollama broke off in the middle of an answer. Ask again.")

    def _get(self, path: str) -> dict[str, Any]:
        return self._told(self._sent("GET", path))

    def _post(self, path: str, body: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        return self._told(self._sent("POST", path, json=dict(body), **more))

    def _told(self, answer: httpx.Response) -> dict[str, Any]:
        if answer.status_code != 200:
            raise self._explained(answer)
        try:
            told = parse_json(answer.text)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise OllamaError(Trouble.ADDRESS, self._not_ollama())
        return told

    def _sent(self, method: str, path: str, **more: Any) -> httpx.Response:
        with self._translated():
            return self._http.request(method, path, **more)

    def _lines(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The answer's lines; an error may stand in any of them, under HTTP 200."""
        with self._translated(), self._http.stream("POST", path, json=dict(body), timeout=_patient()) as answer:
            if answer.status_code != 200:
                answer.read()
                raise self._explained(answer)
            for line in answer.iter_lines():
                if not line.strip():
                    continue
                try:
                    told = parse_json(line)
                except ValueError:
                    raise OllamaError(Trouble.CUT, "Ollama's answer ended in the middle of a line.") from None
                if told.get("error"):
                    raise self._meant(str(told["error"]), 0)
                yield told

    def _asked(self, call: Callable[[], Any]) -> Any:
        with self._translated():
            try:
                return call()
            except ollama.ResponseError as error:
                raise self._meant(str(error.error), error.status_code) from None
            except ConnectionError:
                raise OllamaError(Trouble.UNREACHABLE, self._unreachable()) from None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            told = f"Ollama at {self._url} broke off the connection ({type(error).__name__})."
            raise OllamaError(Trouble.CUT, told) from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise OllamaError(Trouble.ADDRESS, self._not_ollama()) from None
        except httpx.HTTPError:
            raise OllamaError(Trouble.UNREACHABLE, self._unreachable()) from None

    def _explained(self, answer: httpx.Response) -> OllamaError:
        if answer.is_redirect:
            place = urlsplit(answer.headers.get("location", "")).netloc or "another address"
            told = f"{self._url} forwards to {place}, which is not followed. Enter the address that answers itself."
            return OllamaError(Trouble.ADDRESS, told)
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return self._meant("", answer.status_code)
        return self._meant(str(body.get("error", "")), answer.status_code)

    def _meant(self, told: str, status: int) -> OllamaError:
        """What an error says, from its words and status; 0 and -1 stand for errors within a stream."""
        if status in (401, 403):
            return OllamaError(
                Trouble.TOKEN, f"Ollama at {self._url} does not let us in. Check its key and the name it is called by."
            )
        if "no space left" in told or status == 507:
            return OllamaError(
                Trouble.FULL, f"The disk of Ollama at {self._url} is full. Remove models there, then try again."
            )
        if status == 404 and told:
            return OllamaError(Trouble.GONE, f"Ollama does not have it: {told}."[:300])
        if status == 404:
            return OllamaError(Trouble.ADDRESS, self._not_ollama())
        if status in (502, 503, 504):
            return OllamaError(Trouble.BUSY, f"Ollama at {self._url} has too much to do. It is tried again.")
        return OllamaError(Trouble.REFUSED, f"Ollama refuses it: {told or f'HTTP {status}'}"[:500])

    def _unreachable(self) -> str:
        return f"Ollama at {self._url} cannot be reached. See that it runs and that this machine reaches the address."

    def _not_ollama(self) -> str:
        return f"What answers at {self._url} is not Ollama. Check the address, with its port."


def _patient() -> httpx.Timeout:
    return httpx.Timeout(LONG_SECONDS, connect=CONNECT_SECONDS)


def _model(entry: Mapping[str, Any]) -> Model:
    details = entry.get("details") or {}
    return Model(
        name=str(entry.get("model") or entry.get("name") or ""),
        digest=str(entry.get("digest") or ""),
        size=int(entry.get("size") or 0),
        parameters=str(details.get("parameter_size") or ""),
        quantization=str(details.get("quantization_level") or ""),
        family=str(details.get("family") or ""),
        is_remote=bool(entry.get("remote_host")),
    )


def _answer(told: Mapping[str, Any], text: str) -> Answer:
    counts = (int(told.get(name) or 0) for name in ("prompt_eval_count", "eval_count"))
    prompt, written = counts
    return Answer(text, prompt, written, str(told.get("done_reason") or ""))
