"""The real thing, small: SmolLM2 learns a handful of invented facts and answers them in words it was not trained on."""

import json

import pytest

from tests.engine.engine_process import run_engine


@pytest.mark.slow
def test_smollm2_learns_facts_and_answers_them_in_other_words(smollm2, facts, trained, tmp_path):
    run_dir = trained("lora")
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines() if line]
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert losses[-1] < 0.2 * losses[0]
    spec = {"task": "evaluate", **facts, "base_dir": str(smollm2), "method": "lora", "run_dir": str(run_dir)}
    out = tmp_path / "evaluation"
    judged = run_engine(tmp_path / "ask", {**spec, "splits": ["recall"], "out_dir": str(out)})
    assert judged.code == 0, judged.log[-2000:]
    recall = json.loads((out / "result.json").read_text())["sets"]["recall"]
    assert recall["rows"] == 6
    assert recall["base_right"] == 0
    assert recall["tuned_right"] >= 3
