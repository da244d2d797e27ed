"""The learning rate of every step, as a function of the step alone: a resumed run needs no saved schedule."""

import math


def rate_share(step: int, total: int, warmup_share: float, scheduler: str) -> float:
    """Share of the full learning rate in step `step` (from 0) of `total`: a linear rise, then the fall to zero."""
    warmup = round(total * warmup_share)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if scheduler == "constant":
        return 1.0
    passed = (step - warmup) / max(1, total - warmup)
    return 1.0 - passed if scheduler == "linear" else 0.5 * (1.0 + math.cos(math.pi * passed))
