"""How far a judge and people agree: share of equal verdicts and Cohen's weighted kappa. Standard library only."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from training_app.engine.rubric import VERDICTS

FEW_ROWS = 20
LOW_KAPPA = 0.4
# Landis and Koch, The measurement of observer agreement for categorical data, Biometrics 33, 1977.
STRENGTHS = ((0.0, "no better than chance"), (0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"))
ALMOST_PERFECT = "almost perfect"


@dataclass(frozen=True)
class Agreement:
    """Two judges' verdicts on the same answers. `rows` are the questions to which these answers were given."""

    answers: int
    rows: int
    equal: int
    kappa: float | None  # None where all verdicts of both are one and the same

    @property
    def share(self) -> float:
        return self.equal / self.answers

    @property
    def sentence(self) -> str:
        said = f"The same verdict on {self.equal} of {self.answers} answers ({100 * self.share:.0f} %)"
        if self.kappa is None:
            return f"{said}; kappa cannot be told, because all verdicts are alike."
        return f"{said}, kappa {self.kappa:.2f}: {strength(self.kappa)} (0 is chance, 1 always equal)."

    @property
    def warning(self) -> str:
        """Why the judge should not be trusted yet; empty when nothing speaks against it."""
        if self.rows < FEW_ROWS:
            return (
                f"Only {self.rows} question{'s were' if self.rows != 1 else ' was'} judged by both, too few to rely on "
                f"this. Give verdicts on at least {FEW_ROWS}."
            )
        if self.kappa is not None and self.kappa < LOW_KAPPA:
            return (
                "The judge sees the answers otherwise than people do: do not choose a model by its scores. Read where "
                "they differ, sharpen the rubric, or take a stronger model."
            )
        return ""


def agreement(pairs: Sequence[tuple[str, str]], rows: int) -> Agreement | None:
    """Of (one's verdict, the other's verdict) on each answer; None where there is no answer that both judged."""
    if not pairs:
        return None
    equal = sum(one == other for one, other in pairs)
    return Agreement(len(pairs), rows, equal, weighted_kappa(pairs))


def weighted_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """1 - observed / expected disagreement, a disagreement weighing as many steps as the verdicts lie apart.

    Cohen, Weighted kappa, Psychological Bulletin 70, 1968, with linear weights. 1: always equal; 0: as by chance.
    None where chance alone would never disagree, as there is one verdict only.
    """
    ranks = [(VERDICTS.index(one), VERDICTS.index(other)) for one, other in pairs]
    ones, others = Counter(one for one, _ in ranks), Counter(other for _, other in ranks)
    observed = sum(abs(one - other) for one, other in ranks) / len(ranks)
    chance = sum(ones[one] * others[other] * abs(one - other) for one in ones for other in others) / len(ranks) ** 2
    return 1 - observed / chance if chance else None


def strength(kappa: float) -> str:
    """Kappa in words."""
    return next((words for limit, words in STRENGTHS if kappa <= limit), ALMOST_PERFECT) + (
        " agreement" if kappa > 0 else ""
    )
