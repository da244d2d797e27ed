"""Fixtures of the engine tests: a tiny model and a version, made once per session."""

from pathlib import Path
from typing import Any

import pytest

from tests.engine.tiny import make_rows, make_tiny_model, write_version


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def lesson_fields(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The fields that a preview and a training share, over 30 rows of which 24 are trained."""
    path = tmp_path_factory.mktemp("version") / "version.parquet"
    sha256 = write_version(path, make_rows(30, validation=3, recall=3))
    return {
        "data_path": str(path),
        "data_sha256": sha256,
        "base_dir": str(tiny_model),
        "base_name": "tiny",
        "method": "dora",
        "epochs": 3,
        "batch_rows": 6,
        "rank": 4,
        "alpha": 8,
        "dropout": 0.1,
        "learning_rate": 0.005,
        "threads": 1,
        "dtype": "float32",
        "rehearsal_share": 0,
        "checkpoint_every": 4,
    }
