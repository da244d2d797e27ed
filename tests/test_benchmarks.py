"""The benchmarks run and print what they promise. Small and quick here: their figures say nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine.tiny import make_tiny_model

ROOT = Path(__file__).resolve().parents[1]


def last_line(name: str, *arguments: str) -> dict[str, Any]:
    """The JSON object with which a benchmark ends."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("FINETUNE_", "DATABASE_"))}
    done = subprocess.run(
        [sys.executable, f"benchmarks/{name}", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_training(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    figures = last_line("training.py", "--base", str(base), "--repetitions", "1", "--steps", "3", "--lessons", "varied")
    for lesson in ("varied",):
        assert figures[lesson]["engine_over_trainer"] > 0
        assert figures[lesson]["engine_over_trl"] > 0
        losses = figures[lesson]["mean_loss"]
        assert losses["engine"] == pytest.approx(losses["trainer"], rel=0.01)  # else they did not do the same work
    assert figures["matmul_share"] > 0
    assert figures["portal_overhead"] < 1


def test_training_gpu() -> None:
    options = ["--shapes", "tiny", "--arms", "lora", "qlora", "trainer", "--repetitions", "1", "--steps", "3"]
    figures = last_line("training_gpu.py", *options)["tiny"]
    losses = figures["mean_loss"]
    assert losses["lora"] == pytest.approx(losses["trainer"], rel=0.01)
    assert losses["qlora"] == pytest.approx(losses["lora"], rel=0.05)
    assert set(figures["speed_of_lora_over"]) == {"lora", "qlora", "trainer"}
    assert 0 < figures["mfu_of_lora"] < 1


def test_live() -> None:
    figures = last_line("live.py", "--viewers", "3", "5", "--updates", "4")
    for viewers in (3, 5):
        row = figures[f"viewers_{viewers}"]
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["delivered"] == 1
    assert figures["renders_per_update"] == 1


def test_estimates(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    figures = last_line("estimates.py", "--base", str(base), "--steps", "12", "--only", "lora", "full")
    assert figures["configurations"] == 2
    assert figures["memory_error_median"] >= 0
    assert figures["time_error_at_10_median"] >= 0


def test_label_studio() -> None:
    figures = last_line("label_studio.py", "--examples", "30", "--decisions", "10")
    assert (figures["tasks"], figures["decisions"]) == ([10, 30], 10)
    assert figures["push_over_raw"] > 0 and figures["pull_500_over_raw"] > 0
    assert figures["pull_among_many_over_few"] > 0


def test_pages() -> None:
    figures = last_line(
        "pages.py", "--examples", "400", "--documents", "60", "--runs", "6", "--points", "50",
        "--users", "3", "--seconds", "3", "--think", "0.3",
    )  # fmt: skip
    for name, row in figures["pages"].items():
        assert row["queries"][1] <= row["queries"][0], f"{name} asks more where there is more"
        assert row["alone_ms"] > 0
    assert 0 < figures["p50_ms"] <= figures["p95_ms"]


def test_generation() -> None:
    figures = last_line("generation.py", "--passages", "1", "--repetitions", "1")
    assert figures["requests"] >= 1 and figures["start_seconds"] > 0
    assert figures["portal_tokens_per_second"] > 0 and figures["portal_over_script"] > 0
