"""Evaluation: how answers are judged, and a whole evaluation of a trained tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.engine_process import run_engine
from training_app.engine.scoring import contains, is_exact, is_right, rouge_l, token_f1


@pytest.mark.parametrize(
    ("answer", "key", "is_in"),
    [
        ("The pressure is 4.2 bar.", "4.2 bar", True),
        ("The pressure is 4.2bar", "4.2 bar", True),
        ("It is 4.25 bar", "4.2 bar", False),
        ("It is 14.2 bar", "4.2 bar", False),
        ("It is 4.2 litres", "4.2 bar", False),
        ("four or 14", "4", False),
        ("Between 4 and 5", "4", True),
        ("part kx-1234!", "KX-1234", True),
        ("Paris is the capital", "paris", True),
        ("Parisian", "Paris", False),
        ("anything", "", False),
    ],
)
def test_a_key_must_stand_in_the_answer_as_whole_words(answer: str, key: str, is_in: bool) -> None:
    assert contains(answer, key) is is_in


def test_without_a_key_likeness_decides() -> None:
    reference = "Open the valve, then start the pump."
    assert is_right("First open the valve, then start the pump.", reference, "")
    assert not is_right("Call the service.", reference, "")
    assert token_f1(reference, reference) == rouge_l(reference, reference) == 1.0
    assert token_f1("pump the start then valve the open", reference) == 1.0
    assert rouge_l("pump the start then valve the open", reference) < 0.5
    assert rouge_l("", reference) == token_f1("", reference) == 0.0


@pytest.mark.parametrize(
    ("answer", "reference", "is_same"),
    [
        ("The  Part 3 weighs\n21 kg!", "part 3 weighs 21 kg.", True),
        ("a valve, an hour", "valve hour", True),
        ("theatre", "atre", False),
        ("It is 4.2 bar", "It is 42 bar", False),
        ("-5 °C", "5 °C", False),
        ("- 5 °C", "5 °C.", True),
        ("“KX-12”", "kx12", True),
        ("21 kg, I think", "21 kg", False),
        ("", "21 kg", False),
    ],
)
def test_exact_match_overlooks_case_punctuation_articles_and_space(answer: str, reference: str, is_same: bool) -> None:
    assert is_exact(answer, ["another answer", reference]) is is_same


@pytest.fixture(scope="module")
def run_folder(lesson_fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    fields = {**lesson_fields, "method": "lora", "epochs": 1}
    finished = run_engine(folder, {"task": "train", **fields, "run_dir": str(folder / "run")})
    assert finished.code == 0, finished.log
    return folder / "run"


def test_base_and_tuned_answer_every_question(run_folder: Path, lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    fields = {name: lesson_fields[name] for name in ("data_path", "data_sha256", "base_dir", "threads")}
    places = {"run_dir": str(run_folder), "out_dir": str(tmp_path / "out"), "method": "lora"}
    finished = run_engine(tmp_path, {"task": "evaluate", **fields, **places, "max_new_tokens": 6, "batch_rows": 4})
    assert finished.code == 0, finished.log
    rows = finished.of("row")
    assert [row["index"] for row in rows] == list(range(16))
    assert [row["set"] for row in rows] == ["recall"] * 3 + ["validation"] * 3 + ["general"] * 10
    assert rows[0]["question"] == "What is the size of part 3?" and rows[0]["answer_key"] == "21.5 mm"
    assert all(row["base_score"] in (0.0, 1.0) and 0 <= row["tuned_f1"] <= 1 for row in rows)
    assert [row["tuned_exact"] for row in rows] == [
        is_exact(row["tuned_answer"], [row["reference"], *row["answer_key"].split(" | ")]) for row in rows
    ]
    assert finished.of("progress")[-1]["done"] == finished.of("progress")[-1]["total"] == 32
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert {name: entry["rows"] for name, entry in result["sets"].items()} == {
        "recall": 3,
        "validation": 3,
        "general": 10,
    }
    recall = [row for row in rows if row["set"] == "recall"]
    assert result["sets"]["recall"]["tuned_exact"] == sum(row["tuned_exact"] for row in recall)
    assert result["tuned_validation_loss"] != result["base_validation_loss"] > 0


def test_a_stopped_evaluation_goes_on_and_ends_as_one_that_was_not(
    run_folder: Path, lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    fields = {name: lesson_fields[name] for name in ("data_path", "data_sha256", "base_dir", "threads")}
    spec = {"task": "evaluate", **fields, "run_dir": str(run_folder), "method": "lora", "max_new_tokens": 6}
    spec |= {"batch_rows": 4}
    whole = run_engine(tmp_path / "whole", {**spec, "out_dir": str(tmp_path / "whole/out")})
    assert whole.code == 0, whole.log
    out = tmp_path / "out"
    out.mkdir()
    lines = (tmp_path / "whole/out/answers.jsonl").read_text().splitlines()
    # As a kill leaves it in the midst of the tuned model's second batch: the base is done, a line is torn.
    lines[0] = lines[0].replace(str(tmp_path / "whole/out"), str(out))
    kept = next(number for number, line in enumerate(lines) if '"figures"' in line) + 2
    (out / "answers.jsonl").write_text("\n".join([*lines[:kept], lines[kept][:20]]))
    again = run_engine(tmp_path / "again", {**spec, "out_dir": str(out)})
    assert again.code == 0, again.log
    assert again.of("started")[0]["done"] == 16 + 4
    assert [event["done"] for event in again.of("progress")] == [24, 28, 32]
    without_time = [[{**row, "at": 0} for row in finished.of("row")] for finished in (whole, again)]
    assert without_time[0] == without_time[1]
    assert (out / "result.json").read_bytes() == (tmp_path / "whole/out/result.json").read_bytes()


def test_answers_to_other_questions_are_not_taken_over(
    run_folder: Path, lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    fields = {name: lesson_fields[name] for name in ("data_path", "data_sha256", "base_dir", "threads")}
    places = {"run_dir": str(run_folder), "out_dir": str(tmp_path / "out"), "method": "lora"}
    for number, most in enumerate((1, 2)):
        spec = {"task": "evaluate", **fields, **places, "max_new_tokens": 2, "max_rows": most, "general": False}
        finished = run_engine(tmp_path / str(number), spec)
        assert finished.code == 0, finished.log
        assert finished.of("started")[0]["done"] == 0
    assert len(finished.of("row")) == 4


def test_a_run_without_a_model_is_refused(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    fields = {name: lesson_fields[name] for name in ("data_path", "data_sha256", "base_dir")}
    places = {"run_dir": str(tmp_path), "out_dir": str(tmp_path / "out")}
    finished = run_engine(tmp_path, {"task": "evaluate", **fields, **places})
    assert finished.code == 2 and "has no trained model yet" in finished.refusal
