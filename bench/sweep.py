"""Running a plan: done cells are left alone, hopeless ones skipped with the reason, the rest measured."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from bench.cell import Cell
from bench.collect import collect, was_contended
from bench.environment import env_id
from bench.execute import Limits, Machine, look, measure_ceiling, new_record, run_cell
from bench.fingerprint import fingerprint
from bench.plan import Planned, describe
from bench.show import cell_line
from bench.store import Store
from bench.turn import turn

#: Statuses after which a longer cell of the same kind is not tried.
EXHAUSTED = ("oom", "timeout")

#: Statuses to which another attempt would come again: what is kept of the training is of no use.
SETTLED = ("ok", "diverged", "unsupported")


@dataclass
class Summary:
    """How a sweep ended. elsewhere: a line for each cell that another worker of the same folder is running."""

    records: list[dict[str, Any]] = field(default_factory=list)
    planned: int = 0
    executed: int = 0
    interrupted: bool = False
    elsewhere: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def counts(self) -> str:
        """`ok 41, unsupported 2`."""
        found = Counter(record["status"] for record in self.records)
        return ", ".join(f"{status} {n}" for status, n in found.most_common())


def must_run(record: dict[str, Any] | None, cell: Cell, rerun: str) -> bool:
    """Whether a cell with this stored record runs under this policy; one that lacked data always does."""
    if record is None or rerun == "all":
        return True
    if record["status"] == "unsupported" and record["reason"].startswith("task.data_dir"):
        return True  # the data may have come since
    if rerun == "failed":
        return record["status"] not in ("ok", "unsupported")
    if rerun == "contended":
        return was_contended(record)
    return rerun == "stale" and record["code_fingerprint"] != fingerprint(cell)


def run_plan(
    plan: Sequence[Planned],
    store: Store,
    limits: Limits,
    rerun: str,
    say: Callable[[str], None] = tqdm.write,
    bar: bool = True,
    tables: bool = True,
) -> Summary:
    """Run the cells that have to run, shortest first, and write the tables. Ctrl-C keeps what is finished."""
    store.open()
    stored = {item.cell.cell_id: store.read(item.cell.cell_id) for item in plan}
    pending = [item for item in plan if must_run(stored[item.cell.cell_id], item.cell, rerun)]
    summary = Summary(planned=len(plan))
    if bar:
        say(describe(plan, len(plan) - len(pending)))
    try:
        if pending:
            again = {item.cell.cell_id for item in pending}
            kept = [record for cell_id, record in stored.items() if cell_id not in again]
            exhausted = {_kind(Cell.from_content(r["cell"])): r for r in kept if r and r["status"] in EXHAUSTED}
            work = Work(store, stored, limits, summary, exhausted, say, bar)
            work.run(pending)
    except KeyboardInterrupt:
        summary.interrupted = True
        store.claims.give_up()
    if tables:
        summary.complaints = collect(store)
    ran = {item.cell.cell_id for item in pending}
    found = ((store.read(cell_id) if cell_id in ran else record) for cell_id, record in stored.items())
    summary.records = [record for record in found if record is not None]
    return summary


class Machines:
    """The machine with each device that cells ask for, looked at once; what it is stands beside the records."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self.store, self.limits = store, limits
        self._seen: dict[str, Machine] = {}

    def of(self, cell: Cell) -> Machine:
        """The machine with the cell's device."""
        device = cell.hardware.device
        if device not in self._seen:
            found = self._seen[device] = look(cell, self.limits)
            self.store.write_environment(env_id(found.environment), found.environment)
        return self._seen[device]


