"""A model on its way into Ollama, step by step: each is proved before the next, and nothing is promoted before all are.

Every step may run again: what it found stands with the publication, a blob that is there is not sent again, and a
candidate that somebody killed us over is made anew. What was proved is a digest: only that very model is promoted. A
step that fails removes the candidate and nothing else.
"""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

from django.conf import settings
from django.template.loader import render_to_string

from finetune_site.jobs.handle import EngineFailed, Handle, JobCancelled, JobInputError
from finetune_site.jobs.models import FINISHED
from finetune_site.lib.channel import load_json
from training_app.models import STEPS, Export, Publication, PublishedModel, Run
from training_app.ollama import PASSING, Client, OllamaError
from training_app.services import publishing as services

Outcome = Publication.Outcome
Engine = Callable[[dict[str, Any]], dict[str, Any]]
SMOKE_QUESTIONS, SMOKE_TOKENS, MOST_SMOKE_TOKENS = 3, 400, 4096
LOOK_SECONDS = 0.5
FROM_CREATED = ("created", "prompt", "tokens", "smoke")


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
        step = ""
        try:
            self._expected = self._read_expected()
            self._forget_what_does_not_hold()
            for number, step in enumerate(STEPS):
                if not self._publication.evidence.get(step, {}).get("ok") and not self._pass(number, step):
                    return
        except Refused as error:
            self._fail(step, str(error), error.found)
        except OllamaError as error:
            if error.trouble in PASSING and self._handle.job.attempt < self._handle.job.max_attempts:
                raise EngineFailed(str(error)) from None
            self._fail(step, str(error), {})
        except (JobCancelled, JobInputError) as error:
            self._remove_candidate()
            problem = str(error) or "Stopped before it was promoted."
            self._handle.write(lambda: services.note_end(self._publication, Outcome.FAILED, problem))
            raise

    def _pass(self, number: int, step: str) -> bool:
        """Do one step; False when the publication is held there."""
        self._handle.check()
        self._handle.progress(number, len(STEPS), unit="steps", message=STEPS[step])
        self._tell()
        found = getattr(self, f"_{step}")()
        if found is None:
            return False
        self._keep(step, {**found, "ok": True})
        return True

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
        return {"bytes": self._export.result["bytes"], "was_there": not self._upload()}

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
        return {**found, "digest": self._digest_of(self._publication.candidate)}

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
        # Twice the longest answer that it was taught is room enough to come to an end.
        room = min(MOST_SMOKE_TOKENS, max(SMOKE_TOKENS, 2 * self._expected["answer_tokens"]))
        chats = []
        for question in self._expected["questions"][:SMOKE_QUESTIONS]:
            self._handle.check()
            messages = [{"role": "user", "content": question}]
            answer = self._client.chat(self._publication.candidate, messages, temperature=0, num_predict=room)
            chats.append({"question": question, "answer": answer.text, "ended_by": answer.ended_by})
        if endless := [chat for chat in chats if chat["ended_by"] != "stop" or not chat["answer"].strip()]:
            told = f"{len(endless)} of {len(chats)} answers did not end by themselves within {room} tokens."
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
        publication, proved = self._publication, self._publication.evidence["prompt"]["digest"]
        wait_for_turn(self._handle, publication.model)
        model = PublishedModel.objects.select_related("current").get(pk=publication.model_id)
        found = {"digest": proved, "stable": model.stable_tag}
        if Publication.objects.filter(pk=publication.pk, outcome=Outcome.PUBLISHED).exists():
            return found  # an attempt before us was lost right behind it
        if self._digest_of(publication.candidate) == proved:
            self._client.copy(publication.candidate, publication.tag)
        if self._digest_of(publication.tag) != proved:
            raise Refused(f"{publication.tag} in Ollama is not the model that was proved. Publish again.")
        standing = self._digest_of(model.stable_tag)
        if standing not in ("", proved, model.current.digest if model.current else ""):
            raise Refused(
                f"{model.stable_tag} in Ollama is another model than this site published. Remove it there, or publish "
                "under another name."
            )
        self._client.copy(publication.tag, model.stable_tag)
        if self._digest_of(model.stable_tag) != proved:
            self._put_back(model)
            raise Refused(f"Ollama did not make {model.stable_tag} the model that was proved; it was put back.")
        self._handle.write(lambda: services.note_promoted(publication, proved))
        self._remove_candidate()
        return found

    def _put_back(self, model: PublishedModel) -> None:
        if model.current:
            self._client.copy(model.current.tag, model.stable_tag)
        else:
            self._client.delete(model.stable_tag)

    @property
    def _export(self) -> Export:
        return Export.objects.select_related("run").get(run=self._publication.run, format=self._publication.format)

    @property
    def _told(self) -> list[dict[str, Any]]:
        """The conversations that the trained template can write."""
        return [entry for entry in self._expected["conversations"] if "text" in entry]

    def _digest_of(self, name: str) -> str:
        """Which model stands under a name; empty where there is none."""
        model = self._client.find(name)
        return model.digest if model else ""

    def _read_expected(self) -> dict[str, Any]:
        """What the model must read, from its own tokenizer and template; asked once."""
        publication, run = self._publication, self._publication.run
        if publication.expected:
            return dict(publication.expected)
        spec = {
            "task": "prompts",
            "base_dir": str(run.base.folder),
            "system": publication.system,
            **_trained_beside(run),
            "data_path": str(run.version.file_path),
            "data_sha256": run.version.sha256,
        }
        expected = self._engine(spec)
        self._handle.write(lambda: Publication.objects.filter(pk=publication.pk).update(expected=expected))
        return expected

    def _forget_what_does_not_hold(self) -> None:
        """Evidence speaks of one file, one card and one model in Ollama: of others it proves nothing."""
        publication, result = self._publication, self._export.result
        evidence = dict(publication.evidence)
        if evidence.get("merged", {}).get("sha256", result["sha256"]) != result["sha256"] or result["problem"]:
            evidence = {}
        proved = evidence.get("prompt", {}).get("digest", "")
        there = {self._digest_of(name) for name in (publication.candidate, publication.tag)}
        if "created" in evidence and (self._card() != publication.card or (proved and proved not in there)):
            evidence = {step: found for step, found in evidence.items() if step not in FROM_CREATED}
        if evidence != publication.evidence:
            publication.evidence = evidence
            rows = Publication.objects.filter(pk=publication.pk)
            self._handle.write(lambda: rows.update(evidence=evidence))

    def _upload(self) -> bool:
        size = self._export.result["bytes"]

        def progress(done: int) -> None:
            self._handle.check()
            self._handle.progress(done, size, unit="bytes", message="Uploading")

        return self._client.upload(self._export.path, self._export.result["sha256"], progress)

    def _card(self) -> str:
        publication = self._publication
        told = {"publication": publication, "export": self._export, "facts": services.card_facts(publication)}
        return render_to_string("training/model_card.md", told)

    def _create(self, *, template: str) -> dict[str, Any]:
        publication = self._publication
        statuses: list[str] = []
        parameters = {**publication.parameters, "stop": self._expected["stop"]}
        card = self._card()
        self._handle.write(lambda: Publication.objects.filter(pk=publication.pk).update(card=card))
        publication.card = card
        self._upload()  # Ollama removes what nothing points at when it starts
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
        for entry in self._expected["conversations"]:
            self._handle.check()
            if "text" not in entry:
                # Only a conversation with a system message of its own may be one that the template does not take.
                ok = not self._publication.system and entry["messages"][0]["role"] == "system"
                pairs.append({"name": entry["name"], "refusal": entry["refusal"], "ok": ok})
                continue
            theirs = self._client.rendered(self._publication.candidate, entry["messages"])
            # The token before every text is put there by the template or by the engine: how many, the counts tell.
            same = _bare(theirs, leading) == _bare(entry["text"], leading)
            pairs.append({"name": entry["name"], "trained": entry["text"], "served": theirs, "ok": same})
        if not self._told or any("refusal" in pair and not pair["ok"] for pair in pairs):
            raise Refused(
                "The model's template does not take these conversations, so there is nothing to compare. If a system "
                "prompt is set, publish without one.",
                {"pairs": pairs},
            )
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

    def _remove_candidate(self) -> None:
        with contextlib.suppress(OllamaError):  # the next publication of this model sweeps it up
            self._client.delete(self._publication.candidate)

    def _fail(self, step: str, problem: str, found: dict[str, Any]) -> NoReturn:
        """The candidate goes, the stable model stays as it is, and the page says what was found."""
        self._remove_candidate()
        if step:
            self._keep(step, {**found, "ok": False, "problem": problem})
        self._handle.write(lambda: services.note_end(self._publication, Outcome.FAILED, problem))
        raise JobInputError(problem)


