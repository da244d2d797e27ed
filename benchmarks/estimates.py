"""How far the estimates before a run lie from what the run then takes: memory, and time after ten steps.

Each configuration is looked at and then trained for some steps as the portal does it, one process after the other. The
time error is that of what the tenth step tells to be left. Run alone: `.venv/bin/python benchmarks/estimates.py
[--steps 30] [--base FOLDER] [--only NAME ...]`. Takes some twenty minutes with the bundled model.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TOLD_AT = 10
SHORT, LONG = (4, 60), (120, 260)  # words of an answer
CONFIGURATIONS: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "lora": (SHORT, {"method": "lora"}),
    "dora": (SHORT, {"method": "dora"}),
    "dora, float32": (SHORT, {"method": "dora", "dtype": "float32"}),
    "lora, rank 128": (SHORT, {"method": "lora", "rank": 128, "alpha": 256}),
    "lora, long rows": (LONG, {"method": "lora"}),
    "lora, long rows, checkpointing": (LONG, {"method": "lora", "gradient_checkpointing": True}),
    "lora, long rows, 512 tokens at once": (LONG, {"method": "lora", "micro_batch_tokens": 512}),
    "dora, attention only": (SHORT, {"method": "dora", "target_modules": "q_proj,k_proj,v_proj,o_proj"}),
    "oft": (SHORT, {"method": "oft", "rank": 32}),
    "qlora": (SHORT, {"method": "lora", "quantization": "4bit"}),
    "full": (SHORT, {"method": "full", "learning_rate": 1e-4}),
    "full, long rows": (LONG, {"method": "full", "learning_rate": 1e-4}),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--base", type=Path, help="a base model's folder instead of the bundled model")
    parser.add_argument("--only", nargs="*", default=list(CONFIGURATIONS), choices=list(CONFIGURATIONS))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as place:
        folder = Path(place)
        base = options.base or prepare_base(folder)
        for words in (SHORT, LONG):
            make_version(version_path(folder, words), 8 * options.steps, words)
        print(f"{'configuration':36} {'expected':>9} {'measured':>9} {'memory':>7} {'time':>7} {'time at 10':>10}")
        for number, name in enumerate(options.only):
            rows.append(measure(name, folder / str(number), folder, base, options.steps))
            row = rows[-1]
            print(
                f"{name:36} {row['expected_gb']:7.2f}GB {row['measured_gb']:7.2f}GB {row['memory_error']:+7.0%} "
                f"{row['time_error']:+7.0%} {row['time_error_at_10']:+10.0%}",
                flush=True,
            )
    memory = [row["memory_error"] for row in rows]
    print(
        json.dumps(
            {
                "memory_error_median": round(statistics.median(map(abs, memory)), 3),
                "memory_error_lowest": round(min(memory), 3),
                "time_error_median": round(statistics.median(abs(row["time_error"]) for row in rows), 3),
                "time_error_at_10_median": round(statistics.median(abs(row["time_error_at_10"]) for row in rows), 3),
                "configurations": len(rows),
            }
        )
    )


def measure(name: str, work: Path, folder: Path, base: Path, steps: int) -> dict[str, float]:
    """One configuration: what the preview says, what the training takes."""
    words, change = CONFIGURATIONS[name]
    work.mkdir()
    fields = {
        "data_path": str(version_path(folder, words)),
        "data_sha256": "",
        "base_dir": str(base),
        "epochs": 1,
        "batch_rows": 8,
        "scheduler": "constant",
        "rehearsal_share": 0.0,
        **change,
    }
    run_engine(work, {"task": "preview", **fields, "out_dir": str(work / "preview")})
    expected = json.loads((work / "preview" / "result.json").read_text(encoding="utf-8"))
    events = run_engine(work, {"task": "train", **fields, "run_dir": str(work / "run")})
    result = json.loads((work / "run" / "result.json").read_text(encoding="utf-8"))
    told = {event["step"]: event for event in events if event["event"] == "step"}
    at = min(TOLD_AT, steps - 1)
    left = told[steps]["at"] - told[at]["at"]
    return {
        "expected_gb": expected["memory_bytes"] / 1e9,
        "measured_gb": result["peak_memory_bytes"] / 1e9,
        "memory_error": expected["memory_bytes"] / result["peak_memory_bytes"] - 1,
        "time_error": expected["seconds"] / result["seconds"] - 1,
        "time_error_at_10": told[at]["seconds_left"] / max(left, 1e-9) - 1,
    }


def run_engine(work: Path, fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The engine as a program; its events."""
    path = work / "spec.json"
    path.write_text(json.dumps(fields), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "training_app.engine", str(path)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stdout[-500:] + done.stderr[-2000:])
    return [json.loads(line) for line in done.stdout.splitlines()]


def prepare_base(folder: Path) -> Path:
    """The bundled model, converted as task `prepare` does."""
    from training_app.engine.bundled import convert

    base = folder / "base"
    base.mkdir()
    convert(base)
    return base


def version_path(folder: Path, words: tuple[int, int]) -> Path:
    return folder / f"version-{words[1]}.parquet"


def make_version(path: Path, rows: int, words: tuple[int, int]) -> None:
    """Question and answer rows whose answers hold between `words[0]` and `words[1]` words."""
    import pyarrow
    import pyarrow.parquet

    source = random.Random(7)
    vocabulary = Path(__file__).read_text(encoding="utf-8").split()
    made = []
    for number in range(rows):
        answer = " ".join(source.choice(vocabulary) for _ in range(source.randint(*words)))
        messages = [
            {"role": "user", "content": f"What stands in entry {number}?"},
            {"role": "assistant", "content": answer},
        ]
        made.append({"example_id": number, "split": "train", "kind": "chat", "messages": messages, "answer_key": ""})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), path)


if __name__ == "__main__":
    main()
