"""An Ollama that holds models, and SmolLM2 read back once from the very file that it serves."""

import shutil
from pathlib import Path

import pytest

from finetune_site.lib.files import sha256_of
from tests.engine.engine_process import run_engine
from tests.publishing.conftest import double, ollama_store  # noqa: F401
from tests.smollm2 import alone
from training_app.engine.bundled import find_gguf


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as Ollama keeps its models in, with SmolLM2's file."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "blobs").mkdir()
    shutil.copy(find_gguf(), folder / "blobs" / f"sha256-{sha256_of(find_gguf())}")
    return folder


@pytest.fixture(scope="session")
def read_back(store: Path, shared: Path) -> Path:
    """The model that the engine makes of that file; it takes half a minute, so one process does it."""
    with alone(shared, "read_back") as folder:
        if not (folder / "result.json").exists():
            fields = {"source": "gguf", "location": sha256_of(find_gguf()), "ollama_models": str(store)}
            made = run_engine(shared / "reads", {"task": "prepare", **fields, "out_dir": str(folder)})
            assert made.code == 0, made.log[-2000:]
    return folder
