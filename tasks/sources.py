"""Public data sets as tables: from the Hugging Face hub, or from files in a local folder.

Either way `datasets` reads them and the same checks follow. Local files are streamed and no copy of them is
made; what tasks make of them is kept by `tasks.data.cached` under the identity of the files.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.base import MissingData

#: What a column may hold; a class is a ClassLabel or a number.
Kind = Literal["string", "class", "integer", "image"]

_BATCH_ROWS = 500  # rows in memory at once: two documents of 30 kB each are 30 MB
_HUB_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Batch:
    """Some rows of a table; `where` is the file (or hub split) and `first` the number there of the first row."""

    where: str
    first: int
    columns: dict[str, list[Any]]

    def numbered(self, column: str) -> Iterator[tuple[int, Any]]:
        """(row number in the file, value) of each row."""
        return enumerate(self.columns[column], self.first)

    def labels(self, column: str, classes: int) -> NDArray[np.uint8]:
        """uint8 `[rows]`; ValueError for a label outside 0..classes-1."""
        for row, label in self.numbered(column):
            if label not in range(classes):
                raise ValueError(f"{self.where}: {column} {label} in row {row}; expected 0..{classes - 1}")
        return np.array(self.columns[column], dtype=np.uint8)

    def documents(self, column: str) -> list[bytes]:
        """UTF-8 bytes of each text; ValueError for one without any."""
        for row, text in self.numbered(column):
            if not text:
                raise ValueError(f"{self.where}: {column} is empty in row {row}; expected at least one byte")
        return [text.encode() for text in self.columns[column]]


@dataclass(frozen=True)
class SourceSplit:
    """One split of a source, read when asked for. `identity` (JSON values) changes when the content does."""

    identity: object
    batches: Callable[[], Iterator[Batch]]


@dataclass(frozen=True)
class Source:
    """A data set: its folder's name, its splits and columns, and where the hub has it.

    files: split -> file name; a Parquet file may also be in the hub's parts, `<split>-00000-of-00001.parquet`.
    hub, config: id and configuration on the hub; None where it is not there.
    hub_folder: for tab-separated files without a header, the folder of them in the hub's repository.
    """

    name: str
    files: Mapping[str, str]
    columns: Mapping[str, Kind]
    hub: str | None = None
    config: str | None = None
    hub_folder: str | None = None

    def why_missing(self, data_dir: str | None) -> str | None:
        """One line on what is not there and how to get it, as far as can be told without reading or a network."""
        if data_dir is None:
            return None if self.hub else f"task.data_dir: not given; {self.how_to_get()}"
        if not Path(data_dir).is_dir():
            return f"task.data_dir={data_dir}: no such folder; {self.how_to_get()}"
        for split, name in self.files.items():
            if not self.local_files(split, data_dir):
                return f"task.data_dir={data_dir}: no {name} of {self.name}; {self.how_to_get()}"
        return None

    def how_to_get(self) -> str:
        """What to do, in one line."""
        layout = (
            f"task.data_dir=FOLDER, with {', '.join(self.files.values())} ({self._expected()}) "
            f"in FOLDER/{self.name} or FOLDER"
        )
        if self.hub is None:
            return f"{self.name} is not on the Hugging Face hub: say {layout}"
        return f"with a network, {self.hub} is fetched from the Hugging Face hub; without, say {layout}"

    def local_files(self, split: str, data_dir: str) -> list[Path]:
        """The files of a split in `data_dir/<name>`, where that is a folder, else in `data_dir`."""
        folder = Path(data_dir) / self.name
        folder = folder if folder.is_dir() else Path(data_dir)
        name = self.files[split]
        for file in (folder / name, folder / (self.hub_folder or "") / name):
            if file.is_file():
                return [file]
        parts = f"{split}-*-of-*.parquet"
        return [] if self.hub_folder else sorted([*folder.glob(parts), *folder.glob(f"*/{parts}")])

    def open(self, split: str, data_dir: str | None) -> SourceSplit:
        """One split. MissingData when it cannot be had, ValueError naming the file when it is not as expected."""
        if missing := self.why_missing(data_dir):
            raise MissingData(missing)
        if data_dir is None:
            return self._from_hub(split)
        files = self.local_files(split, data_dir)
        return SourceSplit(
            [[file.name, file.stat().st_size, _sha256(file)] for file in files],
            lambda: _nonempty(", ".join(map(str, files)), (b for f in files for b in self._from_file(f))),
        )

    def _from_hub(self, split: str) -> SourceSplit:
        if not _reachable():  # else every request is repeated for half a minute; what was fetched before is used
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import datasets  # costs a second: only here

        where = f"{self.hub} ({split})"
        try:
            if self.hub_folder is None:
                data = datasets.load_dataset(self.hub, self.config, split=split)
            else:
                url = f"hf://datasets/{self.hub}/{self.hub_folder}/{self.files[split]}"
                data = datasets.load_dataset("csv", data_files=url, split="train", **self._csv_options())
        except Exception as error:  # no network, no such set, a full disk: say why, and the way out
            raise MissingData(
                f"task.data_dir: not given, and {where} cannot be fetched ({_reason(error)}); {self.how_to_get()}"
            ) from error
        identity = {"hub": self.hub, "split": split, "fingerprint": data._fingerprint}
        return SourceSplit(identity, lambda: _nonempty(where, self._batches(data, where)))

    def _from_file(self, file: Path) -> Iterator[Batch]:
        import datasets

        try:
            kind, options = ("parquet", {}) if self.hub_folder is None else ("csv", self._csv_options(file))
            # escaped: a path is a name here, not a pattern
            data = datasets.load_dataset(
                kind, data_files=[glob.escape(str(file))], split="train", streaming=True, **options
            )
            yield from self._batches(data, str(file))
        except UnexpectedError:
            raise
        except Exception as error:  # whatever the reader stumbles over
            raise ValueError(f"{file}: cannot be read as {file.suffix[1:]} ({_reason(error)})") from error

    def _batches(self, data: Any, where: str) -> Iterator[Batch]:
        import datasets

        self._check_columns(data.features, where)
        data = data.select_columns(list(self.columns))
        for name, kind in self.columns.items():
            if kind == "image":
                data = data.cast_column(name, datasets.Image(decode=False))
        first = 0
        for columns in data.iter(_BATCH_ROWS):
            yield Batch(where, first, columns)
            first += len(next(iter(columns.values())))

    def _check_columns(self, features: Mapping[str, Any], where: str) -> None:
        if not all(name in features and _holds(features[name], kind) for name, kind in self.columns.items()):
            found = ", ".join(f"{name}: {_describe(feature)}" for name, feature in features.items())
            raise UnexpectedError(f"{where}: columns {found}; expected {self._expected()}")

    def _expected(self) -> str:
        return ", ".join(f"{name}: {kind}" for name, kind in self.columns.items())

    def _csv_options(self, file: Path | None = None) -> dict[str, Any]:
        """Tab-separated, no header, a quote is text, nothing stands for a missing value."""
        import datasets

        if file is not None:  # the reader would fill up or cut rows of another width
            with file.open("rb") as lines:
                fields = next(lines, b"\t" * (len(self.columns) - 1)).count(b"\t") + 1
            if fields != len(self.columns):
                raise UnexpectedError(f"{file}: {fields} tab-separated columns; expected {self._expected()}")
        dtypes = {"string": "string", "class": "float64", "integer": "int64"}
        return {
            "delimiter": "\t",
            "header": None,
            "quoting": csv.QUOTE_NONE,
            "lineterminator": "\n",
            "column_names": list(self.columns),
            "features": datasets.Features({n: datasets.Value(dtypes[kind]) for n, kind in self.columns.items()}),
            "keep_default_na": False,
            "na_filter": False,
            "encoding_errors": "replace",
            "chunksize": _BATCH_ROWS,
        }


class UnexpectedError(ValueError):
    """A file can be read, but does not hold what it should."""


def _nonempty(where: str, batches: Iterator[Batch]) -> Iterator[Batch]:
    first = next(batches, None)
    if first is None:
        raise ValueError(f"{where}: no rows; a split needs at least one")
    yield first
    yield from batches


def _holds(feature: Any, kind: Kind) -> bool:
    import datasets

    if kind == "image":
        return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature)
    dtype = str(getattr(feature, "dtype", ""))
    number = dtype.startswith(("int", "uint"))
    if kind == "class":
        return number or dtype.startswith("float")
    return number if kind == "integer" else dtype in ("string", "large_string")


def _describe(feature: Any) -> str:
    dtype = str(getattr(feature, "dtype", type(feature).__name__))
    return "image" if "PIL" in dtype else dtype


def _reason(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _reachable() -> bool:
    """Whether the hub's address answers; behind a proxy we do not ask."""
    if urllib.request.getproxies():
        return True
    address = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=_HUB_TIMEOUT_S).close()
    except OSError:
        return False
    return True
