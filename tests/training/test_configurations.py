"""A run's configuration leaves as YAML and comes back into the form of a new run."""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from training_app import configurations
from training_app.engine.spec import knobs
from training_app.forms import HIDDEN
from training_app.models import BaseModel, Run

pytestmark = pytest.mark.django_db


@pytest.fixture
def run(project, trainer, version):
    config = {name: value for name, value in knobs("lora", "quick").items() if name not in HIDDEN}
    return Run.objects.create(
        project=project,
        name="First",
        version=version,
        base=BaseModel.objects.first(),
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
