"""Notes, tags, filters, the disk that runs take, checkpoints that go by rule, and a run's card."""

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import Job, JobState
from finetune_site.projects.models import AuditEntry
from training_app.models import Run
from training_app.services import housekeeping
from training_app.services.housekeeping import Rule
from training_app.services.runs import TrainingError


@pytest.fixture
def make_run(project, trainer, version, base, settings, tmp_path):
    settings.DATA_DIR = tmp_path / "data"

    def make(name, state=None, days_ago=0, **fields):
        run = Run.objects.create(
            project=project, name=name, version=version, base=base, method="lora", preset="quick", config={},
            created_by=trainer, **fields,
        )  # fmt: skip
        if state:
            run.job = jobs.enqueue(project=project, owner=trainer, kind="training.train", label=name)
            run.save()
            ended = timezone.now() - timedelta(days=days_ago)
            Job.objects.filter(pk=run.job_id).update(state=state, finished_at=ended)
            for place, size in (("checkpoints/step-5/weights.safetensors", 1000), ("adapter/adapter.safetensors", 70)):
                (run.folder / place).parent.mkdir(parents=True)
                (run.folder / place).write_bytes(b"x" * size)
            (run.folder / "best.safetensors").write_bytes(b"x" * 200)
            housekeeping.measure_disk(run)
            run.refresh_from_db()
        return run

    return make


def test_notes_and_tags_are_kept_and_found(make_run, trainer, viewer, client_of, project):
    run, other = make_run("First"), make_run("Second")
    answer = client_of(trainer).post(
        reverse("run_describe", args=[run.pk]), {"notes": "Rate too high.", "tags": "gear, oil  pump,,gear"}
    )
    assert answer.status_code == 302
    run.refresh_from_db()
    assert (run.notes, run.tags) == ("Rate too high.", ["gear", "oil pump"])
    assert AuditEntry.objects.filter(project=project, verb="described the run").exists()

    def listed(**query):
        page = client_of(viewer).get(reverse("run_list", args=[project.pk]), query).content.decode()
        return [found.name for found in (run, other) if f'href="{found.get_absolute_url()}"' in page]

    assert listed() == ["First", "Second"]
    assert listed(words="too high") == listed(tag="oil pump") == listed(words="gear") == ["First"]
    assert listed(words="second") == ["Second"]
    assert listed(state="draft", method="lora") == ["First", "Second"]
    assert listed(state="running") == listed(method="dora") == []
    assert listed(tag="no such tag") == ["First", "Second"]  # a filter that makes no sense filters nothing
    page = client_of(viewer).get(run.get_absolute_url()).content.decode()
    assert "Rate too high." in page and "Write notes" not in page


def test_too_many_tags_are_refused(make_run, trainer):
    with pytest.raises(TrainingError, match="at most 12 tags"):
        housekeeping.describe_run(actor=trainer, run=make_run("R"), notes="", tags=[str(n) for n in range(13)])


def test_checkpoints_go_by_rule_and_weights_stay(make_run, project, trainer, client_of):
    old = make_run("Old", JobState.SUCCEEDED, days_ago=9)
    fresh = make_run("Fresh", JobState.SUCCEEDED, days_ago=1)
    stopped = make_run("Stopped", JobState.CANCELLED, days_ago=9)
    runs = make_run("Runs", JobState.QUEUED, days_ago=9)
    assert old.disk_bytes == 1270
    assert housekeeping.removable(project, Rule(days=7)) == [(old, 1200)]
    found = housekeeping.removable(project, Rule(days=0, with_stopped=True))
    assert {run for run, _ in found} == {old, fresh, stopped}

    url = reverse("run_clean_up", args=[project.pk])
    shown = client_of(trainer).get(url, {"days": 7}).content.decode()
    assert "Old" in shown and "Fresh" not in shown and (old.folder / "checkpoints").exists()
    client_of(trainer).post(url, {"days": 7})
    old.refresh_from_db()
    assert old.disk_bytes == 70 and (old.folder / "adapter" / "adapter.safetensors").exists()
    for kept in (fresh, stopped, runs):
        assert (kept.folder / "checkpoints" / "step-5").exists()
    assert AuditEntry.objects.get(verb="cleaned up checkpoints").after["freed_bytes"] == 1200


