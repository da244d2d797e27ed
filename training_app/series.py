"""A running training's numbers on their way into rows and pages: gathered for a moment, written together, each once."""

import contextlib
import time
from typing import Any

from django.db import InterfaceError, OperationalError

from finetune_site.jobs.handle import Handle
from finetune_site.jobs.queue import LeaseLost
from finetune_site.lib.channel import read_journal
from training_app.models import Metric, RowLoss, Run, Sample
from training_app.models.runs import LOOK_NAMES

NAMES = (
    "loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_bytes", "device_use",
    "reward_margin", "reward_accuracy",
)  # fmt: skip
FLUSH_SECONDS = 0.5


class Series:
    """Takes the engine's events in order."""

    def __init__(self, handle: Handle, run: Run) -> None:
        self._handle, self._run = handle, run
        self._points: list[dict[str, Any]] = []
        self._samples: list[Sample] = []
        self._row_losses: list[RowLoss] = []
        self._total = 0
        self._flushed_at = 0.0

    def take(self, event: dict[str, Any]) -> None:
        """One event: a step or evaluation becomes metric rows, what people should know a line of the log."""
        name = event["event"]
        if name == "started":
            self._start(event)
        elif name in {"step", "eval"}:
            self._points.append(_point(event))
        elif name == "sample":
            self._samples.append(_sample(self._run, event))
        elif name == "rows":
            self._row_losses = _row_losses(self._run, event)
        elif name == "checkpoint":
            self._handle.publish("checkpoint", {"line": f"Checkpoint at step {event['step']}", "step": event["step"]})
        elif name == "warning":
            self._handle.publish("warning", {"message": event["message"]})
        if time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered: metric rows, one live event, the job's progress; then what the model answered."""
        self._flushed_at = time.monotonic()
        self._flush_points()
        if self._row_losses:
            losses, self._row_losses = self._row_losses, []
            self._handle.write(lambda: _keep_newest(losses))
            self._handle.publish("sample", {"step": losses[0].step})
        if self._samples:
            samples, self._samples = self._samples, []
            self._handle.write(lambda: Sample.objects.bulk_create(samples, ignore_conflicts=True))
            self._handle.publish("sample", {"step": max(sample.step for sample in samples)})

    def _flush_points(self) -> None:
        if not self._points:
            return
        points, self._points = self._points, []
        rows = [
            Metric(run=self._run, step=point["step"], name=name, value=point[name])
            for point in points
            for name in (*NAMES, *LOOK_NAMES)
            if point.get(name) is not None
        ]
        self._handle.write(lambda: Metric.objects.bulk_create(rows, ignore_conflicts=True))
        self._handle.publish("step", {"points": points})
        steps = [point["step"] for point in points]
        left = points[-1].get("seconds_left")
        self._handle.progress(max(steps), self._total, unit="steps", message="", seconds_left=left)

    def flush_quietly(self) -> None:
        """At the end of an attempt, whatever ended it: the numbers so far are worth keeping."""
        with contextlib.suppress(LeaseLost, OperationalError, InterfaceError):
            self.flush()

    def _start(self, event: dict[str, Any]) -> None:
        self._total = event["total_steps"]
        facts = {key: value for key, value in event.items() if key not in {"event", "at"}}
        self._handle.write(lambda: Run.objects.filter(pk=self._run.pk).update(started=facts))
        self._handle.progress(event["start_step"], self._total, unit="steps", message="")
        if event["start_step"]:
            self._catch_up(event["start_step"])
            self._handle.log(f"Goes on from the checkpoint at step {event['start_step']}")
        else:
            self._handle.log(f"Starts on {event['device']}")

    def _catch_up(self, last: int) -> None:
        """Numbers up to the checkpoint that a killed runner had not written yet: the engine's journal has them."""
        known = set(self._run.metrics.filter(name="loss").values_list("step", flat=True))
        for event in read_journal(self._run.folder / "events.jsonl"):
            if event["event"] in {"step", "eval"} and event["step"] <= last and event["step"] not in known:
                self._points.append(_point(event))
            elif event["event"] == "sample" and event["step"] <= last:
                self._samples.append(_sample(self._run, event))
            elif event["event"] == "rows" and event["step"] <= last:
                self._row_losses = _row_losses(self._run, event)


def _sample(run: Run, event: dict[str, Any]) -> Sample:
    return Sample(run=run, **{name: event[name] for name in ("step", "example_id", "question", "reference", "answer")})


def _row_losses(run: Run, event: dict[str, Any]) -> list[RowLoss]:
    return [RowLoss(run=run, example_id=row, step=event["step"], loss=loss) for row, loss in event["losses"]]


def _keep_newest(losses: list[RowLoss]) -> None:
    RowLoss.objects.bulk_create(
        losses, update_conflicts=True, unique_fields=["run", "example_id"], update_fields=["step", "loss"]
    )


def _point(event: dict[str, Any]) -> dict[str, Any]:
    if event["event"] == "eval":
        keys = ("loss", "reward_margin", "reward_accuracy")
        found = {name: event[key] for key, name in zip(keys, LOOK_NAMES, strict=True) if key in event}
        return {"step": event["step"], **found}
    return {key: event[key] for key in ("step", "seconds_left", "epoch", *NAMES) if key in event}
