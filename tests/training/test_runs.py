"""A run from its plan to its evaluation, through the addresses and the real engine on a tiny model."""

import threading
import time

import pytest
from django.urls import reverse

from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import Job
from tests.factories import run_all, run_job, words
from training_app.models import Evaluation, EvaluationRow, Metric, Run, Sample
from training_app.services import runs as services


def plan(client, project, version, base, **knobs):
    fields = {"name": "Run 1", "version": version.pk, "base": base.pk, "method": "lora", "preset": "quick"}
    fields["objective"] = "supervised"
    typed = {"epochs": 2, "batch_rows": 8, "rank": 4, "alpha": 8, "checkpoint_every": 2, **knobs}
    return client.post(reverse("run_create", args=[project.pk]), {**fields, "is_evaluated_after": "on", **typed})


@pytest.mark.django_db(transaction=True)
def test_a_run_is_planned_trained_and_judged(project, trainer, viewer, client_of, version, base):
    client = client_of(trainer)
    answer = plan(client, project, version, base)
    assert answer.status_code == 302, answer.context["form"].errors
    run_all()
    run = Run.objects.get()
    assert run.preview_job.state == "succeeded", run.preview_job.error_text
    page = client.get(run.get_absolute_url()).content.decode()
    assert "token-trained" in page
    assert "Start training" in page
    assert run.preview["steps"] == 2 * run.preview["steps_per_epoch"]

    client.post(reverse("run_start", args=[run.pk]))
    run.refresh_from_db()
    job = run_job(run.job)
    assert job.state == "succeeded", job.error_text
    run.refresh_from_db()
    steps = list(run.metrics.filter(name="loss").values_list("step", flat=True))
    assert steps == list(range(1, run.preview["steps"] + 1))
    assert run.result["steps"] == run.preview["steps"]
    series = client.get(reverse("run_metrics", args=[run.pk])).json()
    assert len(series["points"]) == len(steps)
    assert (run.folder / "adapter" / "adapter_model.safetensors").exists()

    looks = list(run.metrics.filter(name="validation_loss").values_list("step", flat=True))
    samples = Sample.objects.filter(run=run)
    assert sorted({sample.step for sample in samples}) == looks
    assert samples.count() == len(looks) * 3
    answered = client_of(viewer).get(reverse("run_samples", args=[run.pk])).content.decode()
    assert "What it answers" in answered and "<html" not in answered
    assert samples[0].question in answered

    run_all("gpu")
    evaluation = Evaluation.objects.get()
    assert evaluation.job.state == "succeeded", evaluation.job.error_text
    assert evaluation.summary["sets"]["recall"]["rows"] == version.counts["recall"]
    assert EvaluationRow.objects.filter(evaluation=evaluation, set="general").count() == 10
    judged = client_of(viewer).get(reverse("evaluation", args=[evaluation.pk])).content.decode()
    assert "Question by question" in judged and "Exact match" in judged
    exact = evaluation.rows.filter(set="recall", tuned_exact=True).count()
    assert evaluation.summary["sets"]["recall"]["tuned_exact"] == exact
    card = client.get(reverse("run_card", args=[run.pk])).content.decode()
    recall = evaluation.summary["sets"]["recall"]
    assert f"| {recall['base_exact']} → {exact} |" in card


@pytest.mark.django_db(transaction=True)
def test_stop_keeps_a_checkpoint_and_resume_goes_on(project, trainer, client_of, version, base, settings):
    settings.JOB_HEARTBEAT_SECONDS = 0.2
    client = client_of(trainer)
    plan(client, project, version, base, epochs=40, batch_rows=2, checkpoint_every=5)
    run_all()
    run = services.start_run(actor=trainer, run=Run.objects.get())
    stopper = threading.Thread(target=stop_after_steps, args=(run.pk, trainer, 8))
    stopper.start()
    job = run_job(run.job)
    stopper.join()
    assert job.state == "cancelled", job.error_text
    done = Metric.objects.filter(run=run, name="loss").count()
    run.refresh_from_db()
    assert 8 <= done < run.preview["steps"]
    assert list((run.folder / "checkpoints").glob("*"))
    assert "Resume" in client.get(run.get_absolute_url()).content.decode()

    Metric.objects.filter(run=run, step__gt=2, step__lt=5).delete()  # as if their runner had died before it wrote them

    client.post(reverse("run_resume", args=[run.pk]))
    job = run_job(Job.objects.get(pk=job.pk))
    assert job.state == "succeeded", job.error_text
    steps = list(Metric.objects.filter(run=run, name="loss").values_list("step", flat=True))
    assert steps == list(range(1, len(steps) + 1))
    lines = [event.payload["line"] for event in job.events.filter(kind="log")]
    assert "Goes on from" in lines[-1], lines


def stop_after_steps(run, actor, steps):
    from django.db import connection

    try:
        deadline = time.monotonic() + 300
        while Metric.objects.filter(run=run, name="loss").count() < steps and time.monotonic() < deadline:
            time.sleep(0.05)
        services.stop_run(actor=actor, run=Run.objects.get(pk=run))
    finally:
        connection.close()


