"""Where a project asks for two people, nobody seals what is theirs alone or publishes what they trained."""

import pytest
from django.urls import reverse

from datasets_app.models import DatasetVersion, ModelServer
from datasets_app.services import datasets, examples
from datasets_app.services.errors import DatasetError
from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import Job, JobState
from finetune_site.projects.models import AuditEntry
from finetune_site.projects.services import edit_project
from tests.factories import run_all
from training_app.models import Publication, PublishedModel, Run
from training_app.services import publishing
from training_app.services.runs import TrainingError

pytestmark = pytest.mark.django_db
SEAL = {"validation_share": "0.1", "recall_share": "1", "note": "", "confirm": "1"}


@pytest.fixture
def project(project, owner):
    edit_project(actor=owner, project=project, name=project.name, description="", needs_two=True)
    return project


@pytest.fixture
def dataset(project, trainer):
    return datasets.create_dataset(actor=trainer, project=project, name="Facts")


def write(dataset, actor, answer="It is one."):
    turns = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": answer}]
    return examples.write_example(actor=actor, dataset=dataset, content={"messages": turns})


def approve(dataset, actor):
    examples.judge_all(actor=actor, dataset=dataset, examples=dataset.examples.all(), verdict="approved")


def sealed(client, dataset) -> bool:
    client.post(reverse("seal", args=[dataset.pk]), SEAL)
    run_all()
    return DatasetVersion.objects.filter(dataset=dataset).sealed().exists()


def test_what_one_made_and_approved_alone_another_seals(dataset, trainer, owner, client_of):
    write(dataset, trainer)
    approve(dataset, trainer)
    answer = client_of(trainer).post(reverse("seal", args=[dataset.pk]), SEAL, follow=True)
    assert "1 of its examples was made and approved by you alone" in answer.content.decode()
    assert not DatasetVersion.objects.exists()
    assert sealed(client_of(owner), dataset)


def test_what_another_approved_or_edited_its_maker_seals(dataset, trainer, reviewer, client_of):
    write(dataset, trainer)
    approve(dataset, reviewer)
    edited = write(dataset, trainer, "It is two.")
    content = {"messages": [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "It is three."}]}
    examples.edit_example(actor=reviewer, example=edited, content=content)
    examples.judge(actor=trainer, example=edited, verdict="approved")
    assert sealed(client_of(trainer), dataset)


def test_an_operator_is_a_person_too(dataset, operator, client_of):
    write(dataset, operator)
    approve(dataset, operator)
    with pytest.raises(DatasetError, match="by you alone"):
        datasets.seal_version(actor=operator, dataset=dataset)


def test_what_is_approved_after_asking_is_seen_when_it_is_sealed(dataset, trainer, reviewer):
    write(dataset, trainer)
    approve(dataset, reviewer)
    version = datasets.seal_version(actor=trainer, dataset=dataset)
    late = write(dataset, trainer, "It is two.")
    examples.judge(actor=trainer, example=late, verdict="approved", text=str(late.text_id))
    run_all()
    version.refresh_from_db()
    assert not version.is_sealed and "made and approved by you alone" in version.job.error_text


def finished_run(project, version, base, planner, starter):
    job = jobs.enqueue(project=project, owner=starter, kind="training.train", label="a run")
    Job.objects.filter(pk=job.pk).update(state=JobState.SUCCEEDED)
    return Run.objects.create(
        project=project, name="A run", version=version, base=base, method="lora", preset="balanced", config={},
        created_by=planner, job=Job.objects.get(pk=job.pk),
    )  # fmt: skip


@pytest.fixture
def run(project, dataset, trainer, reviewer, base, owner):
    write(dataset, trainer)
    approve(dataset, reviewer)
    version = datasets.seal_version(actor=owner, dataset=dataset)
    run_all()
    version.refresh_from_db()
    return finished_run(project, version, base, trainer, owner)


@pytest.fixture
def ollama(db):
    return ModelServer.objects.create(
        name="Ollama", provider="ollama", base_url="http://127.0.0.1:9", offered="", takes_models=True
    )


def publish(run, server, actor):
    return publishing.start_publication(actor=actor, run=run, server=server, name="facts", format="q8_0")


def test_who_planned_or_started_a_run_does_not_publish_it(run, ollama, trainer, owner, operator):
    for person in (trainer, owner):
        with pytest.raises(TrainingError, match="somebody else has to publish it"):
            publish(run, ollama, person)
    assert not Publication.objects.exists()
    assert publish(run, ollama, operator).created_by == operator


def test_nor_does_the_gate_open_for_them(run, ollama, owner, operator):
    model = PublishedModel.objects.create(project=run.project, server=ollama, name="ft/facts", created_by=operator)
    held = Publication.objects.create(
        model=model, number=1, run=run, format="q8_0", created_by=operator, outcome=Publication.Outcome.HELD
    )
    with pytest.raises(TrainingError, match="somebody else"):
        publishing.override_gate(actor=owner, publication=held, reason="It is good enough.")
    publishing.override_gate(actor=operator, publication=held, reason="It is good enough.")


def test_without_the_rule_one_person_does_it_all_and_the_rule_is_an_owners(project, dataset, owner, trainer, client_of):
    write(dataset, trainer)
    approve(dataset, trainer)
    address = reverse("project_edit", args=[project.pk])
    assert client_of(trainer).post(address, {"name": "Kestrel"}).status_code == 403
    client_of(owner).post(address, {"name": "Kestrel", "description": ""})
    entry = AuditEntry.objects.filter(verb="edited").first()
    assert (entry.before["two people"], entry.after["two people"]) == (True, False)
    dataset.refresh_from_db()
    assert datasets.seal_version(actor=trainer, dataset=type(dataset).objects.get(pk=dataset.pk))
