"""A question to measured rows, from `key=value` arguments: which method, at which length, within which limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from reports.load import ReportError, Run
from reports.points import MODES, modes
from reports.settings import NO_TASK
from reports.text import length, listing

#: What a question fixes where it does not say: the plain attention of the first figure of the page.
DEFAULTS = {"level": "core", "causal": "false"}
#: Axes that a question may fix; where it does not and the run holds several values, each has an answer of its own.
AXES = (
    *DEFAULTS,
    "env_id",
    "device",
    "dtype",
    "threads",
    "heads",
    "kv_heads",
    "head_dim",
    "batch_size",
    "compile",
)

EXAMPLE = "seq_len=16384 memory_gib=8 mode=train"


@dataclass(frozen=True)
class Question:
    """What is asked. `axes` is (column, value) pairs; a limit of None is no limit."""

    seq_len: int
    mode: str = "forward"
    memory_gib: float | None = None
    error: float | None = None
    task: str | None = None
    accuracy: float | None = None
    axes: tuple[tuple[str, str], ...] = field(default=tuple(DEFAULTS.items()))

    @property
    def text(self) -> str:
        """The question in words."""
        limits = [f"{self.mode}, {length(self.seq_len)} tokens"]
        if self.memory_gib is not None:
            limits.append(f"at most {self.memory_gib:g} GiB")
        if self.error is not None:
            limits.append(f"an output error of at most {self.error:g}")
        if self.accuracy is not None:
            limits.append(f"an accuracy of at least {100 * self.accuracy:g} % on {self.task}")
        elif self.task:
            limits.append(f"task {self.task}")
        return ", ".join(limits)


def ask(arguments: Sequence[str]) -> Question:
    """The question of `key=value` arguments; ReportError for what is no such thing."""
    given: dict[str, str] = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in (*_READ, *AXES):
            raise ReportError(f"{key}: no such key; there are {', '.join((*_READ, *AXES))}")
        if key in given:
            raise ReportError(f"{key}: given twice")
        if not value:
            raise ReportError(f"{key}: has no value; {EXAMPLE} is an example")
        given[key] = value
    if "seq_len" not in given:
        raise ReportError(f"seq_len is missing; {EXAMPLE} is an example")
    if "accuracy" in given and "task" not in given:
        raise ReportError("accuracy: on which task? add task=NAME")
    limits = {key: read(given[key]) for key, read in _READ.items() if key in given}
    axes = DEFAULTS | {key: value for key, value in given.items() if key in AXES}
    return Question(**limits, axes=tuple(axes.items()))  # type: ignore[arg-type]


def asked(run: Run, question: Question) -> Run:
    """The run with only those costs, errors and accuracies that the question is about, in all modes and lengths.

    ReportError where it has none, with what it has.
    """
    frame = run.efficiency
    if frame.empty:
        raise ReportError(f"{run.name}: no costs in it; {_to_measure(question)}")
    for column, value in question.axes:
        frame = _pick(frame, column, value, run.name)
    if question.mode not in modes(frame):
        raise ReportError(
            f"mode={question.mode}: not in {run.name}, which has {listing(modes(frame))}; {_to_measure(question)}"
        )
    trained = run.accuracy
    if question.task:
        tasks = sorted(set(trained["task"].map(str)) - set(NO_TASK))
        if question.task not in tasks:
            there = f"which has {listing(tasks)}" if tasks else "where nothing was trained"
            raise ReportError(f"task={question.task}: not in {run.name}, {there}")
        trained = trained[trained["task"] == question.task]
    errors = run.errors
    causal = dict(question.axes)["causal"].lower() == "true"
    errors = errors[errors["causal"].fillna(False).astype(bool) == causal]
    return run.narrow("efficiency", frame).narrow("errors", errors).narrow("accuracy", trained)


def _pick(frame: pd.DataFrame, column: str, value: str, name: str) -> pd.DataFrame:
    """The rows with this value of an axis, as it is written."""
    words = frame[column].map(lambda found: "" if pd.isna(found) else str(found).lower())
    picked = frame[words == value.lower()]
    if picked.empty:
        there = listing(sorted(set(words) - {""})) if set(words) - {""} else "no value of it"
        raise ReportError(f"{column}={value}: not in {name}, which has {there}")
    return picked


def _to_measure(question: Question) -> str:
    return (
        "to measure it: python bench/run.py -m method=sdpa,performer,longformer "
        f"seq_len={question.seq_len} mode={question.mode}"
    )


def _whole(key: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ReportError(f"{key}={text}: expected a whole number") from None
        if value < 1:
            raise ReportError(f"{key}={text}: expected at least 1")
        return value

    return read


def _real(key: str, most: float = math.inf, *, zero: bool = False) -> Callable[[str], float]:
    expected = f"expected a number from 0 to {most:g}" if math.isfinite(most) else "expected a number above 0"
    if zero and math.isinf(most):
        expected = "expected a number of 0 or more"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ReportError(f"{key}={text}: {expected}") from None
        if not math.isfinite(value) or value < 0 or value > most or (value == 0 and not zero):
            raise ReportError(f"{key}={text}: {expected}")
        return value

    return read


def _mode(text: str) -> str:
    if text not in MODES:
        raise ReportError(f"mode={text}: no such mode; there are {', '.join(MODES)}")
    return text


#: Key -> how its value is read.
_READ: dict[str, Callable[[str], object]] = {
    "seq_len": _whole("seq_len"),
    "mode": _mode,
    "memory_gib": _real("memory_gib"),
    "error": _real("error", zero=True),
    "task": str,
    "accuracy": _real("accuracy", 1.0, zero=True),
}
