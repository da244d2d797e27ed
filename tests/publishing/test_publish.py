"""From a finished run to a name in Ollama: every step, every way it can go wrong, and what stands there afterwards."""

import random
import shutil
import time
from pathlib import Path

import pytest
from django.urls import reverse

from finetune_site.jobs.dispatch import reconcile
from finetune_site.jobs.models import Job, JobState
from finetune_site.lib.channel import load_json, write_json
from tests.factories import run_all, wait_until
from tests.ollama_server import Manifest
from tests.publishing.conftest import GOOD, judge
from training_app.models import STEPS, Evaluation, Export, Publication, PublishedModel
from training_app.ollama import Client
from training_app.services import publishing as services
from training_app.services.runs import TrainingError

pytestmark = [pytest.mark.slow, pytest.mark.django_db]
FORMAT = "q8_0"


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """Where the file is kept once a test has made it: it is the same for every other."""
    return tmp_path_factory.mktemp("exported") / FORMAT


def publish(run, server, actor, exported=None, **fields) -> Publication:
    """Publish, with every attempt that there is."""
    if exported is not None:
        give_file(run, actor, exported)
    made = services.start_publication(
        actor=actor, run=run, server=server, **{"name": "gearbox", "format": FORMAT, **fields}
    )
    exhaust()
    if exported is not None and not exported.exists() and (run.folder / "exports" / FORMAT / "result.json").exists():
        shutil.copytree(run.folder / "exports" / FORMAT, exported)
    return Publication.objects.get(pk=made.pk)


def give_file(run, actor, exported) -> None:
    """Lay the file that an earlier test made beside this run."""
    if exported.exists() and not run.exports.exists():
        shutil.copytree(exported, run.folder / "exports" / FORMAT, dirs_exist_ok=True)
        result = load_json(run.folder / "exports" / FORMAT / "result.json")
        Export.objects.create(run=run, format=FORMAT, created_by=actor, result=result)


def exhaust() -> None:
    for _ in range(6):
        run_all()
        Job.objects.filter(state=JobState.QUEUED).update(not_before=None)


def test_a_model_goes_every_step_and_answers_as_it_was_trained(run, ollama, double, trainer, viewer, client_of):
    client = client_of(trainer)
    url = reverse("publication_create", args=[run.pk])
    assert "The gate" in client.get(url).content.decode()
    typed = {"server": ollama.pk, "name": "gearbox", "format": FORMAT, "temperature": 0, "num_ctx": 2048}
    answer = client.post(url, {**typed, "note": "The first", "licence": "Apache-2.0"})
    exhaust()
    publication = Publication.objects.get()
    assert answer.url == publication.get_absolute_url()
    assert (publication.outcome, publication.problem) == ("published", "")
    assert [state for _, _, state, _ in publication.steps] == ["done"] * len(STEPS)
    # Ollama took a template of its own, which knows no default system message: it was given ours.
    assert publication.evidence["prompt"]["template"] == "given in Go's language"
    assert set(double.models) == {"ft/gearbox:v1", "ft/gearbox:latest"}
    stable = double.models["ft/gearbox:latest"]
    assert stable.digest == publication.digest and stable.parameters["stop"] == ["<|im_end|>"]
    assert stable.licence[0] == "Apache-2.0" and "# ft/gearbox:v1" in stable.licence[1]
    with Client(ollama.base_url) as direct:
        told = direct.chat("ft/gearbox", [{"role": "user", "content": "What is the colour of the Brannick gearbox?"}])
    assert "green" in told.text.lower() and told.ended_by == "stop"
    page = client_of(viewer).get(publication.get_absolute_url()).content.decode()
    assert "Prompt is byte for byte the trained one" in page and "largest difference" in page
    card = client_of(viewer).get(reverse("publication_card", args=[publication.pk])).content.decode()
    assert "Gearbox v1" in card and "Its base stands under Apache-2.0" in card and "83% of the tuned model" in card
    model = PublishedModel.objects.get()
    assert model.current == publication and model.switches.get().after == publication
    page = client_of(viewer).get(model.get_absolute_url()).content.decode()
    assert "ft/gearbox:latest" in page and "trainer moved it from nothing to v1" in page


