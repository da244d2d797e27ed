"""The real thing, small: SmolLM2 learns a handful of invented facts and answers them in words it was not trained on."""

import json
from collections import Counter

import pyarrow.parquet
import pytest

from datasets_app.engine import extractive, seal
from datasets_app.engine.chunks import make
from datasets_app.engine.elements import Element
from datasets_app.engine.spec import Reading
from tests.engine.engine_process import run_engine

VALUES = [
    ("weight", "731 kg"), ("oil type", "Lorvan 150"), ("part number", "BG-2056"), ("colour", "moss green"),
    ("supplier", "Norvald Works"), ("service interval", "1,430 hours"),
]  # fmt: skip
SECTION = ["The Brannick gearbox"]


def version(path):
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


@pytest.mark.slow
def test_smollm2_learns_facts_and_answers_them_in_other_words(tmp_path):
    base, run_dir = tmp_path / "base", tmp_path / "run"
    made = run_engine(tmp_path / "prepare", {"task": "prepare", "source": "bundled", "out_dir": str(base)})
    assert made.code == 0, made.log[-2000:]
    data = {"data_path": str(tmp_path / "v.parquet"), "data_sha256": version(tmp_path / "v.parquet")}
    shared = {**data, "base_dir": str(base), "method": "dora", "run_dir": str(run_dir)}
    trained = run_engine(tmp_path / "train", {"task": "train", **shared, "epochs": 8, "learning_rate": 2e-3})
    assert trained.code == 0, trained.log[-2000:]
    losses = [event["loss"] for event in trained.of("step")]
    assert losses[-1] < 0.2 * losses[0]
    out = tmp_path / "evaluation"
    judged = run_engine(tmp_path / "ask", {"task": "evaluate", **shared, "splits": ["recall"], "out_dir": str(out)})
    assert judged.code == 0, judged.log[-2000:]
    recall = json.loads((out / "result.json").read_text())["sets"]["recall"]
    assert recall["rows"] == 6
    assert recall["base_right"] == 0
    assert recall["tuned_right"] >= 3