def wait_for_turn(handle: Handle, model: PublishedModel) -> None:
    """Only one job at a time moves the names of a model; the turn ends with the job."""
    while not handle.write(lambda: services.take_turn(model, handle.job)):
        handle.check()
        time.sleep(LOOK_SECONDS)


def remove_leftovers(client: Client, publication: Publication) -> None:
    """Candidates of earlier versions whose runner was lost before it could remove them."""
    others = publication.model.publications.exclude(pk=publication.pk).exclude(outcome=Outcome.HELD)
    for other in others.filter(job__state__in=FINISHED) | others.filter(job=None):
        with contextlib.suppress(OllamaError):
            if client.find(other.candidate):
                client.delete(other.candidate)


@contextlib.contextmanager
def one_at_a_time(handle: Handle, export: Export) -> Iterator[None]:
    """Of several jobs on this machine that want the same file one makes it, and the others wait."""
    export.folder.mkdir(parents=True, exist_ok=True)
    with (export.folder.parent / f"{export.format}.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                handle.check()
                time.sleep(LOOK_SECONDS)
        yield


def export_spec(export: Export) -> dict[str, Any]:
    """What the engine needs to make an export. On the processor: devices belong to trainings, which hold slots."""
    run = export.run
    return {
        "task": "export",
        "base_dir": str(run.base.folder),
        "run_dir": str(run.folder),
        "out_dir": str(export.folder),
        "format": export.format,
        "method": run.method,
        "name": run.name[:80],
        **_trained_beside(run),
        "data_path": str(run.version.file_path),
        "data_sha256": run.version.sha256,
        "llama_cpp_dir": settings.LLAMA_CPP_DIR,
        "device": "cpu",
        **({"threads": settings.ENGINE_THREADS} if settings.ENGINE_THREADS else {}),
    }


def _trained_beside(run: Run) -> dict[str, str]:
    """Weights and chat template of the base as they were when the run was trained; empty for runs of before that."""
    path = run.folder / "environment.json"
    told = load_json(path) if path.exists() else {}
    return {name: str(told.get(name, "")) for name in ("base_sha256", "chat_template_sha256")}


def _bare(text: str, leading: str) -> str:
    return text.removeprefix(leading) if leading else text
