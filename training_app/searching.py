"""What a search tries next, by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

Nothing is kept but the trials themselves: the study is built again from them each time.
"""

from dataclasses import dataclass
from typing import Any

SEED = 42
RATIO_FOR_LOG = 10  # a range that spans more is searched by its logarithm


@dataclass(frozen=True)
class Tried:
    """Values that were tried and what came of them; None for a run that failed."""

    values: dict[str, Any]
    loss: float | None


def suggest(space: dict[str, list[Any]], tried: list[Tried]) -> dict[str, Any]:
    """Values for the next run. Two numbers in `space` are the ends of a range, anything else is a choice."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = {name: _distribution(optuna, values) for name, values in space.items()}
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=SEED + len(tried), n_startup_trials=4))
    states = optuna.trial.TrialState
    for entry in tried:
        state = states.FAIL if entry.loss is None else states.COMPLETE
        study.add_trial(
            optuna.trial.create_trial(params=entry.values, distributions=kinds, value=entry.loss, state=state)
        )
    return dict(study.ask(kinds).params)


def is_range(values: list[Any]) -> bool:
    """True for the lowest and the highest of a number."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(values) == 2 == len(numbers) and values[0] < values[1]


def _distribution(optuna: Any, values: list[Any]) -> Any:
    if not is_range(values):
        return optuna.distributions.CategoricalDistribution(values)
    low, high = values
    is_log = low > 0 and high / low >= RATIO_FOR_LOG
    if isinstance(low, int) and isinstance(high, int):
        return optuna.distributions.IntDistribution(low, high, log=is_log)
    return optuna.distributions.FloatDistribution(low, high, log=is_log)
