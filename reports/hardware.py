"""What a row ran on, in a few words: device, dtype and threads, and the environment where there are several."""

from __future__ import annotations

import pandas as pd

from reports.load import Run
from reports.points import records
from reports.text import plural

#: The column that the page adds to the rows it holds; no CSV file has it.
HARDWARE = "_hardware"
_COLUMNS = ("env_id", "device", "dtype", "threads", "processes")


def hardware(run: Run, frame: pd.DataFrame) -> list[str]:
    """A label for each row of `frame`; equal labels are equal hardware."""
    several = len(run.env_ids) > 1
    rows = records(frame[list(_COLUMNS)])
    keys = [tuple(row.values()) for row in rows]
    labels = {key: _label(row, several) for key, row in dict(zip(keys, rows, strict=True)).items()}
    return [labels[key] for key in keys]


def _label(row: dict[str, object], several: bool) -> str:
    parts = [str(row["device"] or ""), str(row["dtype"] or "")]
    if row["threads"] is not None:
        parts.append(plural(int(str(row["threads"])), "thread"))
    if row["processes"] not in (None, 1):
        parts.append(plural(int(str(row["processes"])), "process"))
    if several:
        parts.append(f"environment {row['env_id']}")
    return ", ".join(part for part in parts if part)
