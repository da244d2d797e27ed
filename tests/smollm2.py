"""The model that comes with the site, prepared and tuned once for all tests of one run: that takes minutes.

Loaded by `-p tests.smollm2` in pyproject.toml before Django is ready: what needs the site is imported where it is used.
"""

import fcntl
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from datasets_app.engine import extractive, seal
from datasets_app.engine.chunks import make
from datasets_app.engine.elements import Element
from datasets_app.engine.spec import Reading

VALUES = [
    ("weight", "731 kg"), ("oil type", "Lorvan 150"), ("part number", "BG-2056"), ("colour", "moss green"),
    ("supplier", "Norvald Works"), ("service interval", "1,430 hours"),
]  # fmt: skip
SECTION = ["The Brannick gearbox"]
KNOBS = {"epochs": 3, "learning_rate": 2e-3, "rehearsal_share": 0, "sample_answers": 0}


@contextmanager
def alone(folder: Path, name: str) -> Iterator[Path]:
    """The folder of that name while no other process makes it."""
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / name


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run see: what takes a minute is made by one of them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def smollm2(shared: Path) -> Path:
    """The bundled model, prepared."""
    from tests.engine.engine_process import run_engine

    with alone(shared, "smollm2") as folder:
        if not (folder / "result.json").exists():
            made = run_engine(shared / "prepare", {"task": "prepare", "source": "bundled", "out_dir": str(folder)})
            assert made.code == 0, made.log[-2000:]
    return folder


@pytest.fixture(scope="session")
def facts(shared: Path) -> dict[str, str]:
    """A sealed version of six facts in six wordings."""
    with alone(shared, "facts") as folder:
        folder.mkdir(exist_ok=True)
        path = folder / "version.parquet"
        return {"data_path": str(path), "data_sha256": _version(path)}


@pytest.fixture(scope="session")
def trained(smollm2: Path, facts: dict[str, str], shared: Path) -> Callable[..., Path]:
    """Trains SmolLM2, or another base, in one way, once; gives the run's folder."""

    from tests.engine.engine_process import run_engine

    def train(name: str, base: Path = smollm2, **knobs: Any) -> Path:
        with alone(shared, f"{name} on {base.name}") as folder:
            if not (folder / "run" / "result.json").exists():
                spec = {"task": "train", **facts, "base_dir": str(base), "run_dir": str(folder / "run")}
                finished = run_engine(folder, {**spec, "method": "lora", **KNOBS, **knobs})
                assert finished.code == 0, finished.log[-2000:]
            return folder / "run"

    return train


def _version(path: Path) -> str:
    """Six facts of a table in six wordings, one of each set apart, as the site makes and seals them."""
    cells = "".join(f"<tr><td>{label}</td><td>{value}</td></tr>" for label, value in VALUES)
    text = "\n".join(f"{label} | {value}" for label, value in VALUES)
    element = Element(0, "table", text, 1, None, SECTION, f"<table>{cells}</table>")
    [chunk] = make([element], Reading(passage_size=2000))
    made = list(extractive.rows_of(chunk, [element], "manual", 6, Counter()))
    rows = [
        {**row, "example_id": number, "text_id": number, "kind": "chat", "document": "manual", "section_key": "s"}
        for number, row in enumerate(made)
    ]
    splits = seal.assign_splits(rows, validation_share=0)
    sealed = [{**row, "split": split} for row, split in zip(rows, splits, strict=True)]
    digest = seal.write_parquet(sealed, path)
    assert pyarrow.parquet.read_table(path).num_rows == 36
    return digest
