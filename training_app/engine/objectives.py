"""What a step minimises: the wording of answers or texts, or a preference between two answers.

Each objective computes its loss over the rows of a step in as many parts as memory asks for; the gradient is that of
the mean over the whole step. Formulas: DPO, Rafailov et al. 2023 (arXiv 2305.18290), equation 7; KTO, Ethayarajh et
al. 2024 (arXiv 2402.01306), section 4; ORPO, Hong et al. 2024 (arXiv 2403.07691), equations 6 and 7.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn.functional import logsigmoid

from training_app.engine.batches import Batch, micro_batches, units
from training_app.engine.hardware import Machine
from training_app.engine.lesson import UNITS, Lesson
from training_app.engine.loss import length_multiple, token_losses
from training_app.engine.sharding import in_step
from training_app.engine.spec import RunSpec
from training_app.engine.team import ALONE, Team
from training_app.engine.template import REHEARSED, Tokens


@dataclass(frozen=True)
class Layout:
    """How rows are computed: tokens at once, whether several rows may share a sequence, and by whom together.

    The members of `team` hold parts of the model's weights: they make as many passes each. Alone: whole weights.
    """

    token_limit: int
    share_prefix: bool
    team: Team = ALONE

    def batches(
        self, rows: list[Tokens], model: Any, machine: Machine, *, unit: int = 1, learn: bool = False
    ) -> Iterator[Batch]:
        """The rows laid together, as many at once as the layout allows."""
        laid = micro_batches(rows, self.token_limit, self.share_prefix, length_multiple(machine), unit)
        return laid if self.team.size == 1 else in_step(list(laid), model, machine, self.team, learn=learn)


@dataclass(frozen=True)
class Measured:
    """The mean loss of some rows. Of pairs also how far the chosen answer's reward lies above the rejected one's, and
    in which share of the pairs it lies above at all. `by_example` gives the loss of each example.
    """

    loss: float
    by_example: dict[int, float]
    reward_margin: float | None = None
    reward_accuracy: float | None = None

    @property
    def rewards(self) -> dict[str, float]:
        """The rewards by name; empty where there are none."""
        named = {"reward_margin": self.reward_margin, "reward_accuracy": self.reward_accuracy}
        return {name: value for name, value in named.items() if value is not None}


class Objective(Protocol):
    """A loss over rows."""

    def measure(
        self,
        model: Any,
        rows: list[Tokens],
        layout: Layout,
        machine: Machine,
        *,
        learn: bool = False,
        of: list[Tokens] | None = None,
    ) -> Measured:
        """The loss of `rows`; with `learn`, its gradient is added to the model's weights.

        Where `rows` are one member's share `of` a step, it is their part of the step's mean: the parts add up to it.
        """


def objective_of(spec: RunSpec) -> Objective:
    """The objective that the spec names."""
    pairs = {"dpo": dpo, "kto": kto, "orpo": orpo}
    return Preference(pairs[spec.objective], spec.beta, spec.objective) if spec.objective in pairs else Wording()


class Wording:
    """Cross-entropy of the trained tokens: supervised fine-tuning, and with texts continued pre-training."""

    def measure(
        self,
        model: Any,
        rows: list[Tokens],
        layout: Layout,
        machine: Machine,
        *,
        learn: bool = False,
        of: list[Tokens] | None = None,
    ) -> Measured:
        """Rehearsed rows move the weights, but only the dataset's own rows are reported."""
        trained_tokens = sum(sum(row.trained[1:]) for row in of or rows)
        own_tokens = sum(sum(row.trained[1:]) for row in of or rows if row.example_id != REHEARSED)
        total, by_example = 0.0, _Sums()
        for batch in layout.batches(rows, model, machine, learn=learn):
            batch = batch.to(machine.device)
            with torch.set_grad_enabled(learn):
                losses = token_losses(model, batch, machine)
            if learn:
                (losses.sum() / trained_tokens).backward()
            losses = losses.detach()
            total += float((losses * batch.counted).sum())
            if not learn:
                by_example.add(batch, batch.sums(losses))
        return Measured(total / own_tokens, by_example.means)


