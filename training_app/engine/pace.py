"""How long a run still takes, told from its own last steps."""

import statistics
from collections import deque
from dataclasses import dataclass, field

RECENT_STEPS = 50
FORWARD_SHARE = 0.4  # of a step's time a token, what a look at a validation row takes


@dataclass
class Pace:
    """Steps differ in length and neighbours disturb some: the median of the recent seconds a token is what lasts."""

    step_tokens: float  # of a mean step
    look_tokens: int  # of one look at the validation rows
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))
    _looks: list[float] = field(default_factory=list)

    def add_step(self, seconds: float, tokens: int) -> None:
        """A step is done; the first of a process are slower and soon forgotten."""
        self._recent.append(seconds / tokens)

    def add_look(self, seconds: float) -> None:
        """A look at the validation rows is done."""
        self._looks.append(seconds)

    def seconds_left(self, steps: int, looks: int) -> float:
        """What so many steps and looks will take; at least one step has been added."""
        token = statistics.median(self._recent)
        look = statistics.mean(self._looks) if self._looks else FORWARD_SHARE * token * self.look_tokens
        return steps * self.step_tokens * token + looks * look
