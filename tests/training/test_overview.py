"""The first pages: one's projects, and where each of them stands for each role."""

import pytest
from django.urls import reverse

from datasets_app.models import Dataset, Document
from datasets_app.services import datasets, examples
from finetune_site.jobs import queue, services
from finetune_site.jobs.models import Job, JobState
from finetune_site.projects.services import create_project, set_role
from training_app.models import Evaluation, Publication, PublishedModel, Run

pytestmark = pytest.mark.django_db


def page_of(client_of, user, project) -> str:
    answer = client_of(user).get(project.get_absolute_url())
    assert answer.status_code == 200
    return " ".join(answer.content.decode().split())


def stands(client_of, user, project) -> list[tuple[str, int, str]]:
    stages = client_of(user).get(project.get_absolute_url()).context["journey"].stages
    return [(stage.title, stage.count, stage.state) for stage in stages]


def write(dataset, actor, count: int) -> None:
    for number in range(count):
        turns = [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": f"{number}."}]
        examples.write_example(actor=actor, dataset=dataset, content={"messages": turns})


def make_run(project, version, base, actor, state: str | None) -> Run:
    job = None
    if state:
        job = services.enqueue(project=project, owner=actor, kind="training.train", label="a run")
        Job.objects.filter(pk=job.pk).update(state=state)
    return Run.objects.create(
        project=project, name="A run", version=version, base=base, method="lora", preset="balanced", config={},
        created_by=actor, job=job,
    )  # fmt: skip


def test_an_empty_project_asks_for_documents(client_of, project, trainer, viewer):
    page = page_of(client_of, trainer, project)
    assert "Upload the documents that the model should know" in page and "Waits for you" not in page
    assert [state for _, _, state in stands(client_of, trainer, project)] == ["now"] + ["later"] * 5
    page = page_of(client_of, viewer, project)
    assert "Next step" not in page and "Nothing waits for you here" in page


def test_documents_that_are_read_ask_for_a_dataset(client_of, project, trainer):
    document = Document.objects.create(
        project=project, name="a.txt", sha256="0" * 64, size=1, media_type="text/plain", uploaded_by=trainer
    )
    document.job = services.enqueue(project=project, owner=trainer, kind="datasets.parse", label="a.txt")
    document.save()
    assert "being read; this page" in page_of(client_of, trainer, project)
    assert "0 read, 1 being read" in page_of(client_of, trainer, project)
    job = queue.claim("default", pid=1, pid_started=1)
    queue.finish(job, JobState.FAILED, code="input", text="There is nothing in it.")
    page = page_of(client_of, trainer, project)
    assert "No document could be read" in page and "· a.txt. There is nothing in it." in page
    Document.objects.update(parsed_at=document.uploaded_at)
    assert "Make a dataset" in page_of(client_of, trainer, project)
    datasets.create_dataset(actor=trainer, project=project, name="Facts")
    assert "Fill Facts" in page_of(client_of, trainer, project)


def test_drafts_wait_for_those_who_may_judge(client_of, project, trainer, reviewer, viewer):
    dataset = datasets.create_dataset(actor=trainer, project=project, name="Facts")
    write(dataset, trainer, 2)
    for user in (trainer, reviewer):
        page = page_of(client_of, user, project)
        assert page.count("2 examples of Facts to judge") == 1 and reverse("review", args=[dataset.pk]) in page
    assert "of Facts to judge" not in page_of(client_of, viewer, project)
    assert ("Examples", 2, "done") in stands(client_of, viewer, project)
    assert ("Approved", 0, "now") in stands(client_of, viewer, project)
    examples.judge_all(actor=reviewer, dataset=dataset, examples=dataset.examples.all(), verdict="approved")
    assert "seal its 2 approved examples" in page_of(client_of, trainer, project)
    assert "seal its" not in page_of(client_of, reviewer, project)


def test_a_sealed_version_asks_for_a_run_and_a_finished_one_for_a_judgement(client_of, project, version, base, trainer):
    assert "Plan a run" in page_of(client_of, trainer, project)
    make_run(project, version, base, trainer, None)
    assert "1 run of yours planned and not started" in page_of(client_of, trainer, project)
    done = make_run(project, version, base, trainer, JobState.SUCCEEDED)
    page = page_of(client_of, trainer, project)
    assert "1 run of yours finished and not judged" in page and "Judge it against its base" in page
    Evaluation.objects.create(run=done, created_by=trainer)
    page = page_of(client_of, trainer, project)
    assert "not judged" not in page and "Publish the best run to Ollama" in page


def test_what_the_gate_holds_waits_for_owners(client_of, project, version, base, trainer, owner):
    from datasets_app.models import ModelServer

    server = ModelServer.objects.create(name="Ollama", provider="ollama", base_url="http://127.0.0.1:9", offered="")
    model = PublishedModel.objects.create(project=project, server=server, name="ft/gearbox", created_by=trainer)
    run = make_run(project, version, base, trainer, JobState.SUCCEEDED)
    Publication.objects.create(
        model=model, number=1, run=run, format="q8_0", created_by=trainer, outcome=Publication.Outcome.HELD
    )
    assert "ft/gearbox v1 is held at the gate" in page_of(client_of, owner, project)
    assert "held at the gate" not in page_of(client_of, trainer, project)


def test_the_page_costs_the_same_however_much_there_is(client_of, project, trainer, django_assert_max_num_queries):
    def queries() -> int:
        client = client_of(trainer)
        with django_assert_max_num_queries(40) as seen:
            assert client.get(project.get_absolute_url()).status_code == 200
        return len(seen)

    write(datasets.create_dataset(actor=trainer, project=project, name="First"), trainer, 1)
    few = queries()
    for number in range(3):
        write(datasets.create_dataset(actor=trainer, project=project, name=f"More {number}"), trainer, 3)
    assert queries() == few


def test_the_first_page_tells_what_waits_in_each_project_of_mine(client_of, project, trainer, stranger, owner):
    other = create_project(actor=stranger, name="Elsewhere")
    write(datasets.create_dataset(actor=stranger, project=other, name="Theirs"), stranger, 1)
    write(datasets.create_dataset(actor=trainer, project=project, name="Facts"), trainer, 3)
    services.enqueue(project=project, owner=trainer, kind="training.train", label="a run")
    page = " ".join(client_of(trainer).get(reverse("home")).content.decode().split())
    assert "Kestrel" in page and "3 to judge" in page and "1 waiting" in page and "4 members" in page
    assert "Elsewhere" not in page
    set_role(actor=stranger, project=other, user=trainer, role="viewer")
    assert "Elsewhere" in client_of(trainer).get(reverse("home")).content.decode()
    assert Dataset.objects.count() == 2
