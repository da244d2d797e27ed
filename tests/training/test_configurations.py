"""A run's configuration leaves as YAML and comes back into the form of a new run."""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from training_app import configurations
from training_app.engine.spec import knobs
from training_app.forms.runs import HIDDEN
from training_app.models import BaseModel, Run

pytestmark = pytest.mark.django_db


@pytest.fixture
def run(project, trainer, version, bundled):
    usual = knobs("lora", "quick", rows=version.counts["train"])
    config = {name: value for name, value in usual.items() if name not in HIDDEN}
    return Run.objects.create(
        project=project,
        name="First",
        version=version,
        base=bundled,
        method="lora",
        config={**config, "rank": 64, "rslora": True},
        preset="quick",
        created_by=trainer,
    )


def offer(client, project, text: str):
    file = SimpleUploadedFile("mine.yaml", text.encode())
    return client.post(reverse("run_create", args=[project.pk]), {"configuration": file})


def test_what_leaves_comes_back(run, project, trainer, viewer, client_of):
    text = client_of(viewer).get(reverse("run_config", args=[run.pk])).content.decode()
    found = configurations.load(text)
    assert (found.method, found.preset, found.knobs) == ("lora", "quick", {"rank": 64, "rslora": True})
    page = offer(client_of(trainer), project, text)
    form = page.context["form"]
    assert (form["method"].value(), form["preset"].value(), form["rank"].value()) == ("lora", "quick", 64)
    assert b"Filled in from mine.yaml" in page.content
    assert Run.objects.count() == 1


def test_a_run_like_another_starts_from_its_choices(run, project, trainer, client_of):
    page = client_of(trainer).get(f"{reverse('run_create', args=[project.pk])}?like={run.pk}")
    form = page.context["form"]
    assert (form["version"].value(), form["rank"].value(), form["rslora"].value()) == (run.version_id, 64, True)
    assert b'<option value="True" selected>yes</option>' in page.content


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("method: [", "is no YAML (line 1)"),
        ("knobs: {seed: " + "1" * 5000 + "}", "is no YAML"),
        ("knobs: {tags: 2001-99-99}", "is no YAML"),
        ("knobs: " + "[" * 3000, "lists and mappings in one another"),
        ("a: &a [x, x]\nknobs: {seed: [*a, *a]}", "points at another part of itself"),
        ("knobs: {seed: [1, 2]}", "“seed” must be one value"),
        ("- a\n- b", "must hold method, preset and knobs"),
        ("method: magic", "The method &#x27;magic&#x27; is not known"),
        ("preset: [quick]", "The preset [&#x27;quick&#x27;] is not known"),
        ("knobs: {warp: 9}", "knobs that are not known: warp"),
        ("knobs: !!python/object/apply:os.system ['true']", "is no YAML"),
        ("", "must hold method, preset and knobs"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(text, sentence, project, trainer, version, client_of):
    page = offer(client_of(trainer), project, text)
    assert page.status_code == 200
    assert sentence in page.content.decode()


def test_values_out_of_bounds_are_refused_by_the_form(run, project, trainer, version, client_of):
    text = configurations.dump(run).replace("rank: 64", "rank: 9999")
    assert configurations.load(text).knobs["rank"] == 9999
    form = offer(client_of(trainer), project, text).context["form"]
    typed = {"name": "N", "version": version.pk, "base": run.base.pk, "method": "lora", "preset": "quick"}
    answer = client_of(trainer).post(reverse("run_create", args=[project.pk]), {**typed, "rank": form["rank"].value()})
    assert "1024" in str(answer.context["form"].errors["rank"])


def test_a_preset_is_scaled_by_base_and_version(run, project, trainer, client_of, version):
    large = BaseModel.objects.create(name="grown:7b", title="Grown", source="hub", location="owner/grown-7b")
    asked = {"version": version.pk, "base": large.pk, "method": "lora", "objective": "supervised", "preset": "quick"}
    url = reverse("run_presets", args=[project.pk])
    page = client_of(trainer).get(url, {**asked, "rank": 8, "epochs": 2}).content.decode()
    assert page.count("2e-04") == 3 and "Rank: 8" in page and "instead of 16" in page
    assert "Epochs" not in page  # two passes are what the preset gives
    small = client_of(trainer).get(url, {**asked, "base": run.base.pk}).content.decode()
    assert small.count("1e-03") == 3 and "Nothing differs" in small
    run.base = large
    assert run.differing["learning_rate"] == (2e-4, 1e-3)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("smollm2:135m", 135e6), ("llama3.1:8b", 8.03e9), ("ours:0.5b-instruct", 0.5e9), ("mine", 0)],
)
def test_a_base_models_size_is_known_or_stands_in_its_name(name, parameters):
    assert BaseModel(name=name).parameters == parameters
    assert BaseModel(name=name, facts={"parameters": 7}).parameters == 7
