"""How much of its cores a timed part had: its CPU time, and how long its threads stood ready without a core.

A thread that waits for a core holds up all others at the next barrier of its team, so that tiny steps on an
overcommitted machine take many times their time. Low CPU time alone may also be serial code; waiting is not.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

Usage = dict[str, float | None]

TASKS = Path("/proc/self/task")


class Meter:
    """Counts from when it was made, or from its last lap."""

    def __init__(self, tasks: Path = TASKS) -> None:
        self.tasks = tasks
        self.mark = self._read()

    def lap(self) -> Usage:
        """`wall_s`, `cpu_s` and `waited_s` since then, all threads together; `waited_s` None where unknown."""
        before, self.mark = self.mark, self._read()
        (wall, cpu, waited), (wall0, cpu0, waited0) = self.mark, before
        known = waited is not None and waited0 is not None
        return {
            "wall_s": wall - wall0,
            "cpu_s": cpu - cpu0,
            "waited_s": max(waited - waited0, 0.0) if known else None,  # type: ignore[operator]
        }

    def _read(self) -> tuple[float, float, float | None]:
        return time.perf_counter(), time.process_time(), waited_s(self.tasks)


def waited_s(tasks: Path = TASKS) -> float | None:
    """Seconds that the threads of this process have waited for a core, by Linux's schedstat; None elsewhere."""
    total, seen = 0, False
    for path in tasks.glob("*/schedstat"):
        with contextlib.suppress(OSError):  # the thread has ended
            total += int(path.read_text().split()[1])
            seen = True
    return total / 1e9 if seen else None


def add(total: Usage, more: Usage) -> Usage:
    """The usage of two parts together; what is unknown of one is unknown of both."""
    both = {key: (total.get(key, 0.0), value) for key, value in more.items()}
    return {key: None if a is None or b is None else a + b for key, (a, b) in both.items()}


def shares(usage: Usage, threads: int) -> dict[str, float | None]:
    """`cpu_share` and `wait_share`: CPU and waiting time over wall time x threads; None where unknown."""
    wall = (usage.get("wall_s") or 0.0) * threads
    parts = {"cpu_share": usage.get("cpu_s"), "wait_share": usage.get("waited_s")}
    return {name: None if seconds is None or not wall else seconds / wall for name, seconds in parts.items()}
