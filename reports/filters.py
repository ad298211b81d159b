"""What a reader of the page may narrow it by: the values of each filter, from the rows of the run."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from reports.hardware import hardware
from reports.load import Run
from reports.points import modes, records, series_order
from reports.schema import RESULTS
from reports.settings import NO_TASK
from reports.style import Style, outline, styles
from reports.text import length


@dataclass(frozen=True)
class Option:
    """One value of a filter: as the script compares it, and as it is shown."""

    value: str
    label: str
    style: Style | None = None

    @property
    def shape(self) -> str:
        """The marker as path data."""
        return outline(self.style.marker) if self.style else ""


@dataclass(frozen=True)
class Filter:
    """A filter by name; one with a single value filters nothing and is left out."""

    name: str
    title: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Filters:
    """The filters of a page. Methods are its legend too; `lengths` are the ends of a range."""

    methods: Filter
    menus: tuple[Filter, ...]
    lengths: tuple[Option, ...]


def filters(run: Run) -> Filters:
    """Every filter that `run` has two values for, and its methods in any case."""
    frames = {table: getattr(run, table) for table in RESULTS}
    looks = styles(run.methods)
    methods = sorted(run.methods, key=lambda name: series_order(name, name))
    everything = pd.concat([frame[["task", "budget_name", "budget_value"]] for frame in frames.values()])
    tasks = sorted({str(task) for task in everything["task"]} - set(NO_TASK))
    labels = dict.fromkeys(label for frame in frames.values() for label in hardware(run, frame))
    lengths = sorted({int(n) for table in ("efficiency", "errors") for n in frames[table]["seq_len"]})
    menus = (
        Filter("mode", "Mode", _options(modes(run.efficiency))),
        Filter("task", "Task", _options(tasks)),
        Filter("budget", "Budget", _options(_budgets(everything))),
        Filter("hardware", "Hardware", _options(sorted(labels))),
    )
    return Filters(
        Filter("method", "Methods", tuple(Option(name, name, looks[name]) for name in methods)),
        tuple(menu for menu in menus if len(menu.options) > 1),
        tuple(Option(str(n), length(n)) for n in lengths) if len(lengths) > 1 else (),
    )


def _options(values: list[str]) -> tuple[Option, ...]:
    return tuple(Option(value, value) for value in values)


def _budgets(frame: pd.DataFrame) -> list[str]:
    """Each budget as the script writes it: a name and a number, ordered by both."""
    rows = records(frame.dropna(subset=["budget_value"]).drop_duplicates(["budget_name", "budget_value"]))
    found = sorted((str(row["budget_name"]), float(str(row["budget_value"]))) for row in rows)
    return [f"{name} {int(value) if value.is_integer() else value!r}" for name, value in found]