def test_the_card_and_the_pages_tell_what_stands_behind_it(run, ollama, double, trainer, reviewer, viewer, client_of):
    from datasets_app.models import Document, Example, ExampleText, VersionEntry
    from training_app.models import BaseModel

    published, project = standing(run, ollama, double, trainer), run.project
    document = Document.objects.create(
        project=project, name="gearbox.pdf", sha256="1" * 64, size=1, media_type="application/pdf", uploaded_by=trainer
    )
    for number in range(3):
        example = Example.objects.create(dataset=run.version.dataset, document=document, author=trainer)
        text = ExampleText.objects.create(example=example, content={"text": "T"}, search="T", author=trainer)
        decided = {"decided_by": reviewer} if number else {"decided_name": "Ada (ada@example.org)"}
        Example.objects.filter(pk=example.pk).update(text=text, state="approved", **decided)
        VersionEntry.objects.create(version=run.version, example=example, text=text, split="train")
    told = services.card_facts(published)
    assert (told.rows, told.reviewed, told.reviewers) == (3, 3, 2)
    assert [(entry.name, entry.taught) for entry in told.documents] == [("gearbox.pdf", 3)]
    client = client_of(viewer)
    assert "gearbox.pdf" in client.get(published.model.get_absolute_url()).content.decode()
    assert "ft/gearbox" in client.get(reverse("document_models", args=[document.pk])).content.decode()
    assert services.licence_duties(BaseModel(name="llama3.2:1b", licence="Llama 3.2"))


def test_a_second_version_then_back_and_away(run, ollama, double, trainer, client_of, exported):
    first = publish(run, ollama, trainer, exported)
    assert len(double.uploads) <= 1
    double.uploads.clear()
    again = publish(run, ollama, trainer, exported, system="Answer like a pirate.")
    assert (first.outcome, again.outcome, again.number) == ("published", "published", 2)
    assert double.uploads == [] and again.evidence["uploaded"]["was_there"], "the same file was sent twice"
    assert double.models["ft/gearbox:latest"].system == "Answer like a pirate."
    client, act = client_of(trainer), "publication_act"
    client.post(reverse(act, args=[first.pk, "switch"]), {"reason": "The pirate was no good idea"})
    run_all()
    model = PublishedModel.objects.get()
    assert model.current == first and double.models["ft/gearbox:latest"].digest == first.digest
    page = client.get(model.get_absolute_url()).content.decode()
    assert "moved it from v2 to v1" in page and "The pirate was no good idea" in page
    page = client.post(reverse(act, args=[first.pk, "withdraw"]), follow=True).content.decode()
    assert "This version is the stable one. Switch to another first" in page
    client.post(reverse(act, args=[again.pk, "withdraw"]))
    run_all()
    assert set(double.models) == {"ft/gearbox:v1", "ft/gearbox:latest"}
    client.post(reverse(act, args=[first.pk, "withdraw"]))
    run_all()
    assert not double.models and PublishedModel.objects.get().current is None


FAULTS = {
    "wrong template": ({"render": "mutate"}, "prompt", "Ollama makes another prompt than the model was trained on"),
    "dropped system message": ({"render": "drop system"}, "prompt", "Ollama makes another prompt"),
    "missing stop token": ({"is_endless": True}, "smoke", "did not end by themselves"),
    "other tokenizer": ({"read": "other tokens"}, "tokens", "into another number of tokens"),
    "truncated upload": ({"upload": "truncate"}, "uploaded", "digest mismatch"),
    "upload cut off": ({"upload": "cut"}, "uploaded", "broke off the connection"),
    "create cut off": ({"create": "cut"}, "created", "broke off"),
    "create refused": ({"create": "error"}, "created", "llama runner process has terminated"),
    "server full": ({"is_full": True}, "created", "is full. Remove models there"),
    "server busy": ({"is_busy": True}, "created", "has too much to do"),
}


