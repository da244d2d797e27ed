"""Sweeps: a grid and a search, trained for real on a tiny model."""

import math

import pytest
from django.urls import reverse

from tests.factories import run_all
from training_app import searching
from training_app.engine.spec import knobs
from training_app.forms.runs import HIDDEN
from training_app.models import Run, Sweep
from training_app.services import runs as services

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def pattern(project, trainer, version, base):
    config = {name: value for name, value in knobs("lora", "quick").items() if name not in HIDDEN}
    small = {"epochs": 1, "rank": 4, "alpha": 8, "sample_answers": 0, "rehearsal_share": 0.0}
    return services.plan_run(
        actor=trainer,
        project=project,
        name="Pattern",
        version=version,
        base=base,
        method="lora",
        preset="quick",
        config={**config, **small},
    )


def start(client, run, **fields):
    return client.post(reverse("sweep_create", args=[run.pk]), {"manner": "grid", "budget": 4, **fields})


def test_a_grid_tries_every_combination_and_names_the_best(pattern, trainer, viewer, client_of):
    answer = start(client_of(trainer), pattern, learning_rate="0.0001, 0.02", rank="4, 4")
    sweep = Sweep.objects.get()
    assert answer.url == sweep.get_absolute_url()
    assert sweep.space == {"learning_rate": [0.0001, 0.02], "rank": [4]}
    runs = [trial.run for trial in sweep.trials.all()]
    assert [run.config["learning_rate"] for run in runs] == [0.0001, 0.02]
    assert all(run.config["alpha"] == 8 and run.job for run in runs)
    page = client_of(viewer).get(sweep.get_absolute_url()).content.decode()
    assert "Going on" in page and "Stop the sweep" not in page

    run_all("gpu")
    losses = {trial.values["learning_rate"]: trial.loss for trial in sweep.trials.all()}
    assert losses[0.02] < losses[0.0001]
    page = client_of(trainer).get(reverse("sweep_body", args=[sweep.pk])).content.decode()
    assert f"?like={runs[1].pk}" in page and "Done." in page
    assert "Swept:" in client_of(viewer).get(pattern.get_absolute_url()).content.decode()


def test_a_search_goes_on_until_its_budget_is_spent(pattern, trainer, client_of):
    start(client_of(trainer), pattern, manner="search", budget=3, learning_rate="0.0001, 0.05")
    sweep = Sweep.objects.get()
    assert [trial.values for trial in sweep.trials.all()] == [{"learning_rate": pattern.config["learning_rate"]}]
    run_all("gpu")
    tried = [trial.values["learning_rate"] for trial in sweep.trials.all()]
    assert len(set(tried)) == 3
    assert all(0.0001 <= rate <= 0.05 for rate in tried)
    assert all(trial.loss for trial in sweep.trials.all())


def test_a_stopped_sweep_starts_nothing_more(pattern, trainer, client_of):
    client = client_of(trainer)
    start(client, pattern, rank="2, 4, 8")
    sweep = Sweep.objects.get()
    client.post(reverse("sweep_stop", args=[sweep.pk]))
    assert {trial.run.state for trial in sweep.trials.all()} == {"cancelled"}
    again = client.post(reverse("sweep_stop", args=[sweep.pk]), follow=True).content.decode()
    assert "stopped already" in again


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "Give at least one knob several values."),
        ({"rank": "4"}, "The values make 1 runs; it must be 2 to 4"),
        ({"rank": "1, 2, 3, 4, 5"}, "The values make 5 runs"),
        ({"rank": "4, many"}, "Enter a whole number."),
        ({"learning_rate": "0.1, 5"}, "less than or equal to 0.1"),
    ],
)
def test_a_sweep_that_cannot_be_is_told_why(fields, sentence, pattern, trainer, client_of):
    answer = start(client_of(trainer), pattern, **fields)
    assert sentence in str(answer.context["form"].errors)
    assert Run.objects.count() == 1


def test_a_search_learns_from_what_was_tried():
    """Losses that are lowest at 0.003: later suggestions lie nearer to it than the first ones."""
    space, tried = {"learning_rate": [1e-5, 1e-1], "scheduler": ["cosine", "linear", "constant"]}, []
    for _ in range(24):
        values = searching.suggest(space, tried)
        distance = abs(math.log10(values["learning_rate"] / 0.003))
        tried.append(searching.Tried(values, distance + (values["scheduler"] != "cosine")))
    first, last = tried[:8], tried[-8:]
    assert sum(entry.loss for entry in last) < 0.7 * sum(entry.loss for entry in first)
    failed = [searching.Tried(tried[0].values, None), *tried[1:]]
    assert set(searching.suggest(space, failed)) == set(space)
    assert searching.is_range([2, 8]) and not searching.is_range([2, 4, 8]) and not searching.is_range([True, False])
