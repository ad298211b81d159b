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
from bench.collect import collect
from bench.environment import env_id
from bench.execute import Limits, capture_environment, fingerprint, new_record, run_cell
from bench.plan import Planned, describe
from bench.show import cell_line
from bench.store import Store

#: Statuses after which a longer cell of the same kind is not tried.
EXHAUSTED = ("oom", "timeout")

#: Statuses to which another attempt would come again: what is kept of the training is of no use.
SETTLED = ("ok", "diverged", "unsupported")


@dataclass
class Summary:
    """How a sweep ended."""

    records: list[dict[str, Any]] = field(default_factory=list)
    planned: int = 0
    executed: int = 0
    interrupted: bool = False
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
    return rerun == "stale" and record["code_fingerprint"] != fingerprint(cell)


def run_plan(
    plan: Sequence[Planned],
    store: Store,
    limits: Limits,
    rerun: str,
    say: Callable[[str], None] = tqdm.write,
    bar: bool = True,
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
            kept = [stored[item.cell.cell_id] for item in plan if item not in pending]
            exhausted = {_kind(Cell.from_content(r["cell"])): r for r in kept if r and r["status"] in EXHAUSTED}
            _run_pending(pending, exhausted, store, limits, summary, say, bar)
    except KeyboardInterrupt:
        summary.interrupted = True
    summary.complaints = collect(store)
    found = (store.read(item.cell.cell_id) for item in plan)
    summary.records = [record for record in found if record is not None]
    return summary


def _run_pending(
    pending: list[Planned],
    exhausted: dict[str, dict[str, Any]],
    store: Store,
    limits: Limits,
    summary: Summary,
    say: Callable[[str], None],
    bar: bool,
) -> None:
    environment = capture_environment(pending[0].cell, limits)
    store.write_environment(env_id(environment), environment)
    cells = tqdm(pending, unit="cell", disable=None if bar else True, dynamic_ncols=True)
    for item in cells:
        cells.set_description_str(item.cell.describe())
        smaller = exhausted.get(_kind(item.cell))
        if smaller and smaller["cell"]["seq_len"] < item.cell.seq_len and item.facts.verdict is None:
            reason = f"{smaller['status']} at seq_len {smaller['cell']['seq_len']} already: {smaller['reason']}"
            record = {**new_record(item, environment, store.run), "status": "skipped", "reason": reason}
        else:
            with Steps(bar) as steps:
                checkpoint = store.checkpoint(item.cell.cell_id)
                record = run_cell(item, limits, environment, store.run, steps, checkpoint)
        store.write_record(record)
        if record["status"] in SETTLED:
            store.discard_checkpoint(item.cell.cell_id)
        summary.executed += 1
        if record["status"] in EXHAUSTED:
            exhausted[_kind(item.cell)] = record
        if bar:
            say(cell_line(record))


def _kind(cell: Cell) -> str:
    """What two cells share that differ in length only."""
    content = cell.content()
    content.pop("seq_len")
    return json.dumps(content, sort_keys=True)


class Steps:
    """The bar of a training run, under the bar of the cells; it shows up with the first step."""

    def __init__(self, shown: bool) -> None:
        self.shown = shown
        self.bar: Any = None
        self.started = time.perf_counter()

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, message: dict[str, Any]) -> None:
        """Take one progress message of a cell, or a note, which is always shown."""
        if message["event"] == "note":
            tqdm.write(f"attnbench: {message['text']}", file=sys.stderr)
            return
        if not self.shown:
            return
        if self.bar is None:
            self.bar = tqdm(total=message["steps"], unit="step", leave=False, disable=None, dynamic_ncols=True)
        self.bar.total = message["steps"]  # pretraining has its own
        self.bar.update(message["step"] - self.bar.n)
        self.bar.set_postfix_str(message["note"])
