"""How fast the training engine is beside transformers' Trainer and TRL's SFTTrainer, at equal loss.

The same rows in the same order, the same model, adapter, precision and threads; repetitions interleaved, medians told.
Tokens per second count the tokens of the rows, never padding. Two lessons: rows of varied and of uniform length. Run
alone: `.venv/bin/python benchmarks/training.py [--repetitions 3] [--steps 5] [--method dora] [--base FOLDER]`. Takes
some ten minutes with the bundled model.
"""

import argparse
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the engine sets it: all arms get the same
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
BATCH_ROWS = 8
ARMS = ("engine", "trainer", "trl", "trl_packed")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--method", choices=("lora", "dora"), default="dora")
    parser.add_argument("--base", type=Path, help="a base model's folder instead of the bundled model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        base = options.base or prepare_base(Path(folder))
        figures: dict[str, Any] = {"method": options.method}
        for name, lengths in (("varied", (4, 90)), ("uniform", (30, 32))):
            figures[name] = compare(Path(folder) / name, base, lengths, options)
        figures["matmul_share"] = figures["varied"]["matmul_share"]
        figures["portal_overhead"] = portal_overhead(Path(folder) / "portal", base, options)
    print(json.dumps(figures))


def prepare_base(folder: Path) -> Path:
    """The bundled model, converted as task `prepare` does."""
    from training_app.engine.bundled import convert

    base = folder / "base"
    base.mkdir()
    convert(base)
    return base


def make_version(path: Path, rows: int, words: tuple[int, int]) -> None:
    """Question and answer rows whose answers hold between `words[0]` and `words[1]` words; short ones prevail."""
    import pyarrow
    import pyarrow.parquet

    source = random.Random(7)
    vocabulary = Path(__file__).read_text(encoding="utf-8").split()
    made = []
    for number in range(rows):
        length = int(words[0] + (words[1] - words[0]) * source.random() ** 2)
        answer = " ".join(source.choice(vocabulary) for _ in range(length))
        messages = [
            {"role": "user", "content": f"What stands in entry {number}?"},
            {"role": "assistant", "content": answer},
        ]
        made.append({"example_id": number, "split": "train", "kind": "chat", "messages": messages, "answer_key": ""})
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), path)


def compare(folder: Path, base: Path, words: tuple[int, int], options: argparse.Namespace) -> dict[str, Any]:
    """Every arm `repetitions` times, interleaved, and a table."""
    from training_app.engine.batches import step_rows
    from training_app.engine.hardware import choose_machine
    from training_app.engine.lesson import load_lesson
    from training_app.engine.spec import TrainSpec

    make_version(folder / "version.parquet", options.steps * BATCH_ROWS, words)
    spec = TrainSpec(
        data_path=str(folder / "version.parquet"),
        data_sha256="",
        base_dir=str(base),
        run_dir=str(folder / "run"),
        method=options.method,
        epochs=1,
        batch_rows=BATCH_ROWS,
        scheduler="constant",
        warmup_share=0.0,
        rehearsal_share=0.0,  # the others have nothing like it
    )
    lesson, machine = load_lesson(spec), choose_machine(0, "auto", "auto")
    order = [step_rows(len(lesson.train), BATCH_ROWS, spec.seed, step) for step in range(options.steps)]
    rows = [lesson.train[index] for step in order for index in step]
    speeds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    losses: dict[str, float] = {}
    for repetition in range(options.repetitions):
        for arm in ARMS if repetition % 2 == 0 else ARMS[::-1]:
            run_folder = folder / f"{arm}-{repetition}"
            run = run_engine if arm == "engine" else run_rival
            speed, losses[arm] = run(arm, spec, rows, machine, run_folder)
            speeds[arm].append(speed)
            gc.collect()
            print(f"{folder.name:8} {arm:11} {speed:7.1f} tokens/s  loss {losses[arm]:.4f}", flush=True)
    return summarise(spec, lesson, machine, order, speeds, losses)


def run_engine(arm: str, spec: Any, rows: list[Any], machine: Any, folder: Path) -> tuple[float, float]:
    """The engine's own training, with every event told, the first step left out as a warm-up."""
    from dataclasses import replace

    from finetune_site.lib.channel import Channel
    from training_app.engine.train import train

    stamps: list[tuple[float, int, float]] = []

    class Listener(Channel):
        should_stop = False

        def __init__(self) -> None:
            """Nobody listens on standard output here: it stays the table's."""

        def emit(self, event: str, **fields: Any) -> None:
            if event == "step":
                stamps.append((time.perf_counter(), fields["tokens"], fields["loss"]))

        def keep_journal(self, path: Path) -> None:
            """The portal's price is measured apart."""

    dtype = str(machine.dtype).removeprefix("torch.")
    train(replace(spec, run_dir=str(folder), dtype=dtype), Listener())
    (start, before, _), (end, after, _) = stamps[0], stamps[-1]
    return (after - before) / (end - start), statistics.mean(loss for _, _, loss in stamps)


