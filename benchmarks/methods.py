"""What each method makes of the sample manual: score against its base, time, peak memory, tokens a second.

The manual is parsed, its most certain facts become questions, one wording of each is set apart; then each method learns
the same version under its preset and answers what was set apart. Run alone: `.venv/bin/python benchmarks/methods.py
[--preset balanced] [--facts 49] [--only NAME ...]`. Takes some eight minutes a method on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
MANUAL = ROOT / "datasets_app" / "samples" / "kestrel-40-manual.pdf"
METHODS: dict[str, dict[str, Any]] = {
    "DoRA": {"method": "dora"},
    "LoRA": {"method": "lora"},
    "rsLoRA": {"method": "lora", "rslora": True, "alpha": 8},  # the same scale at rank 16: 8 / √16 = 32 / 16
    "full": {"method": "full"},
    "PiSSA": {"method": "lora", "pissa": True},
    "OFT": {"method": "oft", "rank": 32},
    "QLoRA, 4 bit": {"method": "lora", "quantization": "4bit"},
}


def main() -> None:
    from training_app.engine.spec import PRESETS

    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="balanced", choices=list(PRESETS))
    parser.add_argument("--facts", type=int, default=49)
    parser.add_argument("--steps", type=int, default=0, help="stop each training after so many steps")
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as place:
        folder = Path(place)
        data = make_version(folder, options.facts)
        base = folder / "base"
        run_engine(folder, "training_app.engine", {"task": "prepare", "source": "bundled", "out_dir": str(base)})
        print(f"{'method':14} {'recall':>10} {'base':>5} {'general kept':>13} {'time':>7} {'peak':>8} {'tokens/s':>9}")
        for number, name in enumerate(options.only):
            shared = {**data, "base_dir": str(base), "run_dir": str(folder / f"run{number}")}
            rows[name] = row = measure(folder, shared, METHODS[name], options.preset, options.steps)
            print(
                f"{name:14} {row['recall']:4} of {row['asked']:2} {row['base_recall']:5} "
                f"{row['general_kept']:5} of {row['general_base']:4} {row['seconds'] / 60:5.1f}min "
                f"{row['peak_gb']:6.2f}GB {row['tokens_per_second']:9.0f}",
                flush=True,
            )
    print(json.dumps(rows))


def measure(folder: Path, shared: dict[str, Any], change: dict[str, Any], preset: str, steps: int) -> dict[str, Any]:
    """Train and ask; what people compare."""
    from training_app.engine.spec import knobs

    config = {**knobs(change["method"], preset), **change, "max_steps": steps}
    run_engine(folder, "training_app.engine", {"task": "train", **shared, **config})
    result = json.loads((Path(shared["run_dir"]) / "result.json").read_text(encoding="utf-8"))
    asked = {"task": "evaluate", **shared, "method": change["method"], "splits": ["recall"]}
    run_engine(folder, "training_app.engine", {**asked, "out_dir": str(folder / "judged")})
    sets = json.loads((folder / "judged" / "result.json").read_text(encoding="utf-8"))["sets"]
    return {
        "recall": round(sets["recall"]["tuned_right"]),
        "base_recall": round(sets["recall"]["base_right"]),
        "asked": sets["recall"]["rows"],
        "general_kept": round(sets["general"]["kept_right"]),
        "general_base": round(sets["general"]["base_right"]),
        "seconds": result["seconds"],
        "peak_gb": round(result["peak_memory_bytes"] / 1e9, 2),
        "tokens_per_second": result["tokens_per_second"],
    }


def make_version(folder: Path, facts: int) -> dict[str, str]:
    """The sealed rows of so many facts that have a key, in six wordings each."""
    from datasets_app.engine import seal

    parsed, made = folder / "parsed", folder / "made"
    spec = {"input_path": str(MANUAL), "filename": MANUAL.name, "out_dir": str(parsed)}
    run_engine(folder, "datasets_app.engine", spec, "parse")
    source = {
        "id": 1,
        "name": MANUAL.name,
        "elements_path": str(parsed / "elements.jsonl"),
        "chunks_path": str(parsed / "chunks.jsonl"),
    }
    run_engine(folder, "datasets_app.engine", {"documents": [source], "out_dir": str(made)}, "generate")
    lines = (made / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    kept = list(dict.fromkeys(row["fact"] for row in found if row["answer_key"]))[:facts]
    rows = [
        {**row, "example_id": number, "text_id": number, "document": MANUAL.name, "section": " > ".join(row["section"])}
        for number, row in enumerate(row for row in found if row["fact"] in kept)
    ]
    splits = seal.assign_splits(rows, validation_share=0.1)
    path = folder / "version.parquet"
    digest = seal.write_parquet([{**row, "split": split} for row, split in zip(rows, splits, strict=True)], path)
    return {"data_path": str(path), "data_sha256": digest}


def run_engine(folder: Path, module: str, fields: dict[str, Any], *words: str) -> None:
    """An engine as a program."""
    path = folder / "spec.json"
    path.write_text(json.dumps(fields), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", module, *words, str(path)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stdout[-500:] + done.stderr[-2000:])


if __name__ == "__main__":
    main()