def test_the_operators_rule_works_by_itself(make_run, settings):
    old, stopped = make_run("Old", JobState.SUCCEEDED, days_ago=9), make_run("Stopped", JobState.FAILED, days_ago=9)
    assert housekeeping.clean_up_by_itself() == 0
    settings.CHECKPOINT_DAYS = 5
    assert housekeeping.clean_up_by_itself() == 1200
    assert not (old.folder / "checkpoints").exists() and (stopped.folder / "checkpoints").exists()


def test_a_run_that_is_started_again_keeps_its_checkpoints(make_run, project, trainer):
    """Between the look and the deletion somebody resumes the run."""
    run = make_run("Stopped", JobState.CANCELLED, days_ago=9)
    rule = Rule(days=7, with_stopped=True)
    assert housekeeping.removable(project, rule)
    jobs.requeue(actor=trainer, job=run.job)
    assert housekeeping._let_go(run, rule) == 0
    assert (run.folder / "checkpoints" / "step-5").exists()


def test_a_card_tells_the_facts(make_run, viewer, client_of, version):
    run = make_run("R & D <b>", JobState.SUCCEEDED, notes="Second try", tags=["oil"])
    Run.objects.filter(pk=run.pk).update(
        result={"steps": 7, "tokens": 900, "seconds": 61, "peak_memory_bytes": 2**30, "train_loss": 0.5, "adapter": "a"}
    )
    answer = client_of(viewer).get(reverse("run_card", args=[run.pk]))
    text = answer.content.decode()
    assert answer["Content-Type"].startswith("text/markdown")
    assert text.startswith("# R & D <b>\n") and version.sha256 in text and "Second try" in text
    assert "| Steps, tokens | 7, 900 |" in text and "1 min 1 s" in text


def test_the_last_estimates_stand_beside_the_next(make_run, project, viewer, client_of):
    from training_app.foresight import last_errors

    assert last_errors(project) is None
    for name, seconds, memory in (("A", 90, 1.1), ("B", 120, 1.2), ("C", 150, 0.9)):
        run = make_run(name, JobState.SUCCEEDED)
        Run.objects.filter(pk=run.pk).update(
            started={"start_step": 0}, preview={"seconds": seconds, "memory_bytes": memory * 1e9, "rows": {"train": 1}},
            result={"seconds": 100, "peak_memory_bytes": 1e9, "train_loss": 0.1},
        )  # fmt: skip
    resumed = make_run("Resumed", JobState.SUCCEEDED)
    Run.objects.filter(pk=resumed.pk).update(started={"start_step": 4}, preview={"seconds": 1}, result={"seconds": 9})
    errors = last_errors(project)
    assert (errors.runs, round(errors.seconds, 3), round(errors.memory, 3)) == (3, 0.2, 0.1)
    page = client_of(viewer).get(run.get_absolute_url()).content.decode()
    assert "time was estimated 20 % too high, memory 10 % too high in the median" in page


def test_a_run_that_lacked_memory_offers_a_quantised_base(make_run, project, trainer, client_of):
    run = make_run("Large", JobState.FAILED)
    Job.objects.filter(pk=run.job_id).update(error_text="… Start a new run with quantization 4bit (…) or …")
    page = client_of(trainer).get(run.get_absolute_url()).content.decode()
    link = f"{reverse('run_create', args=[project.pk])}?like={run.pk}&quantization=4bit"
    assert link in page
    assert client_of(trainer).get(link).context["form"]["quantization"].value() == "4bit"
