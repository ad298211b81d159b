"""Latency in paired rounds: method and baseline take turns, so that a drift of the machine hits both.

Each turn is a block of calls timed by torch.utils.benchmark; the order within a round alternates. A speedup
is a ratio within a round, which a slow phase of the machine leaves alone; absolute times it does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch.utils.benchmark import Timer

from bench.case import Case
from bench.cell import Measure
from bench.measure.guard import unchanged
from bench.measure.usage import Meter
from bench.stats import is_known, speedups


def measure(
    method: Case, baseline: Case, settings: Measure, threads: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """Time both cases; returns `samples`, one dict a block: round, position, subject, wall_s, cpu_s, calls.

    `usage` is what the rounds as a whole had of the cores (bench/measure/usage.py).
    """
    subjects = {
        "method": Turn(method, settings, threads, clock),
        "baseline": Turn(baseline, settings, threads, clock),
    }
    for name, turn in subjects.items():
        with unchanged(f"the {name}"):  # the timer puts the number of threads back
            turn.warm_up()
    samples: list[dict[str, Any]] = []
    started, meter = time.perf_counter(), Meter()
    for index in range(settings.max_rounds):
        # stop after a pair of rounds, so that each subject went first as often as the other
        if index >= settings.min_rounds and index % 2 == 0:
            spent = time.perf_counter() - started > settings.budget_s
            if spent or is_known(speedups(samples), settings.precision):
                break
        order = list(subjects) if index % 2 == 0 else list(reversed(subjects))
        for position, name in enumerate(order):
            samples.append({"round": index, "position": position, "subject": name, **subjects[name].block()})
    return {
        "samples": samples,
        "usage": meter.lap(),
        "backend": method.backend,
        "baseline_backend": baseline.backend,
        "tokens": method.tokens,
    }


#: Calls that take this long are timed one by one. Shorter ones go in blocks of as many as fill `measure.block_s`,
#: after calls that find out how many: a cost that matters to a long call alone.
LONG_S = 0.5


class Turn:
    """One subject's blocks of calls."""

    def __init__(self, case: Case, settings: Measure, threads: int, clock: Callable[[], float]) -> None:
        self.case = case
        self.block_s = settings.block_s
        self.clock = clock
        self.calls = 0
        self.call_s = 0.0
        self.timer = Timer("call()", globals={"call": self._counted}, num_threads=threads, timer=clock)

    def _counted(self) -> None:
        self.calls += 1
        self.case.call()

    def _once(self) -> float:
        start = self.clock()
        self._counted()
        return self.clock() - start

    def warm_up(self) -> None:
        """The first call, which may compile and allocate; it tells whether calls are long."""
        self.call_s = self._once()

    def block(self) -> dict[str, Any]:
        """Wall and CPU seconds a call; CPU time of all threads, over every call including the calibration."""
        before, cpu = self.calls, time.process_time()
        if self.call_s > LONG_S:
            self.call_s = self._once()
        else:
            self.call_s = self.timer.blocked_autorange(min_run_time=self.block_s).median
        calls = self.calls - before
        return {"wall_s": self.call_s, "cpu_s": (time.process_time() - cpu) / calls, "calls": calls}
