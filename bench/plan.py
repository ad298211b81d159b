"""The plan: every cell of a sweep, composed and checked before the first one runs.

A sweep is a union of grids, since a window belongs to Longformer and a rank to Linformer; a grid is a product
of axes. What the user sets on the command line restricts the axes that it names.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bench.build import Facts, facts_of
from bench.cell import Cell
from bench.compose import Composer, key_of
from bench.errors import Refused
from bench.match import matched
from bench.resolve import cell_from_config, cell_from_settings
from bench.schema import GROUPS


@dataclass(frozen=True)
class Planned:
    """A cell and what is known of it without running it."""

    cell: Cell
    facts: Facts


def cell_of(cfg: DictConfig) -> Cell:
    """The cell of one configuration, its budget chosen where that is asked for. Raises Refused."""
    return matched(cell_from_config(cfg))


def plan_cells(cells: Sequence[Cell]) -> list[Planned]:
    """Look at every cell once, drop repetitions, and put short cells first."""
    unique = {cell.cell_id: cell for cell in cells}
    found = facts_of(unique.values())
    planned = [Planned(cell, facts) for cell, facts in zip(unique.values(), found, strict=True)]
    return sorted(planned, key=lambda item: (item.facts.work, item.cell.method.name, item.cell.cell_id))


def share(planned: Sequence[Planned], shard: str | None) -> list[Planned]:
    """The i-th of n parts of a plan, `shard` being i/n: every n-th cell, so that parts take about as long."""
    if shard is None:
        return list(planned)
    part, _, parts = shard.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise Refused(f"shard={shard}: expected i/n with i from 1 to n, 2/8 say")
    return list(planned[int(part) - 1 :: int(parts)])


def sweep_cells(sweep: DictConfig, user: Sequence[str], composer: Composer) -> list[Cell]:
    """All cells of the grids of a sweep, under the user's own overrides. Raises Refused at the first bad one."""
    cells: list[Cell] = []
    fixed = [item for item in user if key_of(item) != "sweep" and not key_of(item).startswith("sweep.")]
    grids = OmegaConf.to_container(sweep.grids, resolve=True)
    assert isinstance(grids, dict)
    for name, axes in ((str(name), axes) for name, axes in grids.items()):
        if not isinstance(axes, dict) or not axes:
            raise Refused(f"sweep.grids.{name}: expected a mapping of axis to values, got {axes!r}")
        cells += [matched(cell_from_settings(composer.settings(item))) for item in expand(axes, fixed)]
    if not cells:
        raise Refused(f"sweep={sweep.name}: no cell is left after {' '.join(fixed)}")
    return cells


def expand(axes: Mapping[str, Any], user: Sequence[str]) -> list[list[str]]:
    """The overrides of each cell of one grid.

    A value may carry overrides that go with it: `longformer method.window=64`. A user's choice of a group
    (method=performer) keeps the values that begin with it and drops a grid that has none; a user's value for
    any other axis of the grid replaces the axis; all else is added to each cell.
    """
    chosen = {key_of(item): item.split("=", 1)[1] for item in user if "=" in item}
    product: list[list[list[str]]] = []
    for axis, values in axes.items():
        options = [literal(value).split(" ") for value in (values if isinstance(values, list) else [values])]
        if axis in chosen:
            kept = [option for option in options if option[0] == chosen[axis]]
            if axis in GROUPS and not kept:
                return []
            options = kept or [[chosen[axis]]]
        product.append([[f"{axis}={option[0]}", *option[1:]] for option in options])
    rest = [item for item in user if key_of(item) not in axes]
    return [
        [*(part for option in combination for part in option), *rest]
        for combination in itertools.product(*product)
    ]


def literal(value: Any) -> str:
    """A YAML value as Hydra's override grammar writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(literal(item) for item in value) + "]"
    return str(value)


def describe(planned: Sequence[Planned], done: int) -> str:
    """What is about to run, with counts by table and method."""
    tables = Counter(item.cell.table for item in planned)
    methods = Counter(item.cell.method.name for item in planned)
    lines = [
        f"plan: {len(planned)} cells ({', '.join(f'{n} {name}' for name, n in sorted(tables.items()))})",
        f"      {', '.join(f'{name} {n}' for name, n in sorted(methods.items()))}",
    ]
    refused = sum(item.facts.verdict is not None for item in planned)
    if refused:
        lines.append(f"      {refused} cannot run here and get a row that says why")
    if done:
        lines.append(f"      {done} are done already and are not run again")
    return "\n".join(lines)
