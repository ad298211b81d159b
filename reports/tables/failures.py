"""Tables of what did not end well, of what ran where, and of the noise."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from reports.fits import covers_one
from reports.load import Run
from reports.noise import pairs
from reports.points import modes, ordered_series, records
from reports.schema import RESULTS, STATUSES
from reports.tables.base import Cell, Table
from reports.text import DASH, TIMES, interval, length


def failures_table(run: Run) -> Table | None:
    """Every cell that is not ok, equal ones counted together; None where all are."""
    columns = ("table", "env_id", "method", "level", "mode", "seq_len", "task", "status", "reason")
    counts: Counter[tuple[object, ...]] = Counter()
    for table in RESULTS:
        frame = getattr(run, table)
        for row in records(frame.loc[frame["status"] != "ok", list(columns[1:])]):
            counts[(table, *(row[name] for name in columns[1:]))] += 1
    if not counts:
        return None
    shown = [name for name in columns if name != "env_id" or len(run.env_ids) > 1]
    order = sorted(counts, key=lambda key: (key[0], key[2], key[3], key[4], key[5], key[6], key[7], key[8]))
    rows = []
    for key in order:
        fields = dict(zip(columns, key, strict=True))
        fields["seq_len"] = length(float(str(fields["seq_len"])))
        fields["reason"] = fields["reason"] or "no reason recorded"
        cells = [Cell(str(fields[name]), "failure" if name == "status" else "text") for name in shown]
        rows.append((*cells, Cell(str(counts[key]), "number")))
    names = {"seq_len": "length", "env_id": "environment", "table": "measured"}
    data = pd.DataFrame([(*key, counts[key]) for key in order], columns=[*columns, "count"])
    caption = "Each planned cell ends in a row; none of these is in any mean, fit or interval of this report."
    header = (*(names.get(name, name) for name in shown), "count")
    return Table("failures", "Cells that gave no result", caption, header, tuple(rows), data)


def gaps_table(run: Run, suffix: str) -> Table | None:
    """What a reader may look for and this run did not plan, by series and mode; None without such a gap.

    run: narrowed to one setting of costs.
    """
    frame = run.efficiency
    rows, facts = [], []
    for mode in modes(frame):
        here = frame[frame["mode"] == mode]
        lengths = {int(n) for n in here["seq_len"].unique()}
        asked = here.groupby("series")["seq_len"].unique()
        for series, _ in ordered_series(frame):
            mine = {int(n) for n in asked.get(series, ())}
            missing = sorted(lengths - mine)
            if missing:
                shown = ", ".join(map(length, missing)) if mine else "all"
                rows.append((Cell(series), Cell(mode), Cell(shown)))
                facts += [{"series": series, "mode": mode, "seq_len": n} for n in missing]
    if not rows:
        return None
    caption = "Lengths that other methods were measured at in the same mode, and these were not asked for."
    return Table(
        f"gaps{suffix}",
        "Not in the plan of this run",
        caption,
        ("method", "mode", "lengths"),
        tuple(rows),
        pd.DataFrame(facts),
    )


def runs_table(run: Run) -> Table:
    """Which run brought how many rows, from which environment, and when; one row a run and environment."""
    frames = {table: getattr(run, table) for table in RESULTS}
    everything = pd.concat(
        [frame[["run", "env_id", "started_at"]].assign(table=name) for name, frame in frames.items()]
    )
    rows, facts = [], []
    for (name, env), part in everything.groupby(["run", "env_id"], sort=True):
        counts = {table: int((part["table"] == table).sum()) for table in RESULTS}
        days = sorted(str(day)[:10] for day in part["started_at"] if day and not pd.isna(day))
        span = DASH if not days else days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
        rows.append(
            (Cell(str(name)), Cell(str(env)), *(Cell(f"{n:,}", "number") for n in counts.values()), Cell(span))
        )
        facts.append(
            {
                "run": name,
                "env_id": env,
                **counts,
                "first": days[0] if days else "",
                "last": days[-1] if days else "",
            }
        )
    caption = "Rows of one environment share figures; those of different ones never do."
    header = ("run", "environment", *RESULTS, "measured")
    return Table("runs", "Runs and environments", caption, header, tuple(rows), pd.DataFrame(facts))


def status_counts(run: Run) -> dict[str, int]:
    """How many rows ended in each status, those that occur, over all results."""
    found = Counter(str(status) for table in RESULTS for status in getattr(run, table)["status"])
    return {status: found[status] for status in STATUSES if found[status]}


def noise_table(run: Run) -> Table | None:
    """The A/A pairs: SDPA timed against itself; None without one."""
    found = pairs(run)
    if not found:
        return None
    rows = tuple(
        (
            Cell(pair.env_id),
            Cell(pair.where),
            Cell(pair.mode),
            Cell(length(pair.seq_len)),
            Cell(interval(pair.speedup, pair.low, pair.high), "number"),
            Cell("yes") if covers_one(pair.low, pair.high) else Cell("no", "failure"),
        )
        for pair in found
    )
    data = pd.DataFrame([vars(pair) for pair in found])
    caption = "Of 95 % intervals about one in twenty misses 1 by chance; more than that is a noisy machine."
    header = ("environment", "level or task", "mode", "length", f"speedup over itself ({TIMES})", "covers 1")
    return Table("noise", "SDPA against itself", caption, header, rows, data)


def backends_table(run: Run) -> Table | None:
    """Which code ran for each method, and how its memory was measured; None without cost cells."""
    columns = ["env_id", "level", "mode", "method", "device", "dtype", "backend", "peak_way"]
    frame = run.efficiency[run.efficiency["status"] == "ok"]
    if frame.empty:
        return None
    sizes = frame.groupby(columns, dropna=False).size()
    counted = {tuple(map(str, key)): int(count) for key, count in zip(sizes.index.tolist(), sizes, strict=True)}
    rows = tuple(
        (*(Cell(part or DASH) for part in key), Cell(str(count), "number"))
        for key, count in sorted(counted.items())
    )
    data = pd.DataFrame([(*key, count) for key, count in sorted(counted.items())], columns=[*columns, "count"])
    header = ("environment", "level", "mode", "method", "device", "dtype", "backend", "peak measured by", "cells")
    return Table("backends", "What really ran", "The backend that each cell reported.", header, rows, data)


def environments_table(run: Run) -> Table | None:
    """The recorded facts, a column an environment; None where none were recorded."""
    frame = run.environments
    if frame.empty:
        return None
    facts: dict[tuple[str, str], str] = {}
    for row in records(frame):
        facts[str(row["name"]), str(row["env_id"])] = str(row["value"])
    envs = sorted({env for _, env in facts})
    names = list(dict.fromkeys(name for name, _ in facts))
    rows = tuple((Cell(name), *(Cell(facts.get((name, env), DASH)) for env in envs)) for name in names)
    caption = "As recorded when the cells ran."
    return Table(
        "environment", "Environment", caption, ("fact", *envs), rows, frame.drop(columns="schema_version")
    )