# Log-probabilities of the chosen and the rejected answers less their reference's, tokens of each, beta, baseline:
# the loss of each pair, and the rewards of its two answers.
PairLoss = Callable[["Pairs", float, float], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Pairs:
    """Log-probabilities of the answers of some pairs, and how many tokens each has; each of shape (pairs,)."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    chosen_reference: torch.Tensor
    rejected_reference: torch.Tensor
    chosen_tokens: torch.Tensor
    rejected_tokens: torch.Tensor


def dpo(pairs: Pairs, beta: float, baseline: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Direct preference optimisation: the reward is how far an answer has become likelier than for the base model."""
    chosen = beta * (pairs.chosen - pairs.chosen_reference)
    rejected = beta * (pairs.rejected - pairs.rejected_reference)
    return -logsigmoid(chosen - rejected), chosen, rejected


def kto(pairs: Pairs, beta: float, baseline: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Kahneman-Tversky optimisation: each answer for itself against what the model has drifted on the whole."""
    chosen = beta * (pairs.chosen - pairs.chosen_reference)
    rejected = beta * (pairs.rejected - pairs.rejected_reference)
    drift = beta * baseline
    return (2 - torch.sigmoid(chosen - drift) - torch.sigmoid(drift - rejected)) / 2, chosen, rejected


def orpo(pairs: Pairs, beta: float, baseline: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Odds-ratio preference optimisation: the chosen answer's wording, and its odds over the rejected one's."""
    chosen, rejected = pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens
    odds = (chosen - rejected) - (_log_complement(chosen) - _log_complement(rejected))
    return -chosen - beta * logsigmoid(odds), beta * chosen, beta * rejected


class Preference:
    """A loss over pairs: rows come as chosen, rejected and, for KTO, the prompt with another pair's answer."""

    def __init__(self, loss: PairLoss, beta: float, name: str) -> None:
        self._loss, self._beta = loss, beta
        self._unit = UNITS[name]

    def measure(
        self,
        model: Any,
        rows: list[Tokens],
        layout: Layout,
        machine: Machine,
        *,
        learn: bool = False,
        of: list[Tokens] | None = None,
    ) -> Measured:
        whole = units(of or rows, self._unit)
        baseline = self._drift(model, [pair[2] for pair in whole if pair[2:]], layout, machine)
        pairs = [row for pair in units(rows, self._unit) for row in pair[:2]]
        count = len(whole)
        loss = margin = above = 0.0
        by_example = _Sums()
        for batch in layout.batches(pairs, model, machine, unit=2, learn=learn):
            batch = batch.to(machine.device)
            with torch.set_grad_enabled(learn):
                losses, chosen, rejected = self._loss(_pairs(model, batch, machine), self._beta, baseline)
            if learn:
                (losses.sum() / count).backward()
            loss += float(losses.detach().sum())
            margin += float((chosen - rejected).detach().sum())
            above += float((chosen > rejected).sum())
            by_example.add_pairs(batch, losses.detach())
        return Measured(loss / count, by_example.means, margin / count, above / count)

    @torch.no_grad()
    def _drift(self, model: Any, rows: list[Tokens], layout: Layout, machine: Machine) -> float:
        """KTO's reference point: how much likelier unrelated answers have become, at least 0. Not learnt from."""
        if not rows:
            return 0.0
        total = 0.0
        for batch in layout.batches(rows, model, machine):
            found = -batch.sums(token_losses(model, batch.to(machine.device), machine).cpu())
            total += float(found.sum()) - sum(row.reference for row in batch.rows)
        return max(0.0, total / len(rows))


def with_reference(path: Path, model: Any, lesson: Lesson, layout: Layout, machine: Machine) -> Lesson:
    """The lesson with the base model's log-probability of every row. They are written to `path` once.

    `model` must still answer as the base does. Computed beforehand, they cost no second model beside the trained one.
    """
    sets = {"train": lesson.train, "validation": lesson.validation}
    found = layout.team.once(
        path, lambda: {name: log_probabilities(model, rows, layout, machine) for name, rows in sets.items()}
    )
    return replace(
        lesson,
        train=[replace(row, reference=value) for row, value in zip(lesson.train, found["train"], strict=True)],
        validation=[
            replace(row, reference=value) for row, value in zip(lesson.validation, found["validation"], strict=True)
        ],
    )


@torch.no_grad()
def log_probabilities(model: Any, rows: list[Tokens], layout: Layout, machine: Machine) -> list[float]:
    """The log-probability of each row's trained tokens, without dropout. The model's mode is put back."""
    if not rows:
        return []
    was_training = model.training
    model.eval()
    found: dict[int, float] = {}
    for batch in layout.batches(rows, model, machine):
        sums = -batch.sums(token_losses(model, batch.to(machine.device), machine).cpu())
        found |= {id(row): float(value) for row, value in zip(batch.rows, sums, strict=True)}
    model.train(was_training)
    return [found[id(row)] for row in rows]


def _pairs(model: Any, batch: Batch, machine: Machine) -> Pairs:
    """What the model says of the batch's pairs; the batch's rows are chosen and rejected in turn."""
    sums = -batch.sums(token_losses(model, batch, machine))
    reference = torch.tensor([row.reference for row in batch.rows], device=sums.device)
    tokens = torch.tensor([sum(row.trained[1:]) for row in batch.rows], device=sums.device)
    return Pairs(sums[::2], sums[1::2], reference[::2], reference[1::2], tokens[::2], tokens[1::2])


def _log_complement(log_probability: torch.Tensor) -> torch.Tensor:
    """log(1 - p) of p given as its logarithm."""
    return torch.log1p(-torch.exp(log_probability).clamp(max=1 - 1e-6))


class _Sums:
    """Losses and what they are divided by, example by example: a long text has several rows."""

    def __init__(self) -> None:
        self._losses: dict[int, float] = {}
        self._counts: dict[int, int] = {}

    def add(self, batch: Batch, sums: torch.Tensor) -> None:
        for row, value in zip(batch.rows, sums.tolist(), strict=True):
            self._add(row.example_id, value, sum(row.trained[1:]))

    def add_pairs(self, batch: Batch, losses: torch.Tensor) -> None:
        for row, value in zip(batch.rows[::2], losses.tolist(), strict=True):
            self._add(row.example_id, value, 1)

    @property
    def means(self) -> dict[int, float]:
        return {example: loss / self._counts[example] for example, loss in self._losses.items()}

    def _add(self, example: int, loss: float, count: int) -> None:
        self._losses[example] = self._losses.get(example, 0.0) + loss
        self._counts[example] = self._counts.get(example, 0) + count
