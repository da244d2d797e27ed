"""Public benchmarks: which may be run, and a real run of lm-eval on a task whose rows lie on this machine."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_site.lib.channel import InputError
from tests.engine.engine_process import run_engine
from training_app.engine.spec import BenchmarkSpec
from training_app.engine.suites import INSTALL, KNOWN, is_installed, own_tasks, runnable

needs_lm_eval = pytest.mark.skipif(not is_installed(), reason="lm-eval comes with the extra benchmarks")


def write_task(folder: Path, name: str = "parts_choice", rows: int = 12) -> Path:
    """A folder as operators fill it: one multiple-choice task, its rows beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"question": f"What is the size of part {n}?", "choices": ["21.5 mm", "3 kg"], "label": n % 2})
        for n in range(rows)
    ]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (folder / f"{name}.yaml").write_text(
        f"""task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder / "rows.jsonl"}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.5
"""
    )
    return folder


def test_names_come_from_the_list_or_the_operators_folder(tmp_path: Path) -> None:
    write_task(tmp_path)
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "suite.yml").write_text('group: "all_parts"\ntask:\n  - parts_choice\n')
    (tmp_path / "template").write_text("task: not_yaml\n")
    assert own_tasks(tmp_path) == ["all_parts", "parts_choice"]
    assert own_tasks("") == own_tasks(tmp_path / "nowhere") == []
    assert list(runnable(tmp_path)) == ["all_parts", "parts_choice", *KNOWN]
    places = {"base_dir": "b", "run_dir": "r", "out_dir": "o"}
    assert BenchmarkSpec(**places, tasks=("parts_choice",), tasks_dir=str(tmp_path))
    for name in ("parts_choice", "humaneval", "/etc/passwd", "../task.yaml"):
        with pytest.raises(InputError, match="tasks must be one of"):
            BenchmarkSpec(**places, tasks=("arc_easy", name))
    with pytest.raises(InputError, match="at least one"):
        BenchmarkSpec(**places, tasks=())


@pytest.mark.skipif(is_installed(), reason="lm-eval is installed")
def test_without_lm_eval_the_sentence_says_how_to_install_it(tmp_path: Path) -> None:
    fields = {"task": "benchmark", "base_dir": "b", "run_dir": "r", "out_dir": str(tmp_path), "tasks": ["arc_easy"]}
    finished = run_engine(tmp_path, fields)
    assert finished.code == 2 and finished.refusal == INSTALL


@pytest.fixture(scope="module")
def fields(lesson_fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A trained tiny model and an operator's folder."""
    folder = tmp_path_factory.mktemp("benchmarked")
    lesson = {**lesson_fields, "method": "lora", "epochs": 2}
    finished = run_engine(folder, {"task": "train", **lesson, "run_dir": str(folder / "run")})
    assert finished.code == 0, finished.log
    places = {"run_dir": str(folder / "run"), "tasks_dir": str(write_task(folder / "tasks"))}
    return {"task": "benchmark", "base_dir": lesson["base_dir"], **places, "method": "lora", "threads": 1}


@needs_lm_eval
@pytest.mark.slow
def test_base_and_tuned_are_measured_on_the_same_rows(fields: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished = run_engine(tmp_path, {**fields, "out_dir": str(out), "tasks": ["parts_choice"], "limit": 10})
    assert finished.code == 0, finished.log
    result = json.loads((out / "result.json").read_text())
    [(name, task)] = result["tasks"].items()
    assert (name, task["rows"], task["version"], task["reason"]) == ("parts_choice", 10, "1.5", "")
    figure = task["metrics"]["accuracy"]
    for side in ("base", "tuned"):
        assert 0 <= figure[side] <= 1
        # The standard error of a share: sqrt(p(1-p)/(n-1)).
        assert figure[f"{side}_error"] == pytest.approx((figure[side] * (1 - figure[side]) / 9) ** 0.5, abs=1e-5)
    assert figure["is_higher_better"] is True
    told = [(event["side"], event["done"], event["total"]) for event in finished.of("figures")]
    assert told == [("base", 1, 2), ("tuned", 2, 2)]

    lines = (out / "figures.jsonl").read_text().splitlines(keepends=True)
    (out / "figures.jsonl").write_text("".join(lines[:-1]) + '{"side": "tu')  # a kill while the tuned one was written
    (out / "result.json").unlink()
    again = run_engine(tmp_path, {**fields, "out_dir": str(out), "tasks": ["parts_choice"], "limit": 10})
    assert again.code == 0, again.log
    assert [event["side"] for event in again.of("figures")] == ["tuned"]
    assert json.loads((out / "result.json").read_text()) == result


@needs_lm_eval
@pytest.mark.slow
def test_a_task_whose_rows_are_not_here_is_told_and_the_others_are_measured(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_task(tmp_path / "tasks")
    broken = (folder / "parts_choice.yaml").read_text().replace("parts_choice", "broken").replace("rows.js", "gone.js")
    (folder / "broken.yaml").write_text(broken)
    asked = {**fields, "tasks_dir": str(folder), "tasks": ["broken", "parts_choice", "arc_easy"], "limit": 4}
    finished = run_engine(tmp_path, {**asked, "out_dir": str(tmp_path / "out")})
    assert finished.code == 0, finished.log
    tasks = json.loads((tmp_path / "out" / "result.json").read_text())["tasks"]
    assert tasks["parts_choice"]["rows"] == 4
    for name in ("broken", "arc_easy"):
        assert tasks[name]["metrics"] == {}
        assert tasks[name]["reason"].startswith(f"{name}: its rows are not on this machine and could not be fetched")
    alone = run_engine(tmp_path / "alone", {**asked, "tasks": ["arc_easy"], "out_dir": str(tmp_path / "alone")})
    assert alone.code == 2 and "not on this machine" in alone.refusal
