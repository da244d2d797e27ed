"""SmolLM2 tuned on six invented facts, and an Ollama to publish it to: the double, or a real one where OLLAMA_URL says.

Training it takes a minute, so it is done once. Most tests publish a small model instead, which has SmolLM2's tokenizer
and learnt the same facts: every step is as real, and seconds long.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.conftest import browser_context_args, browser_type_launch_args, context, shoot, workers  # noqa: F401
from tests.engine.engine_process import run_engine
from tests.ollama_server import OllamaServer, ollama_server
from tests.smollm2 import alone

GOOD = {"recall": (6, 0, 5, 0), "general": (10, 8, 8, 7)}


@pytest.fixture(scope="session")
def small(smollm2: Path, facts: dict[str, str], shared: Path) -> tuple[Path, Path]:
    """A base of three million weights, prepared, and the run folder of its training."""
    with alone(shared, "small") as folder:
        base, run = folder / "base", folder / "run"
        if not (run / "result.json").exists():
            spec = {"task": "prepare", "source": "folder", "location": str(make_small(smollm2, folder / "made"))}
            made = run_engine(folder / "prepare", {**spec, "out_dir": str(base)})
            assert made.code == 0, made.log[-2000:]
            spec = {"task": "train", **facts, "base_dir": str(base), "run_dir": str(run), "method": "full"}
            knobs = {"epochs": 22, "learning_rate": 5e-3, "batch_rows": 4, "rehearsal_share": 0, "sample_answers": 0}
            finished = run_engine(folder / "train", {**spec, **knobs})
            assert finished.code == 0, finished.log[-2000:]
    return base, run


def make_small(smollm2: Path, folder: Path) -> Path:
    """A model of two layers that reads as SmolLM2 does, and knows nothing yet."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=8192, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ollama_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    with ollama_server(tmp_path_factory.mktemp("ollama")) as server:
        yield server


@pytest.fixture
def double(ollama_store: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> OllamaServer:
    """The double, well-behaved and without models; what was uploaded stays, as it does in a real one."""
    from tests.ollama_server import Behaviour
    from training_app import serving

    monkeypatch.setattr(serving, "LOOK_SECONDS", 60.0)  # it reads a model's file on a machine that may be busy
    ollama_store.behave = Behaviour()
    ollama_store.models.clear()
    ollama_store.asked.clear()
    ollama_store.uploads.clear()
    return ollama_store


@pytest.fixture
def ollama_url(request: pytest.FixtureRequest) -> str:
    """A real Ollama where OLLAMA_URL names one, else the double."""
    return os.environ.get("OLLAMA_URL") or str(request.getfixturevalue("double").base_url)


def registered(name: str, folder: Path):
    """A base model that lies ready in a folder."""
    from training_app.models import BaseModel

    fields = {"title": name, "source": "bundled", "licence": "Apache-2.0"}
    made = BaseModel.objects.get_or_create(name=name, defaults=fields)[0]
    made.folder.parent.mkdir(parents=True, exist_ok=True)
    if made.folder.is_symlink():
        made.folder.unlink()
    made.folder.symlink_to(folder)
    return made


@pytest.fixture
def base(db, small):
    return registered("small:5m", small[0])


@pytest.fixture
def version(project, trainer, facts):
    """The sealed facts as the site knows them."""
    from datasets_app.models import DatasetVersion
    from datasets_app.services import datasets

    dataset = datasets.create_dataset(actor=trainer, project=project, name="Gearbox")
    made = DatasetVersion(dataset=dataset, number=1, created_by=trainer, sha256=facts["data_sha256"])
    made.counts = {"train": 30, "recall": 6}
    made.sealed_at = dataset.created_at
    made.save()
    made.file_path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(facts["data_path"], made.file_path)
    return made


def finished_run(project, version, base, person, folder, name="First", method="full"):
    """A run that ended well, with the folder that its training left."""
    from finetune_site.jobs.models import Job, JobState
    from training_app.models import Run

    job = Job.objects.create(
        project=project, owner=person, kind="training.train", queue="gpu", label=name, state=JobState.SUCCEEDED
    )
    run = Run.objects.create(
        project=project, name=name, version=version, base=base, method=method, preset="balanced",
        config={"max_length": 1024}, created_by=person, job=job,
    )  # fmt: skip
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, run.folder)
    return run


@pytest.fixture
def run(project, version, base, small, trainer):
    made = finished_run(project, version, base, trainer, small[1])
    judge(made, trainer, GOOD)
    return made


@pytest.fixture
def real_run(project, version, smollm2, trainer, trained):
    """SmolLM2 with an adapter."""
    base = registered("smollm2:135m", smollm2)
    made = finished_run(project, version, base, trainer, trained("lora"), method="lora")
    judge(made, trainer, GOOD)
    return made


def judge(run, person, sums):
    """An evaluation with these sums: rows, right answers of the base, of the tuned model, and those kept."""
    from training_app.models import Evaluation

    names = ("rows", "base_right", "tuned_right", "kept_right")
    sets = {name: dict(zip(names, values, strict=True)) for name, values in sums.items()}
    return Evaluation.objects.create(run=run, created_by=person, summary={"sets": sets})


@pytest.fixture
def ollama(double):
    """The double, registered by an operator who lets people publish to it."""
    from datasets_app.models import ModelServer

    return ModelServer.objects.create(
        name="Ollama", provider="ollama", base_url=double.base_url, offered="", takes_models=True
    )
