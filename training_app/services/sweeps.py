"""What people do with sweeps: plan, stop; and how a search goes on from run to run."""

import itertools
import math
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from finetune_site.jobs.models import UNFINISHED
from finetune_site.projects.services import audit
from training_app import searching
from training_app.models import Run, Sweep, Trial
from training_app.services.runs import TrainingError, check_config, queue_training, room_refusal, stop_run

MAX_RUNS = 64


@transaction.atomic
def plan_sweep(*, actor: User, run: Run, manner: str, space: dict[str, list[Any]], budget: int) -> Sweep:
    """Queue variants of a run: all combinations of the values at once, or a search's first, which is the run itself."""
    if not run.version.counts.get("validation"):
        raise TrainingError("The version has no validation rows, so no variant could be told from another.")
    if told := room_refusal(run.project):
        raise TrainingError(told)
    if not space:
        raise TrainingError("Give at least one knob several values.")
    count = math.prod(map(len, space.values()))
    if manner == Sweep.GRID and not 2 <= count <= min(budget, MAX_RUNS):
        raise TrainingError(f"The values make {count} runs; it must be 2 to {min(budget, MAX_RUNS)}. Leave some out.")
    combinations = _combinations(space) if manner == Sweep.GRID else []
    if manner == Sweep.SEARCH and not 2 <= budget <= MAX_RUNS:
        raise TrainingError(f"A search needs a budget of 2 to {MAX_RUNS} runs.")
    sweep = Sweep.objects.create(
        project=run.project,
        name=f"Sweep around {run.name}"[:120],
        pattern=run,
        manner=manner,
        space=space,
        budget=budget,
        created_by=actor,
    )
    firsts = combinations or [{name: _inside(values, run.config.get(name)) for name, values in space.items()}]
    for values in firsts:
        _add_trial(sweep, values)
    audit(run.project, actor, "started the sweep", sweep, after={"values": space, "runs": len(combinations) or budget})
    return sweep


@transaction.atomic
def advance(run: Run) -> None:
    """After a run of a search has ended, well or badly: try the next values while the budget lasts."""
    sweep = Sweep.objects.select_for_update().filter(trials__run=run, manner=Sweep.SEARCH, stopped_at=None).first()
    if sweep is None or room_refusal(sweep.project):  # a run of the sweep that is started again goes on with it
        return
    trials = list(sweep.trials.select_related("run__job"))
    open_ones = [
        trial for trial in trials if trial.run_id != run.pk and trial.run.job and not trial.run.job.is_finished
    ]
    if open_ones or len(trials) >= sweep.budget:
        return
    tried = [searching.Tried(trial.values, trial.loss) for trial in trials]
    _add_trial(sweep, searching.suggest(sweep.space, tried))


@transaction.atomic
def stop_sweep(*, actor: User, sweep: Sweep) -> None:
    """Start nothing more, and stop what runs or waits."""
    if sweep.stopped_at:
        raise TrainingError("The sweep is stopped already.")
    Sweep.objects.filter(pk=sweep.pk).update(stopped_at=timezone.now())
    for trial in sweep.trials.filter(run__job__state__in=UNFINISHED).select_related("run__job"):
        stop_run(actor=actor, run=trial.run)
    audit(sweep.project, actor, "stopped the sweep", sweep)


def _combinations(space: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def _inside(values: list[Any], usual: Any) -> Any:
    """The pattern's own value where the search may try it, else the first or lowest."""
    if searching.is_range(values):
        return min(max(values[0], usual), values[1])
    return usual if usual in values else values[0]


def _add_trial(sweep: Sweep, values: dict[str, Any]) -> Trial:
    pattern, actor = sweep.pattern, sweep.created_by
    run = Run(
        project=sweep.project,
        name=f"{pattern.name}: {', '.join(f'{name} {_short(value)}' for name, value in values.items())}"[:120],
        version=pattern.version,
        base=pattern.base,
        method=pattern.method,
        preset=pattern.preset,
        start=pattern.start,
        config={**pattern.config, **values},
        is_evaluated_after=False,
        created_by=actor,
    )
    check_config(run)
    run.save()
    queue_training(actor, run, expected_seconds=pattern.preview.get("seconds"))
    return Trial.objects.create(sweep=sweep, run=run, values=values)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