def standing(run, server, double, person) -> Publication:
    """A version that was published before."""
    manifest = Manifest(double.keep(b"GGUF"))
    double.models |= {"ft/gearbox:v1": manifest, "ft/gearbox:latest": manifest}
    model = PublishedModel.objects.create(project=run.project, server=server, name="ft/gearbox", created_by=person)
    made = Publication.objects.create(
        model=model, number=1, run=run, format="f16", created_by=person, outcome="published", digest=manifest.digest
    )
    PublishedModel.objects.update(current=made)
    return made


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_promotes_nothing_and_is_shown(
    fault, run, ollama, double, trainer, viewer, client_of, exported, monkeypatch
):
    monkeypatch.setattr("training_app.publishing.SMOKE_TOKENS", 40)
    stable = standing(run, ollama, double, trainer)
    give_file(run, trainer, exported)
    before = dict(double.models)
    behaviour, step, sentence = FAULTS[fault]
    if "upload" in fault:  # the file is not there yet
        for export in run.exports.all():
            double.blob(f"sha256:{export.result['sha256']}").unlink(missing_ok=True)
        double.unload()
    for name, value in behaviour.items():
        setattr(double.behave, name, value)
    failed = publish(run, ollama, trainer, exported, note=fault)
    assert failed.outcome == "failed" and sentence in failed.problem, failed.problem
    assert double.models == before, "the stable model or a candidate was touched"
    assert PublishedModel.objects.get().current == stable
    assert failed.evidence[step]["ok"] is False, failed.evidence
    page = client_of(viewer).get(failed.get_absolute_url()).content.decode()
    assert "Nothing was promoted; the stable version is as it was." in page
    if step == "prompt":
        assert "<mark>" in page and "As Ollama serves it" in page
    if step == "tokens":
        assert page.count('class="text-danger"') >= 3


def test_a_system_prompt_that_the_template_does_not_take_is_no_proof(run, ollama, double, trainer, exported):
    """Nothing compared is nothing proved."""
    made = services.start_publication(actor=trainer, run=run, server=ollama, name="gearbox", format=FORMAT)
    refused = {"name": "a question", "messages": [{"role": "user", "content": "Q"}], "refusal": "no system role"}
    expected = {"conversations": [refused], "texts": [], "questions": [], "template": "", "leading": "", "stop": []}
    Publication.objects.filter(pk=made.pk).update(system="Be brief.", expected={**expected, "answer_tokens": 1})
    give_file(run, trainer, exported)
    exhaust()
    made.refresh_from_db()
    assert made.outcome == "failed" and "there is nothing to compare" in made.problem and not double.models


def test_a_candidate_that_was_exchanged_is_not_promoted(run, ollama, double, trainer, exported, monkeypatch):
    from training_app.publishing import Publishing

    real = Publishing._gate

    def exchange(self):
        double.models[self._publication.candidate] = Manifest(double.models[self._publication.candidate].gguf)
        return real(self)

    monkeypatch.setattr(Publishing, "_gate", exchange)
    made = publish(run, ollama, trainer, exported)
    assert made.outcome == "failed" and "is not the model that was proved" in made.problem
    assert "ft/gearbox:latest" not in double.models and PublishedModel.objects.get().current is None


def test_a_stable_name_of_somebody_elses_is_not_taken(run, ollama, double, trainer, exported):
    foreign = Manifest(double.keep(b"GGUF of another"))
    double.models["ft/gearbox:latest"] = foreign
    made = publish(run, ollama, trainer, exported)
    assert made.outcome == "failed" and "is another model than this site published" in made.problem
    assert double.models["ft/gearbox:latest"] is foreign


def test_a_candidate_that_cannot_be_removed_makes_nothing_unpublished(
    run, ollama, double, trainer, exported, monkeypatch
):
    from training_app.ollama import OllamaError, Trouble

    def forbidden(self, name):
        raise OllamaError(Trouble.REFUSED, "DELETE is not allowed by the proxy")

    monkeypatch.setattr(Client, "delete", forbidden)
    made = publish(run, ollama, trainer, exported)
    assert made.outcome == "published" and made.model.current == made


