"""The preview: what it counts and shows is what the training then does."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.engine.engine_process import run_engine
from tests.engine.tiny import make_rows, write_version


@pytest.fixture(scope="module")
def preview(lesson_fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("preview")
    finished = run_engine(folder, {"task": "preview", **lesson_fields, "out_dir": str(folder / "out")})
    assert finished.code == 0, finished.log
    assert [event["event"] for event in finished.events] == ["started", "done"]
    result: dict[str, Any] = json.loads((folder / "out" / "result.json").read_text())
    return result


def test_it_counts_rows_steps_and_tokens(preview: dict[str, Any]) -> None:
    assert preview["rows"] == {"train": 24, "validation": 3, "recall": 3}
    assert (preview["steps"], preview["steps_per_epoch"], preview["truncated_rows"]) == (12, 4, 0)
    assert 0 < preview["trained_tokens_per_epoch"] < preview["tokens_per_epoch"]


def test_it_shows_the_first_batch_as_the_model_sees_it(preview: dict[str, Any]) -> None:
    assert len(preview["first_batch"]) == preview["first_batch_rows"] == 6
    for row in preview["first_batch"]:
        text = "".join(piece for piece, _ in row)
        answer = "".join(piece for piece, trained in row if trained)
        assert text.startswith("<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nWhat is the size")
        assert answer.startswith("Part ") and answer.endswith(" mm wide.<|im_end|>")
        assert text.endswith(answer + "\n")
    assert preview["template_proof"].startswith("In 27 of 27 rows")


def test_it_estimates(preview: dict[str, Any]) -> None:
    # 2 layers: four attention products, three of the gated unit; rank 4; DoRA adds a length per output.
    shapes = [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)]
    assert preview["trainable_parameters"] == 2 * sum(4 * (wide + high) + high for wide, high in shapes)
    assert 100e6 < preview["memory_bytes"] < preview["memory_available_bytes"]
    assert 0 <= preview["padding_avoided"] < 0.5
    assert preview["kilowatt_hours"] >= 0 and "W" in preview["energy_how"]
    assert preview["seconds"] > 0 and "GFLOP/s" in preview["seconds_how"]


def test_it_refuses_what_the_training_refuses(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    rows = make_rows(3)
    rows[1]["messages"][1]["content"] = "  "
    path = tmp_path / "version.parquet"
    change = {"data_sha256": write_version(path, rows), "data_path": str(path)}
    finished = run_engine(tmp_path, {"task": "preview", **lesson_fields, **change, "out_dir": str(tmp_path)})
    assert finished.code == 2 and finished.refusal.startswith("Row 1 has no assistant answer")


def test_it_warns(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "version.parquet"
    change = {"data_sha256": write_version(path, make_rows(4)), "data_path": str(path), "max_length": 70}
    finished = run_engine(tmp_path, {"task": "preview", **lesson_fields, **change, "out_dir": str(tmp_path)})
    assert finished.code == 0, finished.refusal
    warnings = " ".join(json.loads((tmp_path / "result.json").read_text())["warnings"])
    assert "no validation rows" in warnings and "only 4 training rows" in warnings and "lose their end" in warnings


def test_rows_longer_than_the_model_reads_are_told(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    base = Path(shutil.copytree(lesson_fields["base_dir"], tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 70}))
    change = {"base_dir": str(base), "out_dir": str(tmp_path), "max_length": 4000}
    finished = run_engine(tmp_path, {"task": "preview", **lesson_fields, **change})
    assert finished.code == 0, finished.refusal
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["longest_row"] == 70
    assert "rows are longer than 70 tokens and lose their end. The base model reads no more" in result["warnings"][0]
