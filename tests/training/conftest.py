"""A tiny real model and a sealed version, so that every job of this app runs for real in seconds."""

from pathlib import Path

import pytest

from tests.engine.tiny import make_tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def base(db, tiny_folder, settings):
    """The tiny model as a base that operators registered."""
    from training_app.models import BaseModel

    settings.ENGINE_THREADS = 1
    return BaseModel.objects.create(name="tiny:1", title="Tiny", source="folder", location=str(tiny_folder))


@pytest.fixture
def version(project, trainer):
    """Twelve facts in four wordings, approved and sealed by the real job."""
    from datasets_app.models import DatasetVersion
    from datasets_app.services import datasets, examples
    from tests.factories import run_all

    dataset = datasets.create_dataset(actor=trainer, project=project, name="Facts")
    for fact in range(12):
        for wording in range(4):
            content = {
                "messages": [
                    {"role": "user", "content": f"Question {wording} about part {fact}?"},
                    {"role": "assistant", "content": f"Part {fact} weighs {fact * 7} kg."},
                ]
            }
            example = examples.write_example(actor=trainer, dataset=dataset, content=content)
            example.fact, example.wording, example.answer_key = f"f{fact}", f"w{wording}", f"{fact * 7} kg"
            example.save()
    examples.judge_all(actor=trainer, dataset=dataset, examples=dataset.examples.all(), verdict="approved")
    made = datasets.seal_version(actor=trainer, dataset=dataset)
    run_all()
    return DatasetVersion.objects.get(pk=made.pk)
