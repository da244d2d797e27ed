"""Public benchmarks of a run: who may choose what, where lm-eval is missing, and a real measurement where it is not."""

import pytest
from django.urls import reverse

from finetune_site.jobs.models import Job, JobState
from tests.engine.test_benchmark import needs_lm_eval, write_task
from tests.factories import run_all
from tests.training.test_runs import plan
from training_app.engine.suites import INSTALL
from training_app.models import Benchmark, Run
from training_app.models.benchmarks import Figure
from training_app.services import benchmarks as services
from training_app.services.runs import TrainingError

pytestmark = pytest.mark.django_db


@pytest.fixture
def run(project, trainer, version, base):
    """A run that ended well, but for its weights."""
    job = Job.objects.create(
        project=project, owner=trainer, kind="training.train", queue="gpu", state=JobState.SUCCEEDED
    )
    return Run.objects.create(
        project=project, name="Run 1", version=version, base=base, method="lora", config={}, preset="balanced",
        created_by=trainer, job=job,
    )  # fmt: skip


@pytest.fixture
def has_lm_eval(monkeypatch):
    """As if it were installed: what is asked here comes before lm-eval is needed."""
    monkeypatch.setattr("training_app.services.benchmarks.is_installed", lambda: True)
    monkeypatch.setattr("training_app.views.benchmarks.is_installed", lambda: True)


def measure(client, run, **typed):
    return client.post(reverse("benchmark_create", args=[run.pk]), {"tasks": ["arc_easy"], "limit": 10, **typed})


def test_where_it_is_not_installed_the_control_is_grey_and_says_how(run, trainer, client_of, monkeypatch):
    monkeypatch.setattr("training_app.services.benchmarks.is_installed", lambda: False)
    monkeypatch.setattr("training_app.views.benchmarks.is_installed", lambda: False)
    page = client_of(trainer).get(reverse("benchmark_create", args=[run.pk])).content.decode()
    assert "<fieldset disabled>" in page and "pip install -c constraints.txt" in page
    assert "lm-eval is not installed" in measure(client_of(trainer), run).content.decode()
    with pytest.raises(TrainingError, match="not installed"):
        services.start_benchmark(actor=trainer, run=run, tasks=["arc_easy"], limit=5)
    assert INSTALL and not Benchmark.objects.exists()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"tasks": []}, "Choose at least one benchmark"),
        ({"tasks": ["humaneval"]}, "Select a valid choice"),
        ({"tasks": ["/etc/passwd"]}, "Select a valid choice"),
        ({"limit": -1}, "greater than or equal to 0"),
    ],
)
def test_only_names_of_the_list_are_taken(typed, said, run, trainer, client_of, has_lm_eval):
    answer = measure(client_of(trainer), run, **typed)
    assert answer.status_code == 200 and said in answer.content.decode()
    with pytest.raises(TrainingError, match="no benchmark 'humaneval'"):
        services.start_benchmark(actor=trainer, run=run, tasks=["arc_easy", "humaneval"], limit=5)
    assert not Benchmark.objects.exists()


def test_the_operators_tasks_are_offered_first(run, trainer, client_of, has_lm_eval, settings, tmp_path):
    settings.LM_EVAL_TASKS = str(write_task(tmp_path))
    page = client_of(trainer).get(reverse("benchmark_create", args=[run.pk])).content.decode()
    assert 0 < page.index("parts_choice") < page.index("arc_easy")
    assert measure(client_of(trainer), run, tasks=["parts_choice"]).status_code == 302
    assert Benchmark.objects.get().tasks == ["parts_choice"]
    assert "being measured already" in measure(client_of(trainer), run).content.decode()


def test_an_unfinished_run_is_not_measured(run, trainer, client_of, has_lm_eval):
    Job.objects.filter(run=run).update(state=JobState.FAILED)
    with pytest.raises(TrainingError, match="Only a finished run"):
        services.start_benchmark(actor=trainer, run=Run.objects.get(), tasks=["arc_easy"], limit=5)
    page = client_of(trainer).get(reverse("benchmark_create", args=[run.pk])).content.decode()
    assert "There is no model to measure yet" in page


@pytest.mark.parametrize(
    ("base", "tuned", "error", "is_higher_better", "said"),
    [
        (0.50, 0.60, 0.02, True, "better"),
        (0.50, 0.55, 0.02, True, "no clear difference"),
        (0.60, 0.50, 0.02, True, "worse"),
        (9.0, 7.0, 0.5, False, "better"),
        (9.0, 7.0, None, False, "no error known"),
    ],
)
def test_a_difference_is_called_so_only_beyond_chance(base, tuned, error, is_higher_better, said):
    figure = Figure("t", "m", 100, base, error, tuned, error, is_higher_better)
    assert figure.verdict == said


def test_figures_stand_on_every_page_that_compares(run, trainer, viewer, client_of):
    figure = {"base": 0.5, "base_error": 0.01, "tuned": 0.4, "tuned_error": 0.01, "is_higher_better": True}
    task = {"rows": 100, "version": "1.0", "metrics": {"accuracy": figure}, "reason": ""}
    gone = {"rows": 0, "version": "", "metrics": {}, "reason": "mmlu: its rows are not on this machine."}
    summary = {"lm_eval": "0.4.13", "limit": 100, "tasks": {"arc_easy": task, "mmlu": gone}}
    benchmark = Benchmark.objects.create(
        run=run, tasks=["arc_easy", "mmlu"], limit=100, created_by=trainer, summary=summary
    )
    client = client_of(viewer)
    page = client.get(benchmark.get_absolute_url()).content.decode()
    assert "0.400 ± 0.010" in page and "mmlu: its rows are not on this machine." in page
    assert '<span class="badge bg-red-lt">worse</span>' in page
    assert "<html" not in client.get(reverse("benchmark_body", args=[benchmark.pk])).content.decode()
    assert (
        "| arc_easy | accuracy | 100 | 0.500 ± 0.010 | 0.400 ± 0.010 | worse |"
        in client.get(reverse("run_card", args=[run.pk])).content.decode()
    )
    assert "(base 0.500; worse)" in client.get(run.get_absolute_url()).content.decode()
    other = Run.objects.create(
        project=run.project, name="Run 2", version=run.version, base=run.base, method="lora",
        config={}, preset="balanced", created_by=trainer,
    )  # fmt: skip
    url = f"{reverse('run_compare', args=[run.project_id])}?run={run.pk}&run={other.pk}"
    assert "arc_easy: accuracy</th><td>0.400 (base 0.500)</td><td>–</td>" in client.get(url).content.decode()


@needs_lm_eval
@pytest.mark.slow
def test_a_run_is_measured_for_real(project, trainer, client_of, version, base, settings, tmp_path):
    settings.LM_EVAL_TASKS = str(write_task(tmp_path))
    client = client_of(trainer)
    plan(client, project, version, base)
    run_all()
    run = Run.objects.get()
    client.post(reverse("run_start", args=[run.pk]))
    run_all("gpu")
    assert measure(client, run, tasks=["parts_choice", "arc_easy"]).status_code == 302
    run_all("gpu")
    benchmark = Benchmark.objects.get()
    assert benchmark.job.state == "succeeded", benchmark.job.error_text
    [figure] = benchmark.figures
    assert (figure.task, figure.metric, figure.rows) == ("parts_choice", "accuracy", 10)
    page = client.get(benchmark.get_absolute_url()).content.decode()
    assert f"{figure.tuned:.3f} ± {figure.tuned_error:.3f}" in page
    assert "arc_easy: its rows are not on this machine and could not be fetched" in page
