"""What a run has measured and not yet put into its tables: it is in progress, or was ended while it was.

The harness keeps a record a cell and writes the tables from them when a sweep ends or is interrupted. Only the
names of the records are looked at.
"""

from __future__ import annotations

from pathlib import Path

from reports.text import plural

_WHEN = "the tables are written when a sweep ends or is interrupted; the command that began it goes on with it"


def untold(folder: Path, known: set[str]) -> int:
    """How many cells have a record in the run's folder, and no row in its tables; `known`: the cells that have."""
    return len({path.stem for path in (folder / "cells").glob("*.json")} - known)


def in_progress(folder: Path, known: set[str]) -> str:
    """A sentence on such cells; empty where there are none."""
    count = untold(folder, known)
    if not count:
        return ""
    has = "has" if count == 1 else "have"
    return f"{plural(count, 'cell')} of {folder.name} {has} a result that is in no table yet: {_WHEN}."
