"""A model on its way into Ollama, step by step: each is proved before the next, and nothing is promoted before all are.

Every step may run again: what it found stands with the publication, a blob that is there is not sent again, and a
candidate that somebody killed us over is made anew. A step that fails removes the candidate and nothing else.
"""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from django.conf import settings
from django.template.loader import render_to_string

from finetune_site.jobs.handle import EngineFailed, Handle, JobInputError
from finetune_site.lib.channel import load_json
from training_app.models import STEPS, Export, Publication, Run
from training_app.ollama import PASSING, Client, OllamaError
from training_app.services import publishing as services

Outcome = Publication.Outcome
Engine = Callable[[dict[str, Any]], dict[str, Any]]
SMOKE_QUESTIONS, SMOKE_TOKENS = 3, 400


class Refused(Exception):
    """A step found that this is not the trained model reading the trained prompt. `found` is the evidence."""

    def __init__(self, message: str, found: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.found = found or {}


class Publishing:
    """One attempt at one publication. `engine` runs a task of the training engine and returns its result."""

    def __init__(self, handle: Handle, publication: Publication, client: Client, engine: Engine) -> None:
        self._handle, self._publication, self._client, self._engine = handle, publication, client, engine
        self._expected: dict[str, Any] = {}

    def run(self) -> None:
        """Go through the steps that have not passed yet; returns when it is published or held at the gate."""
        self._expected = self._read_expected()
        self._forget_what_is_gone()
        for number, step in enumerate(STEPS):
            if self._publication.evidence.get(step, {}).get("ok"):
                continue
            self._handle.check()
            self._handle.progress(number, len(STEPS), unit="steps", message=STEPS[step])
            self._tell()
            try:
                found = getattr(self, f"_{step}")()
            except Refused as error:
                self._keep(step, {**error.found, "ok": False})
                self._fail(str(error))
            if found is None:  # held at the gate
                return
            self._keep(step, {**found, "ok": True})
        self._handle.progress(len(STEPS), len(STEPS), unit="steps", message="Published")

    def _merged(self) -> dict[str, Any]:
        export = self._export
        return {"bytes": export.result["bytes"], "sha256": export.result["sha256"]}

    def _checked(self) -> dict[str, Any]:
        result = self._export.result
        found = {"checks": result["checks"]}
        if not result["parity"]:
            raise Refused(result["problem"], found)
        return found

    def _agrees(self) -> dict[str, Any]:
        result = self._export.result
        found = {name: result[name] for name in ("parity", "worst", "tolerance")}
        if result["problem"]:
            raise Refused(result["problem"], found)
        return found

    def _uploaded(self) -> dict[str, Any]:
        size = self._export.result["bytes"]

        def progress(done: int) -> None:
            self._handle.check()
            self._handle.progress(done, size, unit="bytes", message="Uploading")

        is_new = self._client.upload(self._export.path, self._export.result["sha256"], progress)
        return {"bytes": size, "was_there": not is_new}

    def _created(self) -> dict[str, Any]:
        return self._create(template="")

    def _prompt(self) -> dict[str, Any]:
        found = self._compare_prompts()
        if not found["ok"] and self._expected["template"]:
            # Ollama may have taken a template of its own for the trained one: give it ours, in its language.
            self._create(template=self._expected["template"])
            found = self._compare_prompts() | {"template": "given in Go's language"}
        if not found["ok"]:
            raise Refused("Ollama makes another prompt than the model was trained on; see where they differ.", found)
        return found

    def _tokens(self) -> dict[str, Any]:
        candidate, lines = self._publication.candidate, []
        for entry in self._expected["texts"]:
            read = partial(self._client.read, candidate, entry["text"])
            lines.append(self._counted(entry["text"], entry["tokens"], read))
        for entry in self._told:
            lines.append(self._counted(entry["name"], entry["tokens"], partial(self._prompt_tokens, entry)))
        if wrong := [line for line in lines if not line["ok"]]:
            told = f"Ollama cuts {len(wrong)} of {len(lines)} texts into another number of tokens."
            raise Refused(told + " It does not read as the model was trained to.", {"lines": lines})
        return {"lines": lines}

    def _smoke(self) -> dict[str, Any]:
        chats = []
        for question in self._expected["questions"][:SMOKE_QUESTIONS]:
            self._handle.check()
            messages = [{"role": "user", "content": question}]
            options = {"temperature": 0, "num_predict": SMOKE_TOKENS}
            answer = self._client.chat(self._publication.candidate, messages, **options)
            chats.append({"question": question, "answer": answer.text, "ended_by": answer.ended_by})
        if endless := [chat for chat in chats if chat["ended_by"] != "stop" or not chat["answer"].strip()]:
            told = f"{len(endless)} of {len(chats)} answers did not end by themselves within {SMOKE_TOKENS} tokens."
            raise Refused(told, {"chats": chats})
        return {"chats": chats}

    def _gate(self) -> dict[str, Any] | None:
        found = services.look_at_gate(self._publication.run)
        told = {"lines": [list(line) for line in found.lines], "problem": found.problem, "evaluation": found.evaluation}
        if found.passes:
            return told
        if self._publication.override_by_id:
            return {**told, "override": self._publication.override_reason}
        self._keep("gate", {**told, "ok": False})
        self._handle.write(lambda: services.note_end(self._publication, Outcome.HELD, found.problem))
        return None

    def _promoted(self) -> dict[str, Any]:
        publication = self._publication
        made = self._client.find(publication.candidate) or self._client.find(publication.tag)
        if made is None:
            raise Refused("The candidate has vanished from Ollama. Publish again.")
        for name in (publication.tag, publication.model.stable_tag):
            if name != made.name:
                self._client.copy(made.name, name)
            copied = self._client.find(name)
            if copied is None or copied.digest != made.digest:
                raise Refused(f"Ollama did not make {name} the same model as {made.name}.")
        self._client.delete(publication.candidate)
        self._handle.write(lambda: services.note_promoted(publication, made.digest))
        return {"digest": made.digest, "stable": publication.model.stable_tag}

    @property
    def _export(self) -> Export:
        return Export.objects.select_related("run").get(run=self._publication.run, format=self._publication.format)

    @property
    def _told(self) -> list[dict[str, Any]]:
        """The conversations that the trained template can write."""
        return [entry for entry in self._expected["conversations"] if "text" in entry]

    def _read_expected(self) -> dict[str, Any]:
        """What the model must read, from its own tokenizer and template; asked once."""
        publication, run = self._publication, self._publication.run
        if publication.expected:
            return dict(publication.expected)
        spec = {
            "task": "prompts",
            "base_dir": str(run.base.folder),
            "system": self._publication.system,
            "data_path": str(run.version.file_path),
            "data_sha256": run.version.sha256,
        }
        expected = self._engine(spec)
        self._handle.write(lambda: Publication.objects.filter(pk=publication.pk).update(expected=expected))
        return expected

    def _forget_what_is_gone(self) -> None:
        """A candidate that was lost since, with us or with the server, has to be made and proved again."""
        proved = self._publication.evidence.get("created", {}).get("ok")
        is_promoting = "promoted" in self._publication.evidence
        if proved and not is_promoting and self._client.find(self._publication.candidate) is None:
            if self._client.find(self._publication.tag) is not None:
                return  # we were promoting
            for step in ("uploaded", "created", "prompt", "tokens", "smoke"):
                self._publication.evidence.pop(step, None)
            kept = dict(self._publication.evidence)
            rows = Publication.objects.filter(pk=self._publication.pk)
            self._handle.write(lambda: rows.update(evidence=kept))

    def _create(self, *, template: str) -> dict[str, Any]:
        publication = self._publication
        statuses: list[str] = []
        parameters = {**publication.parameters, "stop": self._expected["stop"]}
        told = {"publication": publication, "export": self._export, "facts": services.card_facts(publication)}
        card = render_to_string("training/model_card.md", told)
        self._handle.write(lambda: Publication.objects.filter(pk=publication.pk).update(card=card))
        self._client.create(
            publication.candidate,
            self._export.result["sha256"],
            template=template,
            system=publication.system,
            parameters=parameters,
            licence=[text for text in (publication.licence, card) if text],
            on_status=statuses.append,
        )
        return {"statuses": statuses, "parameters": parameters}

    def _compare_prompts(self) -> dict[str, Any]:
        leading, pairs = self._expected["leading"], []
        for entry in self._told:
            self._handle.check()
            theirs = self._client.rendered(self._publication.candidate, entry["messages"])
            # The token before every text is put there by the template or by the engine: how many, the counts tell.
            same = _bare(theirs, leading) == _bare(entry["text"], leading)
            pairs.append({"name": entry["name"], "trained": entry["text"], "served": theirs, "ok": same})
        return {"pairs": pairs, "ok": all(pair["ok"] for pair in pairs)}

    def _counted(self, what: str, tokens: int, read: Callable[[], int]) -> dict[str, Any]:
        """A server that still holds the beginning of a prompt may count only what is new: then it forgets first."""
        self._handle.check()
        served = read()
        if served < tokens:
            self._client.unload(self._publication.candidate)
            served = read()
        return {"text": what, "trained": tokens, "served": served, "ok": served == tokens}

    def _prompt_tokens(self, entry: dict[str, Any]) -> int:
        options = {"num_predict": 1, "temperature": 0}
        return self._client.chat(self._publication.candidate, entry["messages"], **options).prompt_tokens

    def _keep(self, step: str, found: dict[str, Any]) -> None:
        self._handle.write(lambda: services.note_step(self._publication, step, found))
        self._tell()

    def _tell(self) -> None:
        """The pages that show the steps read them again."""
        self._handle.publish("state", {"state": "running"})

    def _fail(self, problem: str) -> None:
        """The candidate goes, the stable model stays as it is, and the page says what was found."""
        with contextlib.suppress(OllamaError):
            self._client.delete(self._publication.candidate)
        self._handle.write(lambda: services.note_end(self._publication, Outcome.FAILED, problem))
        raise JobInputError(problem)


@contextlib.contextmanager
def translated(handle: Handle, publication: Publication, client: Client) -> Iterator[None]:
    """What Ollama refuses fails the publication; what may pass is tried again, and fails it at the last attempt."""
    try:
        yield
    except OllamaError as error:
        problem = str(error)
        is_last = handle.job.attempt >= handle.job.max_attempts
        if error.trouble in PASSING and not is_last:
            raise EngineFailed(problem) from None
        with contextlib.suppress(OllamaError):
            client.delete(publication.candidate)
        handle.write(lambda: services.note_end(publication, Outcome.FAILED, problem))
        raise JobInputError(problem) from None


@contextlib.contextmanager
def one_at_a_time(export: Export) -> Iterator[None]:
    """Of several jobs on this machine that want the same file one makes it."""
    export.folder.mkdir(parents=True, exist_ok=True)
    with (export.folder.parent / f"{export.format}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def export_spec(export: Export) -> dict[str, Any]:
    """What the engine needs to make an export."""
    run = export.run
    return {
        "task": "export",
        "base_dir": str(run.base.folder),
        "run_dir": str(run.folder),
        "out_dir": str(export.folder),
        "format": export.format,
        "method": run.method,
        "name": run.name[:80],
        "base_sha256": _trained_beside(run),
        "data_path": str(run.version.file_path),
        "data_sha256": run.version.sha256,
        "llama_cpp_dir": settings.LLAMA_CPP_DIR,
    }


def _trained_beside(run: Run) -> str:
    """The identity of the base's weights when the run was trained; empty for runs of before that was kept."""
    path = run.folder / "environment.json"
    return str(load_json(path).get("base_sha256", "")) if path.exists() else ""


def _bare(text: str, leading: str) -> str:
    return text.removeprefix(leading) if leading else text
