"""What others published, as context: tables and a caveat from two files of this folder, apart from all measured.

Nothing here is a run. The figures are facts from the named tables; they were taken on other machines, with other
code, data pipelines and tuning. Only the last section of the page shows them; no plot, fit or answer sees them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from reports.tables.base import Cell, Table
from reports.text import DASH, length

_HERE = Path(__file__).parent
#: What its tables are called, and what marks every row of their CSV files.
PREFIX = "literature"
_MARK = "published elsewhere"
_TITLE = "Published elsewhere, not measured here"


@dataclass(frozen=True)
class Source:
    """Where numbers stand: a table of a paper or page, what was run there, and what to mind."""

    source: str
    title: str
    where: str
    table: str
    setting: str
    caveat: str

    @property
    def name(self) -> str:
        """Short: who, and which table."""
        return f"{self.title}, {self.table}"


@dataclass(frozen=True)
class Number:
    """One published figure. `method` is ours that computes the like, or empty; `value` is as printed."""

    source: str
    model: str
    method: str
    task: str
    seq_len: str
    measure: str
    value: str
    unit: str


@lru_cache(maxsize=1)
def sources() -> dict[str, Source]:
    """Source by its key."""
    return {row["source"]: Source(**row) for row in _rows("literature_sources.csv")}


@lru_cache(maxsize=1)
def numbers() -> tuple[Number, ...]:
    """Every figure, in the order of its file."""
    return tuple(Number(**row) for row in _rows("literature.csv"))


def _rows(name: str) -> list[dict[str, str]]:
    with (_HERE / name).open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def caveats() -> list[str]:
    """What to mind before comparing, the widest disagreement between sources among it."""
    return [
        "These numbers were published elsewhere. They come from other machines, code, data and tuning, mostly "
        "without an interval, and none of them is in any plot, table, fit or answer above.",
        _disagreement(),
        "So they tell what orders of magnitude to expect, not whether a result above is right.",
    ]


def _disagreement() -> str:
    """The method and task on which the sources differ most."""
    groups: dict[tuple[str, str], list[float]] = {}
    for one in numbers():
        if one.measure == "accuracy" and one.method and _is_number(one.value):
            groups.setdefault((one.method, one.task), []).append(float(one.value))
    (method, task), values = max(groups.items(), key=lambda item: max(item[1]) - min(item[1]))
    return (
        f"They do not agree among themselves: {method} on {task} is {min(values):g} to {max(values):g} % "
        f"in {len(values)} sources."
    )


def literature_tables(methods: Iterable[str], tasks: Iterable[str]) -> list[Table]:
    """Accuracies, costs, and where both come from; what the run measured, by method and task, goes first."""
    mine, known = set(methods), sorted(map(str, tasks))
    order = sorted(numbers(), key=lambda one: one.method not in mine)
    accuracies = [one for one in order if one.measure == "accuracy"]
    costs = [one for one in order if one.measure != "accuracy"]
    columns = list(dict.fromkeys(one.task for one in accuracies))
    # `listops_mini` is a smaller listops: the nearest that the run has.
    columns.sort(key=lambda task: not any(name == task or name.startswith(f"{task}_") for name in known))
    lengths = sorted({one.seq_len for one in costs}, key=int)
    return [
        _grid(
            f"{PREFIX}-accuracy",
            f"{_TITLE}: accuracy (%)",
            "As printed in each source; FAIL: not above chance. Long Range Arena's tasks at their published "
            "sizes, which the tasks of this run need not have.",
            accuracies,
            columns,
            columns,
        ),
        _grid(
            f"{PREFIX}-cost",
            f"{_TITLE}: speed and memory",
            "As printed in each source, each on its own machine: compare within a source only.",
            costs,
            lengths,
            [length(int(n)) for n in lengths],
        ),
        _sources_table(),
    ]


def _grid(
    name: str, title: str, caption: str, found: Sequence[Number], columns: Sequence[str], heads: Sequence[str]
) -> Table:
    """One row a model and measure of a source."""
    by_cost = any(one.measure != "accuracy" for one in found)
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for one in found:
        label = (one.model, sources()[one.source].name, *((f"{one.measure} ({one.unit})",) if by_cost else ()))
        rows.setdefault(label, {})[one.seq_len if by_cost else one.task] = one.value
    cells = tuple(
        (
            *map(Cell, label),
            *(Cell(values[c]) if c in values else Cell(DASH, "empty", note="not printed") for c in columns),
        )
        for label, values in rows.items()
    )
    header = ("model", "source", *(("measure",) if by_cost else ()), *heads)
    data = pd.DataFrame([{"origin": _MARK, **vars(one)} for one in found])
    return Table(name, title, caption, header, cells, data)


def _sources_table() -> Table:
    rows = tuple(
        tuple(map(Cell, (one.title, one.where, one.table, one.setting, one.caveat))) for one in sources().values()
    )
    data = pd.DataFrame([{"origin": _MARK, **vars(one)} for one in sources().values()])
    caption = "Figures are quoted from these tables; what was run there, and what to mind."
    header = ("source", "where", "table", "setting", "mind")
    return Table(f"{PREFIX}-sources", f"{_TITLE}: the sources", caption, header, rows, data)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
