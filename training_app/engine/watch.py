"""What a run watches itself for: a loss that runs away, a validation loss that no longer falls.

Functions of the progress alone, which every checkpoint keeps: a resumed run decides as an undisturbed one does.
"""

import math
from dataclasses import replace

from training_app.engine.checkpoints import Progress

PATIENT_STEPS = 10
SMOOTHING = 0.9
GUESSING_MARGIN = 0.5


def with_step(progress: Progress, loss: float, steps_per_epoch: int) -> Progress:
    """`progress` after a step of this loss, which it counts already: its running mean and the epoch's sum."""
    smooth = loss if progress.smooth_loss is None else SMOOTHING * progress.smooth_loss + (1 - SMOOTHING) * loss
    is_first = (progress.step - 1) % steps_per_epoch == 0
    before = (0.0, 0) if is_first else (progress.epoch_loss, progress.epoch_steps)
    return replace(progress, smooth_loss=smooth, epoch_loss=before[0] + loss, epoch_steps=before[1] + 1)


def runs_away(progress: Progress, vocabulary: int) -> bool:
    """True when the loss lies far above that of the base model, so that the run unlearns what the base knew.

    Far is half as much again and at least 1 nat a token, or worse than guessing among the `vocabulary`'s tokens.
    """
    base, smooth = progress.base_loss, progress.smooth_loss
    if base is None or smooth is None or progress.step <= PATIENT_STEPS:
        return False
    return smooth > min(base + max(1.0, base / 2), max(base, math.log(vocabulary)) + GUESSING_MARGIN)


def with_look(progress: Progress, loss: float) -> Progress:
    """`progress` after a look at the validation rows."""
    if progress.best_loss is None or loss < progress.best_loss:
        return replace(progress, best_loss=loss, best_step=progress.step, looks_since=0)
    return replace(progress, looks_since=progress.looks_since + 1)


def is_patience_over(progress: Progress, patience: int) -> bool:
    """True when so many looks brought no gain; never with a patience of 0."""
    return 0 < patience <= progress.looks_since
