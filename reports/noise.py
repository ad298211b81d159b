"""The noise floor of the machine: how far the baseline differs from itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reports.fits import covers_one
from reports.load import Run
from reports.points import records
from reports.settings import NO_TASK
from reports.text import percent, plural


@dataclass(frozen=True)
class Pair:
    """A cell that timed the baseline against itself; its true speedup is 1."""

    env_id: str
    level: str
    mode: str
    task: str
    seq_len: int
    speedup: float
    low: float
    high: float

    @property
    def where(self) -> str:
        """The task of a training step, else the level."""
        return self.level if self.task in NO_TASK else self.task


def pairs(run: Run) -> list[Pair]:
    """The A/A pairs of the run, in order of level, mode and length."""
    rows = run.efficiency[(run.efficiency["method"] == run.efficiency["baseline"])]
    found = [
        Pair(
            env_id=str(row["env_id"]),
            level=str(row["level"]),
            mode=str(row["mode"]),
            task=str(row["task"]),
            seq_len=int(str(row["seq_len"])),
            speedup=float(str(row["speedup"])),
            low=float(str(row["speedup_low"])),
            high=float(str(row["speedup_high"])),
        )
        for row in records(rows[rows["status"] == "ok"])
    ]
    known = [pair for pair in found if math.isfinite(pair.speedup)]
    return sorted(known, key=lambda pair: (pair.env_id, pair.level, pair.mode, pair.seq_len, pair.task))


def round_spread(run: Run) -> float:
    """Interquartile range over median of the baseline's rounds: its median over the cells; NaN without."""
    rounds = run.samples[run.samples["subject"] == "baseline"].groupby(["env_id", "cell_id"])["wall_ms"]
    spread = (rounds.quantile(0.75) - rounds.quantile(0.25)) / rounds.median()
    return float(spread.median()) if len(spread) else math.nan


def noise_sentences(run: Run) -> list[str]:
    """What the A/A pairs and the spread of the rounds say about this machine."""
    found = pairs(run)
    covering = sum(covers_one(pair.low, pair.high) for pair in found)
    worst = max(abs(pair.speedup - 1) for pair in found)
    lines = [
        f"{covering} of {plural(len(found), 'A/A pair')} cover 1; the largest difference of SDPA from itself "
        f"is {percent(worst)} %."
    ]
    spread = round_spread(run)
    if math.isfinite(spread):
        lines.append(
            f"From round to round the baseline's time spreads by {percent(spread)} % (interquartile range over "
            f"median, median over cells), which the pairing of rounds takes out."
        )
    return [*lines, *contention_sentences(run)]


def contention_sentences(run: Run) -> list[str]:
    """How many rows were timed while others had the cores, as far as that is known; none where none was."""
    lines = []
    for table, what in ((run.efficiency, "cost cell"), (run.accuracy, "training run")):
        known = table[table["contended"].notna()]
        busy = known[known["contended"].astype(bool)]
        if len(busy):
            methods = ", ".join(sorted(set(busy["method"])))
            lines.append(
                f"The machine was not free for {len(busy)} of {plural(len(known), what)}: threads waited for a "
                f"core more than 5 % of the time, at most {percent(float(busy['wait_share'].max()))} %. "
                f"Distrust the absolute times of {methods} there; speedups are paired."
            )
    return lines
