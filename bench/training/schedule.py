"""Learning-rate schedules: the factor on `lr` at a step, a function of nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable

#: OneCycle begins at a 25th of the peak and ends at a 10,000th of that (torch's defaults).
BEGIN, END = 1 / 25, 1 / 25 / 10_000


def constant(step: int, warmup: int, steps: int) -> float:
    """Linear to 1 over the warm-up, then 1."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def cosine(step: int, warmup: int, steps: int) -> float:
    """Linear to 1 over the warm-up, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def linear(step: int, warmup: int, steps: int) -> float:
    """torch's OneCycleLR with linear annealing, as in mlpen/Nystromformer: 1/25 up to 1, then down to almost 0.

    The peak is at step `warmup - 1`, the end at step `steps - 1`.
    """
    peak = warmup - 1
    if step < peak:
        return BEGIN + (1 - BEGIN) * step / peak
    if step == peak:
        return 1.0
    return 1.0 + (END - 1.0) * (step - peak) / (steps - 1 - peak)


def rsqrt(step: int, warmup: int, steps: int) -> float:
    """Long Range Arena's: min(1, step / warmup) / sqrt(max(step, warmup)), so that `lr` is not the peak.

    The first step is number 0 there as well, and its rate is 0.
    """
    return min(1.0, step / max(warmup, 1)) / math.sqrt(max(step, warmup, 1))


#: By name: (step from 0, warm-up steps, steps in all) -> factor.
SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "cosine": cosine,
    "linear": linear,
    "rsqrt": rsqrt,
    "constant": constant,
}
