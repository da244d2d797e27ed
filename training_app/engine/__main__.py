"""`python -m training_app.engine spec.json`: run the task that the spec file names.

The record of a run, as its page offers it, is a spec file too: it holds the spec under that name.

Each task lives in the module of its name and is imported only when it is asked for, because PyTorch takes seconds.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from finetune_site.lib.channel import Channel, InputError, load_json, read_spec, run
from training_app.engine.allocator import begin_anew_under_it
from training_app.engine.spec import (
    TASKS,
    BenchmarkSpec,
    ChatSpec,
    EvaluateSpec,
    ExportSpec,
    JudgeSpec,
    PrepareSpec,
    PreviewSpec,
    PromptsSpec,
    TrainSpec,
)


def main(argv: list[str]) -> int:
    """Run one spec file and return the process's exit code."""
    _quiet_libraries()
    if len(argv) != 1:
        print("usage: python -m training_app.engine spec.json", file=sys.stderr)  # noqa: T201
        return 2
    fields: dict[str, Any] = {}
    with contextlib.suppress(InputError):  # said again below, on the channel
        fields = load_spec(argv[0])
    is_helper = os.environ.get("RANK", "0") != "0"  # one of several processes of a training, and not the first
    result_path = None if is_helper else _result_path(fields)
    return run(lambda channel: _dispatch(channel, Path(argv[0])), result_path=result_path, is_muted=is_helper)


def load_spec(path: str | Path) -> dict[str, Any]:
    """The fields of a spec file, or of the spec inside a run's record."""
    fields = load_json(path)
    inner = fields.get("spec")
    return dict(inner) if isinstance(inner, dict) else fields


def _dispatch(channel: Channel, path: Path) -> dict[str, Any]:
    fields = load_spec(path)
    task = fields.pop("task", None)
    if task not in TASKS:
        raise InputError(f"task must be one of {', '.join(TASKS)}, not {task!r}.")
    spec = read_spec(TASKS[task], {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()})
    if isinstance(spec, PrepareSpec):
        from training_app.engine.prepare import prepare

        return prepare(spec, channel)
    if isinstance(spec, PreviewSpec):
        from training_app.engine.preview import preview

        return preview(spec, channel)
    if isinstance(spec, TrainSpec) and spec.cluster:
        from training_app.engine.cluster import train_on_cluster

        return train_on_cluster(spec, channel)
    if isinstance(spec, TrainSpec):
        from training_app.engine.train import train

        return train(spec, channel)
    if isinstance(spec, EvaluateSpec):
        from training_app.engine.evaluate import evaluate

        return evaluate(spec, channel)
    if isinstance(spec, BenchmarkSpec):
        from training_app.engine.benchmark import benchmark

        return benchmark(spec, channel)
    if isinstance(spec, JudgeSpec):
        from training_app.engine.judge import judge

        return judge(spec, channel)
    if isinstance(spec, ExportSpec):
        from training_app.engine.export import export

        return export(spec, channel)
    if isinstance(spec, PromptsSpec):
        from training_app.engine.probes import prompts

        return prompts(spec, channel)
    assert isinstance(spec, ChatSpec)
    from training_app.engine.chat import chat

    return chat(spec, channel)


def _result_path(fields: dict[str, Any]) -> Path | None:
    """A training's result stands in its run folder, the others' in their out folder; a chat has none."""
    folder = fields.get("run_dir") if fields.get("task") == "train" else fields.get("out_dir")
    return Path(folder) / "result.json" if isinstance(folder, str) and folder else None


def _quiet_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # A thread that waits must not burn the core that a neighbour needs: spinning collapses on a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _use_allocator(argv: list[str]) -> None:
    """Begin a training anew under mimalloc. One that was forked has it from the process that forked it."""
    if "training_app.engine" not in sys.orig_argv or len(argv) != 1:
        return
    with contextlib.suppress(InputError):  # said by main
        if load_spec(argv[0]).get("task") == "train":
            begin_anew_under_it()


if __name__ == "__main__":
    _use_allocator(sys.argv[1:])
    code = main(sys.argv[1:])
    if "WORLD_SIZE" in os.environ:
        # Gloo's threads may outlive the process group, and taking the interpreter down beneath them now and then aborts
        # a process that has done all its work (https://github.com/pytorch/pytorch/pull/179291).
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