def test_a_file_that_was_made_anew_is_proved_anew(run, ollama, double, trainer, owner, exported):
    Evaluation.objects.all().delete()
    held = publish(run, ollama, trainer, exported)
    export = run.exports.get()
    Export.objects.update(result={**export.result, "problem": "It answers otherwise.", "parity": []})
    services.override_gate(actor=owner, publication=held, reason="Try it")
    # The engine would make it again; what stands there by then is refused.
    run_all()
    held.refresh_from_db()
    assert held.outcome in ("failed", "published") and (held.outcome == "published") == run.exports.get().is_ready


def test_two_that_move_the_same_names_take_turns(run, ollama, double, trainer, exported):
    made = publish(run, ollama, trainer, exported)
    first, second = made.job, run.job
    Job.objects.filter(pk=first.pk).update(state=JobState.RUNNING, token="0" * 32)
    assert services.take_turn(made.model, first) and not services.take_turn(made.model, second)
    Job.objects.filter(pk=first.pk).update(state=JobState.SUCCEEDED, token=None)
    assert services.take_turn(made.model, second)


def test_a_server_closed_to_publishing_meanwhile(run, ollama, double, trainer, exported):
    from datasets_app.models import ModelServer

    made = services.start_publication(actor=trainer, run=run, server=ollama, name="gearbox", format=FORMAT)
    ModelServer.objects.update(takes_models=False)
    exhaust()
    made.refresh_from_db()
    assert made.outcome == "failed" and "may not be published to" in made.problem and not double.asked


def test_adapters_are_refused_by_ollama_which_is_why_they_are_never_sent(ollama, double):
    import httpx

    body = {"model": "x", "files": {"m.gguf": "sha256:" + "1" * 64}, "adapters": {"a": "sha256:" + "2" * 64}}
    told = httpx.post(f"{double.base_url}/api/create", json=body)
    assert told.status_code == 400 and told.json()["error"] == "LoRA adapters are no longer supported"


def test_a_base_that_was_changed_since_fails_before_anything_is_sent(run, ollama, double, trainer):
    path = run.folder / "environment.json"
    write_json(path, {**load_json(path), "base_sha256": "0" * 64})
    failed = publish(run, ollama, trainer)
    assert failed.outcome == "failed" and "not those that this run was trained on" in failed.problem
    assert not double.uploads and not double.models


def test_an_older_ollama_is_published_to_as_well(run, ollama, double, trainer, exported):
    double.behave.version = "0.33.0"
    made = publish(run, ollama, trainer, exported)
    assert made.outcome == "published" and "validating GGUF model" in made.evidence["created"]["statuses"]


# --- the gate ---


def test_the_gate_holds_until_an_owner_says_why(run, ollama, double, trainer, owner, client_of, exported):
    judge(run, trainer, {"recall": (6, 2, 1, 1), "general": (10, 8, 4, 3)})
    held = publish(run, ollama, trainer, exported)
    assert held.outcome == "held" and "general answers kept" in held.problem
    assert set(double.models) == {"ft/gearbox:v1-candidate"}
    page = client_of(trainer).get(held.get_absolute_url()).content.decode()
    assert "the gate holds it: nobody uses it yet" in page and "Override" not in page
    url = reverse("publication_override", args=[held.pk])
    assert client_of(trainer).post(url, {"reason": "I like it"}).status_code == 403
    page = client_of(owner).post(url, {"reason": " "}, follow=True).content.decode()
    assert "Say why it is published although the gate holds it." in page
    client_of(owner).post(url, {"reason": "A trial for two days"})
    exhaust()
    held.refresh_from_db()
    assert (held.outcome, held.override_reason, held.override_by) == ("published", "A trial for two days", owner)
    assert set(double.models) == {"ft/gearbox:v1", "ft/gearbox:latest"}
    assert "A trial for two days" in client_of(trainer).get(held.get_absolute_url()).content.decode()
    entry = run.project.audit_entries.filter(verb="overrode the gate for").get()
    assert entry.actor == owner and entry.after == {"reason": "A trial for two days"}
    assert held.model.switches.get().by == owner and run.project.audit_entries.get(verb="published").actor == owner
    services.note_promoted(held, held.digest)  # as after an answer that was lost
    assert run.project.audit_entries.filter(verb="published").count() == 1


