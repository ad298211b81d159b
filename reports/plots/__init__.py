"""The figures of the report: one module a figure, each with `FIGURE`, which says how to read and draw it."""

from __future__ import annotations

from reports.plots import (
    accuracy,
    breakdown,
    curves,
    error_budget,
    error_length,
    memory,
    noise,
    speedup,
    throughput,
    time,
    tradeoff,
)
from reports.plots.base import Plot

SCALING: tuple[Plot, ...] = (time.FIGURE, throughput.FIGURE, memory.FIGURE, speedup.FIGURE)
ERROR: tuple[Plot, ...] = (error_budget.FIGURE, error_length.FIGURE)
ACCURACY: tuple[Plot, ...] = (accuracy.FIGURE,)
BREAKDOWN: tuple[Plot, ...] = (breakdown.FIGURE,)
CURVES: tuple[Plot, ...] = (curves.FIGURE,)
TRADEOFF: tuple[Plot, ...] = (tradeoff.FIGURE,)
NOISE: tuple[Plot, ...] = (noise.FIGURE,)
