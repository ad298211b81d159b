"""The facts at the head of the page: machine, versions, dates, and how many cells ended how."""

from __future__ import annotations

import pandas as pd

from reports.load import Run
from reports.points import records
from reports.schema import RESULTS
from reports.tables.failures import status_counts
from reports.text import listing, plural

#: Facts of an environment that a reader looks for first, by the names they may have been recorded under.
_HEADLINES = (
    ("machine", ("gpu", "gpu_name", "device_name", "accelerator", "cpu", "cpu_model", "processor", "machine")),
    ("torch", ("torch", "torch_version")),
    ("Python", ("python", "python_version")),
    ("system", ("os", "platform", "system")),
)


def facts(run: Run) -> list[tuple[str, str]]:
    """(name, value) pairs; where two environments differ, each value once."""
    recorded: dict[str, dict[str, None]] = {}
    for row in records(run.environments):
        if row["value"] and row["value"] != "none":
            recorded.setdefault(str(row["name"]).lower(), {})[str(row["value"])] = None
    found = []
    for label, names in _HEADLINES:
        values = next((list(recorded[name]) for name in names if name in recorded), None)
        if values:
            found.append((label, " / ".join(values)))
    found.append(("methods", str(len(run.methods))))
    started = sorted(
        str(day)[:10] for table in RESULTS for day in getattr(run, table)["started_at"] if not pd.isna(day) and day
    )
    if started:
        same = started[0] == started[-1]
        found.append(("measured", started[0] if same else f"{started[0]} to {started[-1]}"))
    counts = status_counts(run)
    rows = sum(counts.values())
    found.append(("rows", f"{rows:,}: {', '.join(f'{count:,} {status}' for status, count in counts.items())}"))
    return found


def warnings(run: Run) -> list[str]:
    """What a reader must know before any number: more to come, several environments, nothing that ended well."""
    lines = run.unfinished
    if len(run.env_ids) > 1:
        lines.append(
            f"This run holds results of {plural(len(run.env_ids), 'environment')} ({listing(list(run.env_ids))}). "
            f"They are never pooled: each has figures and tables of its own, and times of different "
            f"environments do not compare."
        )
    for env, names in run.efficiency.groupby("env_id")["run"].unique().items():
        if len(names) > 1:
            lines.append(
                f"Runs {listing(sorted(map(str, names)))} were measured in one environment ({env}) "
                f"and share its figures."
            )
    if status_counts(run).get("ok", 0) == 0:
        lines.append("No cell of this run ended well; the reasons are listed under failures.")
    return lines