def test_held_then_evaluated_again_or_discarded(run, ollama, double, trainer, client_of, exported):
    Evaluation.objects.all().delete()
    first = publish(run, ollama, trainer, exported)
    assert first.outcome == "held" and "has not been evaluated" in first.problem
    judge(run, trainer, GOOD)
    client_of(trainer).post(reverse("publication_act", args=[first.pk, "again"]))
    exhaust()
    first.refresh_from_db()
    assert first.outcome == "published"
    Evaluation.objects.all().delete()
    second = publish(run, ollama, trainer, exported)
    client_of(trainer).post(reverse("publication_act", args=[second.pk, "discard"]))
    run_all()
    second.refresh_from_db()
    assert second.outcome == "failed" and "Discarded by trainer" in second.problem
    assert set(double.models) == {"ft/gearbox:v1", "ft/gearbox:latest"}


def test_thresholds_are_the_projects(run, project, owner, trainer, client_of):
    url = reverse("gate_edit", args=[project.pk])
    assert client_of(trainer).post(url, {"min_gain": 0.9, "min_kept": 0.5}).status_code == 403
    client_of(owner).post(url, {"min_gain": 0.9, "min_kept": 0.5})
    found = services.look_at_gate(run)
    assert not found.passes and [passed for _, _, passed in found.lines] == [False, True]
    client_of(owner).post(url, {"min_gain": 7, "min_kept": 0.5})
    assert services.look_at_gate(run).lines == found.lines


# --- who may, and killed in between ---


def test_what_cannot_be_published_is_refused(run, ollama, trainer, stranger, base, version):
    def refused(match, **fields):
        given = {"actor": trainer, "run": run, "server": ollama, "name": "gearbox", "format": "f16", **fields}
        with pytest.raises(TrainingError, match=match):
            services.start_publication(**given)

    refused("GGUF files only", format="merged")
    refused("may hold small letters", name="../evil")
    refused("may hold small letters", name="Registry.example/x")
    from finetune_site.projects.services import create_project

    other = create_project(actor=stranger, name="Theirs")
    PublishedModel.objects.create(project=other, server=ollama, name="ft/taken", created_by=stranger)
    refused("is taken on", name="taken")
    services.start_publication(actor=trainer, run=run, server=ollama, name="gearbox", format="f16")
    refused("is on its way already")
    ollama.takes_models = False
    refused("may not be published to")
    run.job.state = JobState.FAILED
    refused("Only a finished run", server=ollama)


@pytest.mark.parametrize("step", ["agrees", "uploaded", "created", "prompt", "gate", "promoted"])
def test_killed_behind_any_step_it_goes_on(step, run, ollama, double, trainer, exported, monkeypatch):
    """The attempt dies when a step is done and not yet written down; the next goes on, and sends no file twice."""
    from training_app.publishing import Publishing

    real, died = getattr(Publishing, f"_{step}"), []

    def die(self):
        found = real(self)
        if not died:
            died.append(step)
            raise RuntimeError("killed here")
        return found

    monkeypatch.setattr(Publishing, f"_{step}", die)
    made = publish(run, ollama, trainer, exported)
    assert (made.outcome, died, made.job.attempt) == ("published", [step], 2), made.problem
    assert set(double.models) == {"ft/gearbox:v1", "ft/gearbox:latest"}
    assert len(double.uploads) <= 1 and made.model.switches.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_runner_killed_again_and_again_leaves_no_half_made_name(run, ollama, double, trainer, exported, runner):
    give_file(run, trainer, exported)
    made = services.start_publication(actor=trainer, run=run, server=ollama, name="gearbox", format=FORMAT)
    seen = lambda: Publication.objects.get(pk=made.pk)  # noqa: E731
    for step in ("agrees", "created", "prompt"):
        process = runner()
        wait_until(lambda step=step: step in seen().evidence, process)
        time.sleep(random.random())
        process.kill()
        process.wait()
        if stable := double.models.get("ft/gearbox:latest"):
            assert stable.digest == seen().evidence["prompt"]["digest"], (
                "a name that was not proved became the stable one"
            )
        reconcile()
        Job.objects.filter(state=JobState.QUEUED).update(not_before=None)
    runner().wait()
    assert (seen().outcome, seen().problem) == ("published", "")
    assert set(double.models) == {"ft/gearbox:v1", "ft/gearbox:latest"} and len(double.uploads) <= 1
    assert double.models["ft/gearbox:latest"].digest == seen().digest and seen().model.switches.count() == 1