def run_rival(arm: str, spec: Any, rows: list[Any], machine: Any, folder: Path) -> tuple[float, float]:
    """Trainer or SFTTrainer over the same rows in the same order, at the same precision."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from torch.utils.data import SequentialSampler
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.stamps: list[float] = []
            self.losses: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.stamps.append(time.perf_counter())

        def on_log(self, *_: Any, **told: Any) -> None:
            if "loss" in told["logs"]:
                self.losses.append(told["logs"]["loss"])

    def in_order(kind: type) -> Any:
        return type("InOrder", (kind,), {"_get_train_sampler": lambda self, *_: SequentialSampler(self.train_dataset)})

    torch.manual_seed(spec.seed)
    model = AutoModelForCausalLM.from_pretrained(spec.base_dir, dtype=torch.float32).to(machine.device)
    adapter = LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules="all-linear",
        use_dora=spec.method == "dora",
    )
    tokenizer = AutoTokenizer.from_pretrained(spec.base_dir)
    shared = {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH_ROWS,
        "num_train_epochs": 1,
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": spec.seed,
        "use_cpu": machine.device.type == "cpu",
        "bf16": machine.dtype == torch.bfloat16,
        "gradient_checkpointing": False,
    }
    clock = Clock()
    if arm == "trainer":
        trainer = in_order(Trainer)(
            model=get_peft_model(model, adapter),
            args=TrainingArguments(**shared, remove_unused_columns=False),
            train_dataset=rows,
            data_collator=lambda batch: pad(batch, tokenizer.pad_token_id),
            callbacks=[clock],
        )
    else:
        packed = arm == "trl_packed"
        length = 2 * max(len(row.ids) for row in rows) if packed else None
        records = [{"input_ids": row.ids, "completion_mask": [int(flag) for flag in row.trained]} for row in rows]
        options = {**shared, "per_device_train_batch_size": 2} if packed else shared
        trainer = in_order(SFTTrainer)(
            model=model,
            args=SFTConfig(**options, packing=packed, max_length=length, completion_only_loss=True),
            train_dataset=Dataset.from_list(records),
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=[clock],
        )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return tokens_after_first_step(arm, trainer, rows) / (clock.stamps[-1] - clock.stamps[0]), statistics.mean(
        clock.losses
    )


def tokens_after_first_step(arm: str, trainer: Any, rows: list[Any]) -> float:
    """Row tokens of all steps but the first. Packing makes steps of its own: they count by their share."""
    total = sum(len(row.ids) for row in rows)
    if arm != "trl_packed":
        return total - sum(len(row.ids) for row in rows[:BATCH_ROWS])
    packs = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    return float(sum(packs[2:]))


def pad(batch: list[Any], filler: int) -> dict[str, Any]:
    """Right padding to the longest row, the loss on the trained tokens only."""
    import torch

    width = max(len(row.ids) for row in batch)
    return {
        "input_ids": torch.tensor([row.ids + [filler] * (width - len(row.ids)) for row in batch]),
        "attention_mask": torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in batch]),
        "labels": torch.tensor(
            [
                [token if flag else -100 for token, flag in zip(row.ids, row.trained, strict=True)]
                + [-100] * (width - len(row.ids))
                for row in batch
            ]
        ),
    }


def summarise(spec: Any, lesson: Any, machine: Any, order: list[list[int]], speeds: Any, losses: Any) -> dict[str, Any]:
    from training_app.engine.estimate import step_flops
    from training_app.engine.models import read_config
    from training_app.engine.prepare import count_parameters

    medians = {arm: statistics.median(found) for arm, found in speeds.items()}
    config, parameters = read_config(spec.base_dir), count_parameters(Path(spec.base_dir))
    batches = [[lesson.train[index] for index in step] for step in order]
    flops_per_token = sum(step_flops(spec, rows, config, parameters) for rows in batches) / lesson.tokens_per_epoch
    return {
        "tokens_per_second": {arm: round(speed, 1) for arm, speed in medians.items()},
        "mean_loss": {arm: round(loss, 4) for arm, loss in losses.items()},
        "engine_over_trainer": round(medians["engine"] / medians["trainer"], 3),
        "engine_over_trl": round(medians["engine"] / max(medians["trl"], medians["trl_packed"]), 3),
        "matmul_share": round(medians["engine"] * flops_per_token / machine.matmul_flops, 3),
        "matmul_gflops": round(machine.matmul_flops / 1e9),
        "dtype": str(machine.dtype),
        "threads": machine.threads,
    }


def portal_overhead(folder: Path, base: Path, options: argparse.Namespace) -> float:
    """Share of its speed that the engine loses under the site's supervisor, each as a process of its own."""
    import subprocess

    from finetune_site.lib.process import Engine

    make_version(folder / "version.parquet", options.steps * BATCH_ROWS, (4, 90))
    speeds: dict[str, list[float]] = {"alone": [], "supervised": []}
    for repetition in range(options.repetitions):
        for manner in speeds:
            run_dir = folder / f"{manner}-{repetition}"
            fields = {"data_path": str(folder / "version.parquet"), "data_sha256": "", "base_dir": str(base)}
            spec = folder / "spec.json"
            spec.write_text(json.dumps({"task": "train", **fields, "epochs": 1, "run_dir": str(run_dir)}))
            if manner == "alone":
                command = [sys.executable, "-m", "training_app.engine", str(spec)]
                subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            else:
                with Engine("training_app.engine", [str(spec)], log_path=folder / "log.txt") as engine:
                    engine.run(lambda event: None, lambda: False)
            speeds[manner].append(json.loads((run_dir / "result.json").read_text())["tokens_per_second"])
    return round(1 - statistics.median(speeds["supervised"]) / statistics.median(speeds["alone"]), 4)


if __name__ == "__main__":
    main()