@dataclass
class Work:
    """The cells of one worker, in turn.

    stored: what was there when the plan was made. exhausted: kind of cell -> record of a shorter one that ran out.
    """

    store: Store
    stored: dict[str, dict[str, Any] | None]
    limits: Limits
    summary: Summary
    exhausted: dict[str, dict[str, Any]]
    say: Callable[[str], None]
    bar: bool
    ceilings: dict[tuple[str, str, int], dict[str, float]] = field(default_factory=dict)
    noted: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.machines = Machines(self.store, self.limits)

    def run(self, pending: Sequence[Planned]) -> None:
        """Run every cell that no other worker has, and at the end those whose worker was lost."""
        cells = tqdm(pending, unit="cell", disable=None if self.bar else True, dynamic_ncols=True)
        others = []
        for item in cells:
            cells.set_description_str(item.cell.describe())
            if not self._claimed(item):
                others.append(item)
        for item in others:
            if not self._claimed(item):
                holder = self.store.claims.holder(item.cell.cell_id) or "another worker"
                self.summary.elsewhere.append(f"{item.cell.describe()}: {holder}")

    def _ceiling(self, cell: Cell) -> dict[str, float]:
        """What the cell's machine can do, measured once for each device, dtype and number of threads."""
        key = (cell.hardware.device, cell.hardware.dtype, cell.hardware.threads)
        if key not in self.ceilings:
            self.ceilings[key] = measure_ceiling(cell, self.limits)
        return self.ceilings[key]

    def _claimed(self, item: Planned) -> bool:
        """Run a cell unless another worker has it, or has done it meanwhile; whether it is done."""
        with self.store.claims.taken(item.cell.cell_id) as ours:
            if not ours:
                return False
            found, before = self.store.read(item.cell.cell_id), self.stored[item.cell.cell_id]
            if _run_of(found) == _run_of(before):  # else another worker has done it meanwhile
                self._measure(item)
        return True

    def _measure(self, item: Planned) -> None:
        machine = self.machines.of(item.cell)
        smaller = self.exhausted.get(_kind(item.cell))
        if smaller and smaller["cell"]["seq_len"] < item.cell.seq_len and item.facts.verdict is None:
            reason = f"{smaller['status']} at seq_len {smaller['cell']['seq_len']} already: {smaller['reason']}"
            blank = new_record(item, machine.environment, self.store.run)
            record = {**blank, "status": "skipped", "reason": reason}
        else:
            checkpoint = self.store.checkpoint(item.cell.cell_id)
            with turn(item.cell, machine.board), Steps(self.bar, self.noted) as steps:
                ceiling = self._ceiling(item.cell) if "latency" in item.cell.measure.passes else {}
                record = run_cell(item, self.limits, machine.environment, self.store.run, steps, checkpoint)
            record["ceiling"] = ceiling
        self.store.write_record(record)
        if record["status"] in SETTLED:
            self.store.discard_checkpoint(item.cell.cell_id)
        self.summary.executed += 1
        if record["status"] in EXHAUSTED:
            self.exhausted[_kind(item.cell)] = record
        if self.bar:
            self.say(cell_line(record))


def _run_of(record: dict[str, Any] | None) -> tuple[Any, ...] | None:
    """What tells one run of a cell from another."""
    return None if record is None else tuple(record[key] for key in ("run", "started_at", "elapsed_s"))


def _kind(cell: Cell) -> str:
    """What two cells share that differ in length only."""
    content = cell.content()
    content.pop("seq_len")
    return json.dumps(content, sort_keys=True)


class Steps:
    """The bar of a training run, under the bar of the cells; it shows up with the first step.

    noted: the notes that have been shown, by other cells as well.
    """

    def __init__(self, shown: bool, noted: set[str]) -> None:
        self.shown, self.noted = shown, noted
        self.bar: Any = None
        self.started = time.perf_counter()

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, message: dict[str, Any]) -> None:
        """Take one progress message of a cell, or a note, which is always shown, and once."""
        if message["event"] == "note":
            if message["text"] not in self.noted:
                tqdm.write(f"attnbench: {message['text']}", file=sys.stderr)
            self.noted.add(message["text"])
            return
        if not self.shown:
            return
        if self.bar is None:
            self.bar = tqdm(total=message["steps"], unit="step", leave=False, disable=None, dynamic_ncols=True)
        self.bar.total = message["steps"]  # pretraining has its own
        self.bar.update(message["step"] - self.bar.n)
        self.bar.set_postfix_str(message["note"])