def test_a_candidate_that_somebody_deleted_is_made_and_proved_again(run, ollama, double, trainer, owner, exported):
    Evaluation.objects.all().delete()
    held = publish(run, ollama, trainer, exported)
    double.models.clear()
    services.override_gate(actor=owner, publication=held, reason="Try it")
    exhaust()
    held.refresh_from_db()
    assert held.outcome == "published" and held.evidence["smoke"]["ok"]


def test_stopped_by_a_person_the_candidate_goes(run, ollama, double, trainer, client_of, exported, monkeypatch):
    from finetune_site.jobs import services as jobs
    from training_app.publishing import Publishing

    real = Publishing._smoke

    def stop_first(self):
        jobs.cancel(actor=trainer, job=Job.objects.get(pk=self._publication.job_id))
        self._handle._cancel.set()  # as the next heartbeat does
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Publishing, "_smoke", stop_first)
        stopped = publish(run, ollama, trainer, exported)
    assert (stopped.outcome, stopped.job.state) == ("failed", "cancelled")
    assert "Stopped before it was promoted." in stopped.problem and not double.models
    jobs.requeue(actor=trainer, job=stopped.job)
    exhaust()
    stopped.refresh_from_db()
    assert (stopped.outcome, stopped.problem) == ("published", "")


def test_lost_with_its_runner_it_is_not_published_and_swept_up_by_the_next(run, ollama, double, trainer, exported):
    Evaluation.objects.all().delete()
    lost = publish(run, ollama, trainer, exported)
    Job.objects.filter(pk=lost.job_id).update(state=JobState.FAILED)
    Publication.objects.filter(pk=lost.pk).update(outcome="working")
    assert Publication.objects.get(pk=lost.pk).standing == "failed"
    judge(run, trainer, GOOD)
    assert publish(run, ollama, trainer, exported).outcome == "published"
    assert set(double.models) == {"ft/gearbox:v2", "ft/gearbox:latest"}


def test_a_project_with_published_models_can_be_deleted(run, ollama, double, trainer, owner):
    from finetune_site.projects.services import delete_project

    standing(run, ollama, double, trainer)
    delete_project(actor=owner, project=run.project)
    assert not PublishedModel.objects.exists()


def test_a_version_that_is_gone_in_ollama_is_not_switched_to(run, ollama, double, trainer, client_of, exported):
    first, second = publish(run, ollama, trainer, exported), publish(run, ollama, trainer, exported, note="2")
    del double.models["ft/gearbox:v1"]
    services.switch(actor=trainer, publication=first)
    run_all()
    model = PublishedModel.objects.get()
    assert model.current == second and "is not in Ollama any more as it was published" in model.switch_job.error_text


def test_the_file_comes_whole_with_its_hash(run, trainer, viewer, stranger, client_of):
    client = client_of(trainer)
    page = client.get(reverse("export_list", args=[run.pk])).content.decode()
    assert "about 9.5" in page, "sizes are not told before"
    client.post(reverse("export_create", args=[run.pk]), {"format": "merged"})
    run_all()
    made = Export.objects.get(format="merged")
    assert made.is_ready and made.job.state == "succeeded"
    url = reverse("export_download", args=[made.pk])
    answer = client_of(viewer).get(url)
    import hashlib

    whole = b"".join(answer)
    assert hashlib.sha256(whole).hexdigest() == made.result["sha256"] and len(whole) == made.result["bytes"]
    assert client_of(stranger).get(url).status_code == 404
    page = client.post(reverse("export_create", args=[run.pk]), {"format": "q4_k_m"}, follow=True).content.decode()
    assert "needs llama.cpp" in page
