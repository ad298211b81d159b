"""The tables of one run, or of several, as typed DataFrames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from reports.parse import ReportError, empty_table, read_table
from reports.progress import in_progress
from reports.schema import RESULTS, TABLES, UNIQUE

__all__ = ["HOW_TO_RUN", "ReportError", "Run", "load"]

HOW_TO_RUN = "python bench/run.py sweep=quick"


@dataclass(frozen=True)
class Run:
    """What was read. `methods` and `env_ids` name all of the run's, also where a table is narrowed to a part.

    Errors on Gaussian q and k, and on those of a trained model, are two tables: no mean goes over both.
    """

    name: str
    folders: tuple[Path, ...]
    methods: tuple[str, ...]
    env_ids: tuple[str, ...]
    efficiency: pd.DataFrame
    errors: pd.DataFrame
    accuracy: pd.DataFrame
    breakdown: pd.DataFrame
    curves: pd.DataFrame
    samples: pd.DataFrame
    environments: pd.DataFrame
    trained_errors: pd.DataFrame

    def narrow(self, table: str, rows: pd.DataFrame) -> Run:
        """The same run with `rows` in place of one of its tables."""
        return replace(self, **{table: rows})  # type: ignore[arg-type]

    @property
    def unfinished(self) -> list[str]:
        """A sentence for each folder that holds results which its tables do not have yet."""
        known = {str(cell) for table in RESULTS for cell in getattr(self, table)["cell_id"]}
        return [line for line in (in_progress(folder, known) for folder in self.folders) if line]


def load(folders: Sequence[Path]) -> Run:
    """Read the CSV files in `folders`; ReportError names the file, and the line, that cannot be used."""
    for folder in folders:
        if not folder.is_dir():
            raise ReportError(f"{folder}: no such folder; to measure something first: {HOW_TO_RUN}")
    tables = {table: _read_all(folders, table) for table in TABLES}
    if all(tables[table].empty for table in RESULTS):
        files = ", ".join(f"{table}.csv" for table in RESULTS)
        places = ", ".join(map(str, folders))
        waiting = next(filter(None, (in_progress(folder, set()) for folder in folders)), "")
        if waiting:
            raise ReportError(f"{places}: no tables to report. {waiting}")
        raise ReportError(f"{places}: no rows in any of {files}; to measure something first: {HOW_TO_RUN}")
    methods, env_ids = (
        tuple(sorted({str(name) for table in RESULTS for name in tables[table][column].unique()}))
        for column in ("method", "env_id")
    )
    trained = tables["errors"]["inputs"] == "trained"
    tables["trained_errors"], tables["errors"] = tables["errors"][trained], tables["errors"][~trained]
    return Run(
        name=" + ".join(folder.resolve().name for folder in folders),
        folders=tuple(folders),
        methods=methods,
        env_ids=env_ids,
        **tables,
    )


def _read_all(folders: Sequence[Path], table: str) -> pd.DataFrame:
    paths = [folder / f"{table}.csv" for folder in folders]
    frames = [read_table(path, table) for path in paths if path.exists()]
    frames = [frame for frame in frames if not frame.empty]
    if not frames:
        return empty_table(table)
    frame = pd.concat(frames, ignore_index=True)
    if table in UNIQUE:
        twice = frame.duplicated(list(UNIQUE[table]))
        if bool(twice.any()):
            cell = frame.loc[twice, "cell_id"].iloc[0]
            raise ReportError(f"{', '.join(map(str, paths))}: cell {cell} is in more than one run")
    return frame