def test_while_the_first_version_is_sealed_the_page_says_so(project, trainer, client_of, version):
    client, pages = client_of(trainer), [reverse(name, args=[project.pk]) for name in ("run_list", "run_create")]
    job = jobs.enqueue(project=project, owner=trainer, kind="datasets.seal", label="a label")
    type(version).objects.filter(pk=version.pk).update(sealed_at=None, job=job)
    for url in pages:
        assert f"{version} is being sealed" in words(client.get(url))
    job.state = "failed"
    job.save()
    for url in pages:
        assert "Nothing to learn from yet" in words(client.get(url))


def test_a_knob_out_of_bounds_is_refused_on_the_form(project, trainer, client_of, version, base):
    answer = plan(client_of(trainer), project, version, base, learning_rate=5)
    assert answer.status_code == 200
    assert "learning_rate" in answer.context["form"].errors
    assert not Run.objects.exists()


def test_a_run_on_another_projects_version_is_refused(project, owner, trainer, version, base):
    from finetune_site.projects.services import create_project

    other = create_project(actor=trainer, name="Other")
    with pytest.raises(services.TrainingError, match="another project"):
        services.plan_run(
            actor=trainer, project=other, name="x", version=version, base=base, method="lora", preset="quick", config={}
        )


def test_a_run_cannot_be_started_twice(project, trainer, version, base, client_of):
    plan(client_of(trainer), project, version, base)
    run = services.start_run(actor=trainer, run=Run.objects.get())
    with pytest.raises(services.TrainingError, match="started already"):
        services.start_run(actor=trainer, run=run)
    assert Job.objects.filter(kind="training.train").count() == 1


def test_only_a_finished_run_is_judged(project, trainer, version, base, client_of):
    plan(client_of(trainer), project, version, base)
    with pytest.raises(services.TrainingError):
        services.start_evaluation(actor=trainer, run=Run.objects.get())


def test_the_preview_refuses_what_would_stop_the_run(project, trainer, version, base, client_of):
    plan(client_of(trainer), project, version, base, max_length=8)
    run_all()
    run = Run.objects.get()
    assert (run.preview_job.state, run.preview_job.error_code) == ("failed", "input")
    with pytest.raises(services.TrainingError, match="would stop the run"):
        services.start_run(actor=trainer, run=run)


def test_a_redelivered_event_adds_no_metric(project, trainer, version, base, client_of):
    from finetune_site.jobs.handle import Handle
    from tests.factories import claim
    from training_app.series import Series

    plan(client_of(trainer), project, version, base)
    Job.objects.filter(kind="training.preview").delete()
    run = services.start_run(actor=trainer, run=Run.objects.get())
    handle = Handle(claim(run.job))
    for _ in range(2):
        series = Series(handle, run)
        series.take({"event": "step", "step": 1, "loss": 2.0, "learning_rate": 0.1})
        series.flush()
    assert Metric.objects.filter(run=run, name="loss").count() == 1


def test_a_long_run_is_shown_thinned_with_every_look_and_its_last_step(
    project, trainer, version, base, client_of, monkeypatch
):
    monkeypatch.setattr("training_app.models.runs.CURVE_STEPS", 10)
    monkeypatch.setattr("training_app.models.runs.SHOWN_LOOKS", 2)
    client = client_of(trainer)
    plan(client, project, version, base)
    run, names = Run.objects.get(), ("loss", "grad_norm")
    Metric.objects.bulk_create(Metric(run=run, step=n, name=name, value=n) for n in range(1, 100) for name in names)
    for look in (33, 66, 99):
        Metric.objects.create(run=run, step=look, name="validation_loss", value=look)
        Sample.objects.create(run=run, step=look, example_id=1, question="Q?", reference="R", answer=f"says {look}")
    points = client.get(reverse("run_metrics", args=[run.pk])).json()["points"]
    assert [point["step"] for point in points] == [10, 20, 30, 33, 40, 50, 60, 66, 70, 80, 90, 99]
    assert points[3] == {"step": 33, "loss": 33, "grad_norm": 33, "validation_loss": 33}
    page = client.get(reverse("run_samples", args=[run.pk])).content.decode()
    assert ("says 99" in page, "says 66" in page, "says 33" in page) == (True, True, False)


def test_a_job_of_a_stranger_cannot_be_stopped(project, trainer, stranger, version, base, client_of):
    plan(client_of(trainer), project, version, base)
    run = Run.objects.get()
    assert client_of(stranger).post(reverse("run_stop", args=[run.pk])).status_code == 404
    with pytest.raises(services.TrainingError):
        services.stop_run(actor=trainer, run=run)
    jobs.cancel(actor=trainer, job=run.preview_job)


def test_a_base_model_folder_must_lie_where_the_operator_allows_it(db, operator, client_of, settings, tmp_path):
    from training_app.models import BaseModel

    settings.MODEL_FOLDERS = [str(tmp_path / "models")]
    client = client_of(operator)
    fields = {"name": "x:1", "title": "X", "source": "folder", "licence": ""}
    for location, is_kept in (("/etc", False), (f"{tmp_path}/models/../..", False), (f"{tmp_path}/models/x", True)):
        client.post(reverse("admin:training_app_basemodel_add"), {**fields, "location": location})
        assert BaseModel.objects.filter(name="x:1").exists() == is_kept
