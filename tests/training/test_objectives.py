"""Runs on preference pairs and on texts, and runs that go on from others, through the addresses and real engines."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from datasets_app.models import DatasetVersion, Document, Example
from datasets_app.services import datasets, examples
from tests.factories import run_all, run_job
from training_app.engine.spec import knobs
from training_app.forms.runs import HIDDEN
from training_app.models import Evaluation, Run
from training_app.services import runs as services

pytestmark = pytest.mark.django_db(transaction=True)
SMALL = {"epochs": 2, "batch_rows": 8, "rank": 4, "alpha": 8, "sample_answers": 1}


def form_fields(version, base, **more):
    fields = {"name": "Run", "version": version.pk, "base": base.pk, "method": "lora", "preset": "quick"}
    return {**fields, "objective": "supervised", **SMALL, **more}


def sealed(dataset, actor):
    examples.judge_all(actor=actor, dataset=dataset, examples=dataset.examples.all(), verdict="approved")
    made = datasets.seal_version(actor=actor, dataset=dataset)
    run_all()
    return DatasetVersion.objects.get(pk=made.pk)


def trained(client, run: Run) -> Run:
    client.post(reverse("run_start", args=[run.pk]))
    run.refresh_from_db()
    job = run_job(run.job)
    assert job.state == "succeeded", job.error_text
    return Run.objects.get(pk=run.pk)


def finished_run(client, project, version, base, **more) -> Run:
    answer = client.post(reverse("run_create", args=[project.pk]), form_fields(version, base, **more))
    assert answer.status_code == 302, answer.context["form"].errors
    run_all()
    run = Run.objects.first()
    assert run.preview_job.state == "succeeded", run.preview_job.error_text
    return trained(client, run)


def test_pairs_are_imported_preferred_and_judged(project, trainer, viewer, client_of, base):
    client = client_of(trainer)
    dataset = datasets.create_dataset(actor=trainer, project=project, name="Manners")
    lines = [
        {"prompt": f"What about part {n}?", "chosen": f"Gladly: {n} kg.", "rejected": "Find out yourself."}
        for n in range(24)
    ]
    text = "\n".join(map(json.dumps, lines))
    client.post(reverse("import_examples", args=[dataset.pk]), {"text": text, "format": "", "confirm": "1"})
    run_all()
    version = sealed(dataset, trainer)
    assert version.counts["kinds"] == {"preference": 24}

    page = client.get(reverse("run_create", args=[project.pk])).content.decode()
    assert "No version of this project has conversations." in page
    answer = client.post(reverse("run_create", args=[project.pk]), form_fields(version, base))
    assert answer.status_code == 200 and "holds no row of the kind that supervised learns from" in str(
        answer.context["form"].errors
    )

    run = finished_run(client, project, version, base, objective="dpo", learning_rate=0.01, is_evaluated_after="on")
    assert run.config["rehearsal_share"] == 0
    accuracy = run.metrics.filter(name="reward_accuracy")
    assert accuracy.count() == run.result["steps"]
    assert run.metrics.filter(name="validation_accuracy").exists()
    shown = client_of(viewer).get(run.get_absolute_url()).content.decode()
    assert "Reward margin" in shown and "learnt worst" in shown
    run_all("gpu")
    evaluation = Evaluation.objects.get()
    assert evaluation.job.state == "succeeded", evaluation.job.error_text
    judged = client_of(viewer).get(reverse("evaluation", args=[evaluation.pk])).content.decode()
    assert "Better answer found likelier" in judged


def test_passages_become_texts_that_are_learnt(project, trainer, client_of, base):
    client = client_of(trainer)
    body = "\n\n".join(f"# Part {n}\n\nPart {n} weighs {n * 7} kg and stands in hall {n}." for n in range(12))
    file = SimpleUploadedFile("parts.md", body.encode())
    client.post(reverse("document_upload", args=[project.pk]), {"files": file})
    run_all()
    dataset = datasets.create_dataset(actor=trainer, project=project, name="Texts")
    fields = {"documents": [Document.objects.get().pk], "model": "verbatim", "wordings": 6}
    client.post(reverse("generate", args=[dataset.pk]), fields)
    run_all()
    example = Example.objects.first()
    assert (example.kind, example.source_parts) == ("text", [(example.quote, True)])
    assert "weighs 0 kg" in example.text.content["text"]
    assert "learnt as it stands" in client.get(reverse("review", args=[dataset.pk])).content.decode()
    edited = client.post(reverse("example_edit", args=[example.pk]), {"text": "Part 0 weighs nothing at all."})
    assert edited.status_code == 302

    version = sealed(dataset, trainer)
    line = b"".join(client.get(reverse("version_download", args=[version.pk, "jsonl"]) + "?split=all")).splitlines()[0]
    assert json.loads(line) == {"text": "Part 0 weighs nothing at all."}
    run = finished_run(client, project, version, base, objective="pretraining")
    assert run.objective == "pretraining"
    assert run.result["train_loss"] > 0
    again = client.post(reverse("run_again", args=[run.pk]))
    repeated = Run.objects.first()
    assert again.url == repeated.get_absolute_url()
    assert (repeated.config, repeated.version, repeated.job) == (run.config, run.version, None)


def test_a_run_goes_on_from_another(project, trainer, client_of, version, base):
    client = client_of(trainer)
    first = finished_run(client, project, version, base)
    form = client.get(reverse("run_create", args=[project.pk]), {"start": first.pk}).context["form"]
    assert form.initial["start"] == first and form.initial["rank"] == 4
    refused = client.post(
        reverse("run_create", args=[project.pk]), form_fields(version, base, start=first.pk, method="dora")
    )
    assert "was trained with lora. Choose that method" in str(refused.context["form"].errors)
    second = finished_run(client, project, version, base, start=first.pk)
    losses = [run.metrics.filter(name="loss").order_by("step").first().value for run in (first, second)]
    assert losses[1] < losses[0]
    assert "going on from" in client.get(second.get_absolute_url()).content.decode()


def test_a_checkpoint_is_wished_for_only_while_it_trains(project, trainer, client_of, version, base):
    config = {name: value for name, value in knobs("lora", "quick").items() if name not in HIDDEN}
    run = services.plan_run(
        actor=trainer,
        project=project,
        name="R",
        version=version,
        base=base,
        method="lora",
        preset="quick",
        config=config,
    )
    page = client_of(trainer).post(reverse("run_checkpoint", args=[run.pk]), follow=True).content.decode()
    assert "The run is not training now" in page


def test_a_run_on_the_cluster_needs_a_cluster(project, trainer, client_of, version, base, settings):
    client, url = client_of(trainer), reverse("run_create", args=[project.pk])
    assert "cluster" not in client.get(url).context["form"].fields
    refused = client.post(url, form_fields(version, base, cluster="True"))
    assert "asks for the Ray cluster, but this site has none" in str(refused.context["form"].errors)
    settings.RAY_ADDRESS = "nowhere"
    assert "cluster" in client.get(url).context["form"].fields
    client.post(url, form_fields(version, base, cluster="True", processes=5))  # more than this machine has
    run_all()
    run = Run.objects.get()
    client.post(reverse("run_start", args=[run.pk]))
    run.refresh_from_db()
    assert run.job.slots == 1
    job = run_job(run.job)
    assert (job.state, job.error_text) == ("failed", "FINETUNE_RAY_ADDRESS must be host:port or auto, not 'nowhere'.")


def test_a_run_on_two_devices(project, trainer, client_of, version, base, settings):
    client = client_of(trainer)
    refused = client.post(reverse("run_create", args=[project.pk]), form_fields(version, base, processes=2))
    assert "asks for 2 devices at once, but this site has 1" in str(refused.context["form"].errors)
    settings.JOB_SLOTS = {**settings.JOB_SLOTS, "gpu": 2}
    run = finished_run(client, project, version, base, processes=2)
    assert (run.job.slots, run.started["processes"]) == (2, 2)
    steps = list(run.metrics.filter(name="loss").values_list("step", flat=True))
    assert steps == list(range(1, run.result["steps"] + 1))
