"""How fast the training engine is beside transformers' Trainer, TRL's SFTTrainer and LitGPT, at equal loss.

The same rows, model, adapter, precision and threads; each arm is a process of its own, repetitions are interleaved,
medians told. Tokens per second count the tokens of the rows, never padding; the first step is left out as a warm-up.
Two lessons: rows of varied and of uniform length. Run alone: `.venv/bin/python benchmarks/training.py
[--repetitions 3] [--steps 5] [--method dora] [--lessons varied uniform] [--base FOLDER] [--litgpt PROGRAM]`. Takes some
fifteen minutes with the bundled model.

LitGPT is a rival's command line. Its pins clash with ours and it knows no DoRA: with an environment of its own
(`pip install litgpt requests`) `--method lora --litgpt ENVIRONMENT/bin/litgpt` adds it; it needs the bundled model.
"""

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the engine sets it: all arms get the same
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
BATCH_ROWS = 8
ARMS = ("engine", "trainer", "trl", "trl_packed")
RIVAL = "litgpt"
RIVAL_STEP = re.compile(r"loss train: ([\d.]+),.* iter time: ([\d.]+) ms")
LESSONS = {"varied": (4, 90), "uniform": (30, 32)}


@dataclass(frozen=True)
class Figures:
    """What one arm reached once."""

    tokens_per_second: float
    mean_loss: float
    peak_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--method", choices=("lora", "dora"), default="dora")
    parser.add_argument("--base", type=Path, help="a base model's folder instead of the bundled model")
    parser.add_argument("--lessons", nargs="*", choices=tuple(LESSONS), default=list(LESSONS))
    parser.add_argument("--litgpt", type=Path, help="LitGPT's program, for --method lora on the bundled model")
    parser.add_argument("--arm", choices=ARMS[1:], help=argparse.SUPPRESS)  # one arm, in a process of its own
    parser.add_argument("--spec", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.litgpt and (options.method != "lora" or options.base):
        parser.error("--litgpt goes with --method lora and the bundled model")
    if options.arm:
        print(json.dumps(asdict(run_library(options.arm, options.spec))))
        return
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        base = options.base or prepare_base(Path(folder))
        figures: dict[str, Any] = {"method": options.method}
        for name in options.lessons:
            figures[name] = compare(Path(folder) / name, base, LESSONS[name], options)
        figures["matmul_share"] = figures[options.lessons[0]]["matmul_share"]
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
    spec = replace(spec, dtype=str(machine.dtype).removeprefix("torch."), threads=machine.threads)
    arms = (*ARMS, RIVAL) if options.litgpt else ARMS
    reached: dict[str, list[Figures]] = {arm: [] for arm in arms}
    for repetition in range(options.repetitions):
        for arm in arms if repetition % 2 == 0 else arms[::-1]:
            run = replace(spec, run_dir=str(folder / f"{arm}-{repetition}"))
            found = run_litgpt(options.litgpt, run, lesson) if arm == RIVAL else run_arm(arm, run)
            reached[arm].append(found)
            print(
                f"{folder.name:8} {arm:12} {found.tokens_per_second:7.1f} tokens/s  loss {found.mean_loss:.4f}  "
                f"peak {found.peak_bytes / 1e9:.2f} GB",
                flush=True,
            )
    return summarise(spec, lesson, machine, reached)


def ordered(spec: Any, lesson: Any) -> list[list[Any]]:
    """The rows of every step, as the engine draws them."""
    return [lesson.step(spec, step) for step in range(lesson.total_steps)]


def run_arm(arm: str, spec: Any) -> Figures:
    """One arm once, in a process of its own."""
    folder = Path(spec.run_dir)
    folder.mkdir(parents=True)
    path = folder / "benchmark-spec.json"
    path.write_text(json.dumps({"task": "train", **asdict(spec)}), encoding="utf-8")
    if arm == "engine":
        return run_engine(path, folder)
    own = [sys.executable, __file__, "--arm", arm, "--spec", str(path)]
    return Figures(**json.loads(output_of(own).splitlines()[-1]))


def output_of(command: list[str], **options: Any) -> str:
    """What a program prints; its failure ends the benchmark."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def run_engine(path: Path, folder: Path) -> Figures:
    """The engine as it is shipped."""
    told = output_of([sys.executable, "-m", "training_app.engine", str(path)], cwd=ROOT).splitlines()
    steps = [event for event in map(json.loads, told) if event["event"] == "step"]
    first, last = steps[0], steps[-1]
    return Figures(
        (last["tokens"] - first["tokens"]) / (last["at"] - first["at"]),
        statistics.mean(event["loss"] for event in steps),
        json.loads((folder / "result.json").read_text())["peak_memory_bytes"],
    )


def run_litgpt(program: Path, spec: Any, lesson: Any) -> Figures:
    """LitGPT's command line over the same rows, template, adapter, rate and precision.

    It draws the rows in an order of its own and makes its first step at rate 0. Its cosine schedule is set so long that
    the rate stays constant, and it is ended after our number of steps.
    """
    import pyarrow.parquet

    folder, steps = Path(spec.run_dir), lesson.total_steps
    base = folder / "SmolLM2-135M-Instruct"  # it knows a model by its folder's name
    shutil.copytree(spec.base_dir, base)
    output_of([str(program), "convert_to_litgpt", str(base)])
    conversations = [row["messages"] for row in pyarrow.parquet.read_table(spec.data_path).to_pylist()]
    records = [{"instruction": asked["content"], "output": said["content"]} for asked, said in conversations]
    for name, part in (("train", records), ("val", records[:1])):
        (folder / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": spec.learning_rate, "weight_decay": 0.0}}
    settings = {
        "data": "JSON",
        "data.json_path": folder,
        "data.mask_prompt": "true",
        "data.prompt_style": "smollm2",
        "data.num_workers": 0,
        "precision": "bf16-mixed" if spec.dtype == "bfloat16" else "32-true",
        "lora_r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": 0,
        **{f"lora_{place}": "true" for place in ("query", "key", "value", "projection", "mlp")},
        "train.global_batch_size": BATCH_ROWS,
        "train.micro_batch_size": BATCH_ROWS,
        "train.epochs": 1000,
        "train.lr_warmup_steps": 1,
        "train.log_interval": 1,
        "train.save_interval": 1000 * steps,
        "eval.interval": 1000 * steps,
        "optimizer": json.dumps(optimizer),
        "out_dir": folder / "out",
    }
    command = [str(program), "finetune_lora", str(base)]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(spec.threads), "PYTHONUNBUFFERED": "1"}
    lines: list[str] = []
    told: list[tuple[float, float]] = []
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if found := RIVAL_STEP.search(line):
                told.append((float(found[1]), float(found[2]) / 1000))
            if len(told) == steps:
                process.kill()
                break
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if len(told) < steps:
        sys.exit("".join(lines)[-4000:])
    tokens = lesson.tokens_per_epoch * (steps - 1) / steps
    seconds = sum(second for _, second in told[1:])
    return Figures(tokens / seconds, statistics.mean(loss for loss, _ in told), usage.ru_maxrss * 1024)


def run_library(arm: str, path: Path) -> Figures:
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

    from training_app.engine.__main__ import load_spec
    from training_app.engine.hardware import choose_machine, peak_bytes
    from training_app.engine.lesson import load_lesson
    from training_app.engine.spec import TrainSpec

    spec: Any = TrainSpec(**{name: value for name, value in load_spec(path).items() if name != "task"})
    machine: Any = choose_machine(spec.threads, spec.device, spec.dtype)
    rows = [row for step in ordered(spec, load_lesson(spec)) for row in step]

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
    held = machine.dtype if machine.device.type == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(spec.base_dir, dtype=held).to(machine.device)
    adapter = LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules="all-linear",
        use_dora=spec.method == "dora",
    )
    tokenizer = AutoTokenizer.from_pretrained(spec.base_dir)
    shared: dict[str, Any] = {
        "output_dir": spec.run_dir,
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
    seconds = clock.stamps[-1] - clock.stamps[0]
    speed = tokens_after_first_step(arm, trainer, rows) / seconds
    return Figures(speed, statistics.mean(clock.losses), peak_bytes(machine.device))


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


def summarise(spec: Any, lesson: Any, machine: Any, reached: dict[str, list[Figures]]) -> dict[str, Any]:
    from training_app.engine.estimate import step_flops
    from training_app.engine.models import read_config
    from training_app.engine.prepare import count_parameters

    medians = {arm: statistics.median(found.tokens_per_second for found in every) for arm, every in reached.items()}
    config, parameters = read_config(spec.base_dir), count_parameters(Path(spec.base_dir))
    flops = sum(step_flops(spec, rows, config, parameters) for rows in ordered(spec, lesson))
    flops_per_token = flops / lesson.tokens_per_epoch
    return {
        "tokens_per_second": {arm: round(speed, 1) for arm, speed in medians.items()},
        "mean_loss": {arm: round(every[-1].mean_loss, 4) for arm, every in reached.items()},
        "peak_gb": {arm: round(max(found.peak_bytes for found in every) / 1e9, 2) for arm, every in reached.items()},
        "engine_over_trainer": round(medians["engine"] / medians["trainer"], 3),
        "engine_over_trl": round(medians["engine"] / max(medians["trl"], medians["trl_packed"]), 3),
        **({f"engine_over_{RIVAL}": round(medians["engine"] / medians[RIVAL], 3)} if RIVAL in medians else {}),
        "matmul_share": round(medians["engine"] * flops_per_token / machine.matmul_flops, 3),
        "matmul_gflops": round(machine.matmul_flops / 1e9),
        "dtype": str(machine.dtype),
        "threads": machine.threads,
    }


def portal_overhead(folder: Path, base: Path, options: argparse.Namespace) -> float:
    """Share of its speed that the engine loses under the site's supervisor, each as a process of its own."""
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
