"""The checker finds nothing wrong with a site as it comes to be, and each fault that is put into it."""

import shutil

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.urls import reverse

from datasets_app.models import DatasetVersion, Example, ExampleText, Tally
from finetune_site.jobs.models import Job, JobEvent
from finetune_site.operations.invariants import INVARIANTS, check
from finetune_site.projects.models import Membership
from tests.datasets.test_tally import CONTENT
from tests.factories import run_all
from tests.site.test_access import things  # noqa: F401  a fixture
from tests.training.test_runs import plan
from training_app.models import ChatAnswer, Metric, Run

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def trained(project, trainer, client_of, version, base) -> Run:
    """A site in which everything has happened once."""
    client = client_of(trainer)
    plan(client, project, version, base)
    run_all()
    client.post(reverse("run_start", args=[Run.objects.get().pk]))
    run_all("gpu")
    return Run.objects.get()


def found(is_deep: bool = False) -> list[str]:
    return [sentence for _, findings in check(is_deep=is_deep) for sentence in findings]


def test_a_site_at_work_contradicts_nothing_and_each_fault_is_found(trained, version, capsys):
    call_command("check_invariants", "--deep")
    assert capsys.readouterr().out.count("  holds  ") == len(INVARIANTS)

    first, second = Example.objects.order_by("pk")[:2]
    Example.objects.filter(pk=first.pk).update(text=second.text)
    assert any("shows another's text" in told for told in found())
    Example.objects.filter(pk=first.pk).update(text=first.text)
    ExampleText.objects.create(example=first, number=9, content=CONTENT, search="", author=trained.created_by)
    assert any("does not show its newest text" in told for told in found())
    ExampleText.objects.filter(number=9).delete()

    Tally.objects.create(dataset=version.dataset, state="draft", change=3)
    assert f"dataset {version.dataset_id} has 0 examples that are draft, and 3 are counted" in found()
    Tally.objects.filter(change=3, state="draft").delete()

    Metric.objects.filter(run=trained, step=1).delete()
    assert any(told.startswith(f"run {trained.pk} has ") for told in found())
    shutil.rmtree(trained.folder / "adapter")
    assert f"run {trained.pk} is done, and its weights are not there" in found()

    version.file_path.write_bytes(b"other")
    assert f"version {version.pk}: its file is another than was sealed" in found(is_deep=True)
    version.file_path.unlink()
    assert f"version {version.pk}: its file is not there" in found()
    DatasetVersion.objects.filter(pk=version.pk).update(counts={"rows": 7})
    assert f"version {version.pk} lists 48 rows and holds 7" in found()

    ended = Job.objects.filter(state="succeeded").first()
    JobEvent.objects.create(job=ended, kind="state", payload={"state": "succeeded"})
    assert f"job {ended.pk} was done 2 times" in found()
    JobEvent.objects.create(job=ended, kind="state", payload={"state": "queued"})
    assert f"job {ended.pk} is succeeded, and its last event says queued" in found()
    Job.objects.filter(pk=ended.pk).update(finished_at=None)
    assert f"job {ended.pk} ended without a time" in found()

    Membership.objects.all().delete()
    assert any("has no owner" in told for told in found())
    with pytest.raises(CommandError, match="do not hold"):
        call_command("check_invariants")


def test_slots_answers_documents_and_models(things, owner, project):  # noqa: F811
    fields = {"project": project, "owner": owner, "kind": "training.train", "queue": "gpu", "label": "R"}
    for number in (1, 2):
        token = f"{number}" * 8 + "-1111-1111-1111-111111111111"
        Job.objects.create(**fields, state="running", token=token, host="here", held_slots=[0])
    ChatAnswer.objects.update(state="answering")
    told = found()
    assert "slot 0 of gpu on here is held by 2 jobs" in told
    assert any("runs without a lease" in sentence for sentence in told)
    assert any("is written by nobody" in sentence for sentence in told)
    assert f"document {things['document']['pk']}: its file is not there" in told
    with connection.cursor() as cursor:
        cursor.execute("update training_app_publishedmodel set current_id = (select id from training_app_publication)")
    assert any("stands for a version that is not published" in sentence for sentence in found())
