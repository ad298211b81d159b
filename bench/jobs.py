"""Cells as jobs of a scheduler: planned once into the results folder, run one by one by whoever gets them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil

from bench.build import facts
from bench.cell import Cell
from bench.collect import collect
from bench.errors import StoreError
from bench.execute import Limits, new_record
from bench.plan import Planned
from bench.store import Store
from bench.sweep import Machines, must_run, run_plan

#: What a process needs beside its tensors: torch, and its threads' stacks.
PROCESS_MIB = 2048
#: Seconds that a job needs beside its cell's own limit.
START_S = 120


@dataclass(frozen=True)
class Needs:
    """What a scheduler must set aside for a cell; cells with the same needs may go into one array of jobs."""

    device: str
    cpus: int
    memory_mib: int
    time_s: int


def needs(item: Planned, limits: Limits) -> Needs:
    """Memory is the next power of two over the cell's footprint, so that there are few kinds of jobs."""
    cell = item.cell
    wanted = limits.memory_mib or item.facts.footprint_mib
    memory = 2 ** ceil(max(wanted, 1) + PROCESS_MIB).bit_length()
    time_s = START_S + limits.timeout(cell)
    return Needs(cell.hardware.device.partition(":")[0], cell.hardware.threads, memory, ceil(time_s))


def publish(store: Store, plan: Sequence[Planned], limits: Limits, rerun: str) -> list[Planned]:
    """Write what workers need into the folder; returns the cells that have to run."""
    store.open()
    pending = [item for item in plan if must_run(store.read(item.cell.cell_id), item.cell, rerun)]
    for item in plan:
        store.write_planned(
            item.cell.cell_id,
            {"cell": item.cell.content(), "data_dir": item.cell.data_dir, "limits": asdict(limits)},
        )
    if rerun != "none":
        for item in pending:
            store.discard_record(item.cell.cell_id)
    return pending


def planned(store: Store, cell_ids: Iterable[str]) -> list[tuple[Planned, Limits]]:
    """The cells as they were published. Raises StoreError for an id that was not."""
    found = []
    for cell_id in cell_ids:
        entry = store.read_planned(cell_id)
        if entry is None:
            raise StoreError(
                f"{store.folder}: cell {cell_id} is not in its plan; publish it with bench/cluster.py"
            )
        cell = Cell.from_content({**entry["cell"], "data_dir": entry["data_dir"]})
        found.append((Planned(cell, facts(cell)), Limits(**entry["limits"])))
    return found


def run_planned(store: Store, cell_ids: Sequence[str]) -> list[str]:
    """Run published cells that are not done; a line for each that another worker has. No tables are written.

    A claim that may be a lost worker's is waited for. KeyboardInterrupt when it comes in the middle: the cell in
    flight is left to whoever comes next.
    """
    alike: dict[Limits, list[Planned]] = defaultdict(list)  # one look at the machine for all of them
    for item, limits in planned(store, cell_ids):
        alike[limits].append(item)
    left = []
    for limits, items in alike.items():
        elsewhere = _run(items, store, limits)
        if elsewhere and any(_is_lost(store, item.cell.cell_id) for item in items):
            elsewhere = _run(items, store, limits)
        left += elsewhere
    return left


def _run(items: Sequence[Planned], store: Store, limits: Limits) -> list[str]:
    summary = run_plan(items, store, limits, "none", bar=False, tables=False)
    if summary.interrupted:
        raise KeyboardInterrupt
    return summary.elsewhere


def _is_lost(store: Store, cell_id: str) -> bool:
    """Whether a cell has neither a record nor a worker that lives; known after a lease at most."""
    return store.read(cell_id) is None and store.claims.outlived(cell_id) and store.read(cell_id) is None


def finish(store: Store) -> str:
    """Give every published cell that has no record one that says so, and write the tables; a line on both."""
    lost = [cell_id for cell_id in store.planned_ids() if _is_lost(store, cell_id)]
    machines = Machines(store, Limits())
    for item, _ in planned(store, lost):
        environment = machines.of(item.cell).environment
        with store.claims.taken(item.cell.cell_id) as ours:
            if ours:
                reason = "its job ended without a record: killed, or never started"
                store.write_record({**new_record(item, environment, store.run), "reason": reason})
    collect(store)
    return f"{len(store.planned_ids())} cells planned, {len(lost)} of them lost; rows in {store.folder}/*.csv"
