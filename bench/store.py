"""The results on disk: one JSON record a cell, written whole or not at all. Nothing else writes there.

results/<run>/cells/<cell_id>.json is the record of truth; the CSV files beside it are made from the records.
A training cell that is not done has its checkpoint in results/<run>/checkpoints/.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.cell import RECORD_VERSION
from bench.claims import Claims
from bench.errors import StoreError, explained

REQUIRED = ("cell_id", "config_id", "env_id", "status", "reason", "cell", "results")


class Store:
    """One run's folder."""

    def __init__(self, results_dir: str | Path, run: str) -> None:
        if not run or run.startswith(".") or any(mark in run for mark in "/\\"):
            raise StoreError(f"run={run!r}: expected the plain name of a folder")
        self.run = run
        self.folder = Path(results_dir) / run
        self.cells = self.folder / "cells"
        self.environments = self.folder / "environments"
        self.checkpoints = self.folder / "checkpoints"
        self.plan = self.folder / "plan"
        self.claims = Claims(self.folder / "claims")

    def open(self) -> None:
        """Make the folder, and find out now rather than after hours whether it can be written."""
        with explained(self.folder):
            for folder in (self.cells, self.environments, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.cells) as probe:
                probe.write(b"x")

    def write_record(self, record: Mapping[str, Any]) -> Path:
        """Put a cell's record in place, in one step."""
        path = self.cells / f"{record['cell_id']}.json"
        self._replace(path, json.dumps(record, indent=1, sort_keys=True) + "\n")
        return path

    def discard_record(self, cell_id: str) -> None:
        """Remove a cell's record, so that it counts as not done."""
        (self.cells / f"{cell_id}.json").unlink(missing_ok=True)

    def write_planned(self, cell_id: str, entry: Mapping[str, Any]) -> None:
        """Keep what a worker needs to run a cell."""
        with explained(self.plan):
            self.plan.mkdir(exist_ok=True)
        self._replace(self.plan / f"{cell_id}.json", json.dumps(entry, sort_keys=True) + "\n")

    def read_planned(self, cell_id: str) -> dict[str, Any] | None:
        """What a worker needs to run a cell, or None when it was not planned here."""
        path = self.plan / f"{cell_id}.json"
        return parse_record(path) if path.exists() else None

    def planned_ids(self) -> list[str]:
        """The cells that were planned for workers."""
        return sorted(path.stem for path in self.plan.glob("*.json"))

    def write_script(self, name: str, text: str) -> Path:
        """Put a scheduler's file into the run's folder."""
        folder = self.folder / "jobs"
        with explained(folder):
            folder.mkdir(exist_ok=True)
        self._replace(folder / name, text)
        return folder / name

    def write_environment(self, env_id: str, environment: Mapping[str, str]) -> None:
        """Keep what an env_id stands for."""
        path = self.environments / f"{env_id}.json"
        if not path.exists():
            self._replace(path, json.dumps(environment, indent=1, sort_keys=True) + "\n")

    def write_table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
        """Write one CSV file whole; rows hold a field for each column."""
        path = self.folder / f"{name}.csv"
        with explained(path), _Replacing(path) as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)
        return path

    def checkpoint(self, cell_id: str) -> Path:
        """Where a cell's training is kept while it is not done."""
        return self.checkpoints / f"{cell_id}.pt"

    def discard_checkpoint(self, cell_id: str) -> None:
        """Remove a cell's checkpoint, and what a kill in the middle of writing one has left."""
        path = self.checkpoint(cell_id)
        for left in (path, *self.checkpoints.glob(f".{path.name}.*")):
            left.unlink(missing_ok=True)

    def read(self, cell_id: str) -> dict[str, Any] | None:
        """The record of a cell, or None if there is none that can be read."""
        try:
            return record_in(self.cells / f"{cell_id}.json")
        except NoRecord:
            return None

    def read_all(self) -> tuple[list[dict[str, Any]], list[str]]:
        """All records in order of their ids, and a line for every file that is none."""
        records, complaints = [], []
        for path in sorted(self.cells.glob("*.json")):
            try:
                records.append(record_in(path))
            except NoRecord as error:
                complaints.append(str(error))
        return records, complaints

    def read_environments(self) -> dict[str, dict[str, str]]:
        """env_id -> what it stands for."""
        found = {}
        for path in sorted(self.environments.glob("*.json")):
            try:
                found[path.stem] = json.loads(path.read_text())
            except ValueError:
                continue
        return found

    def _replace(self, path: Path, text: str) -> None:
        with explained(path), _Replacing(path) as handle:
            handle.write(text)


def replace_bytes(path: Path, content: bytes) -> None:
    """Put a file in place in one step, or leave the one that is there. Raises StoreError."""
    with explained(path), _Replacing(path, "wb") as handle:
        handle.write(content)


class _Replacing:
    """A file that takes the place of `path` when it is complete, and leaves nothing behind when it is not."""

    def __init__(self, path: Path, mode: str = "w") -> None:
        self.path, self.mode = path, mode

    def __enter__(self) -> Any:
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        self.temporary = Path(name)
        text = {} if "b" in self.mode else {"encoding": "utf-8", "newline": ""}
        self.handle = os.fdopen(descriptor, self.mode, **text)  # type: ignore[call-overload]
        return self.handle

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.handle.flush()
                os.fsync(self.handle.fileno())
            self.handle.close()
            if kind is None:
                self.temporary.chmod(0o644)
                self.temporary.replace(self.path)
        finally:
            self.temporary.unlink(missing_ok=True)


def parse_record(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


class NoRecord(ValueError):
    """A file that is not one of our records; the message says why, and what to do with it."""


def record_in(path: Path) -> dict[str, Any]:
    """The record in a file. Raises NoRecord."""
    advice = "move it away or delete it; its cell counts as not done"
    try:
        record = parse_record(path)
    except (ValueError, OSError) as error:
        raise NoRecord(f"{path}: not a readable record ({error}); {advice}") from error
    if not isinstance(record, dict) or any(key not in record for key in REQUIRED):
        raise NoRecord(f"{path}: not a record of this harness; {advice}")
    if record.get("record_version") != RECORD_VERSION:
        raise NoRecord(
            f"{path}: record version {record.get('record_version')}, this harness reads {RECORD_VERSION}; {advice}"
        )
    if record["cell_id"] != path.stem:
        raise NoRecord(f"{path}: holds the record of another cell, {record['cell_id']}; {advice}")
    return record
