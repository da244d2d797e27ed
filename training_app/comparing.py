"""Runs side by side: what was asked for, what came out, and where they differ."""

from dataclasses import dataclass
from typing import Any

from training_app.models import Run
from training_app.models.benchmarks import Figure

RESULTS = {
    "train_loss": "Loss at the end",
    "validation_loss": "Validation loss",
    "best_step": "Best step",
    "steps": "Steps",
    "tokens": "Tokens",
    "seconds": "Seconds of training",
    "tokens_per_second": "Tokens a second",
    "peak_memory_bytes": "Peak memory, bytes",
    "trainable_parameters": "Trained numbers",
    "device": "Computed on",
    "dtype": "Precision",
}
# Of an evaluation: counts of rows, and means over them.
MEASURES = {"right": "right answers", "exact": "exact match", "f1": "token F1", "rouge_l": "ROUGE-L"}
MEANS = {"f1", "rouge_l"}


@dataclass(frozen=True)
class Line:
    """One property of every run compared, in their order; None where a run has no such thing."""

    name: str
    values: list[Any]

    @property
    def differs(self) -> bool:
        return any(value != self.values[0] for value in self.values[1:])


def configuration(runs: list[Run]) -> list[Line]:
    """Version, base, method and every knob."""
    head = [
        Line("version", [str(run.version) for run in runs]),
        Line("base", [str(run.base) for run in runs]),
        Line("goes on from", [str(run.start or "the base model") for run in runs]),
        Line("method", [run.method for run in runs]),
        Line("preset", [run.preset for run in runs]),
    ]
    knobs = dict.fromkeys(name for run in runs for name in run.config)
    return head + [Line(name, [run.config.get(name) for run in runs]) for name in knobs]


def results(runs: list[Run]) -> list[Line]:
    """What the engine measured, and the newest evaluation and benchmarks of each run."""
    measured = [Line(title, [_shown(run.result.get(name)) for run in runs]) for name, title in RESULTS.items()]
    newest = [next((found.sets for found in run.evaluations.all() if found.summary), {}) for run in runs]
    judged = [
        Line(f"{name}: {title}", [_judged(sets.get(name), measure) for sets in newest])
        for name in dict.fromkeys(name for sets in newest for name in sets)
        for measure, title in MEASURES.items()
    ]
    measured_last = [next((found for found in run.benchmarks.all() if found.summary), None) for run in runs]
    public = [
        {f"{figure.task}: {figure.metric}": figure for figure in found.figures} if found else {}
        for found in measured_last
    ]
    benched = [
        Line(name, [_benched(figures.get(name)) for figures in public])
        for name in dict.fromkeys(name for figures in public for name in figures)
    ]
    return [line for line in (*measured, *judged, *benched) if any(value is not None for value in line.values)]


def _shown(value: Any) -> Any:
    """Numbers as people compare them."""
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def _benched(figure: Figure | None) -> str | None:
    return f"{figure.tuned:.3f} (base {figure.base:.3f})" if figure else None


def _judged(sums: dict[str, float] | None, measure: str) -> str | None:
    """A measure of one set; None where there is no evaluation, or only one from before it was measured."""
    if sums is None or f"tuned_{measure}" not in sums:
        return None
    tuned, base = sums[f"tuned_{measure}"], sums[f"base_{measure}"]
    if measure in MEANS:
        return f"{tuned:.2f} (base {base:.2f})"
    return f"{tuned:.0f} of {sums['rows']} (base {base:.0f})"
