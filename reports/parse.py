"""One CSV file to one typed DataFrame; what cannot be read is refused by file, line and column."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from reports.schema import OPTIONAL, STATUSES, SUPPORTED_VERSION, TABLES, UNIQUE, Kind, Kinds

#: How far below 0 float32 leaves a sum of logarithms that cancel.
_ROUNDING = 1e-5
_FLAGS = {"true": True, "false": False}
_DTYPES: dict[Kind, str] = {
    "whole": "Int64",
    "count": "int64",
    "flag": "boolean",
    "number": "float64",
    "metric": "float64",
    "divergence": "float64",
    "share": "float64",
    "loss": "float64",
}


class ReportError(ValueError):
    """The input cannot be reported; the message is one line that says what to mend."""


def read_table(path: Path, table: str) -> pd.DataFrame:
    """The rows of `path`, with the columns that the report reads from `table`."""
    kinds = TABLES[table]
    lines = _read_lines(path)
    header = next(lines, (0, []))[1]
    if not header:
        return empty_table(table)
    _require(path, header, ["schema_version"])
    rows = list(lines)
    _check_end(path)
    _check_shape(path, header, rows)
    _check_version(path, header, rows)
    _require(path, header, [name for name in kinds if name not in OPTIONAL])
    # A column at a time: a large run has millions of fields, and few texts that differ.
    texts = dict(zip(header, zip(*(row for _, row in rows), strict=True), strict=True)) if rows else {}
    columns = {
        name: _read_column(path, rows, name, texts.get(name, ("",) * len(rows)), kind)
        for name, kind in kinds.items()
    }
    _check_unique(path, table, rows, columns)
    return _frame(columns, kinds)


def empty_table(table: str) -> pd.DataFrame:
    """The columns of `table` without a row."""
    return _frame({name: [] for name in TABLES[table]}, TABLES[table])


def _frame(columns: dict[str, list[object]], kinds: Kinds) -> pd.DataFrame:
    return pd.DataFrame(
        {name: pd.Series(values, dtype=_DTYPES.get(kinds[name], "object")) for name, values in columns.items()}
    )


def _read_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row with the line it starts on: a quoted field may span lines."""
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            reader = csv.reader(handle, strict=True)
            start = 1
            for row in reader:
                if row:
                    yield start, row
                start = reader.line_num + 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReportError(f"{path}: cannot be read as CSV: {' '.join(str(error).split())}") from error


def _check_end(path: Path) -> None:
    """A last line that does not end may be half a line, and half a number is a number."""
    with path.open("rb") as handle:
        handle.seek(0, 2)
        if handle.tell() == 0:
            return
        handle.seek(-1, 2)
        if handle.read(1) not in (b"\n", b"\r"):
            raise ReportError(
                f"{path}: its last line does not end, so it may be cut off: copy it again, or write the tables "
                "again by running the same sweep"
            )


def _require(path: Path, header: Sequence[str], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in header]
    if missing:
        raise ReportError(f"{path}: missing column {', '.join(missing)}")


def _check_shape(path: Path, header: Sequence[str], rows: list[tuple[int, list[str]]]) -> None:
    for line, row in rows:
        if len(row) != len(header):
            raise ReportError(f"{path}:{line}: {len(row)} fields, but the header names {len(header)}")


def _check_version(path: Path, header: Sequence[str], rows: list[tuple[int, list[str]]]) -> None:
    """Before anything else of a row is read: another version may mean other things by the same names."""
    place = header.index("schema_version")
    for line, row in rows:
        if row[place] != str(SUPPORTED_VERSION):
            raise ReportError(
                f"{path}:{line}: schema_version {row[place]!r} is unknown; "
                f"this report reads version {SUPPORTED_VERSION}"
            )


def _read_column(
    path: Path, rows: list[tuple[int, list[str]]], name: str, texts: Sequence[str], kind: Kind
) -> list[object]:
    """The values of a column; each text that occurs is read once, in the order of the lines."""
    known: dict[str, object] = {}
    for text in dict.fromkeys(texts):
        try:
            known[text] = read_value(text, kind)
        except ValueError as error:
            line = rows[texts.index(text)][0]
            shown = text if len(text) <= 60 else text[:57] + "..."
            raise ReportError(f"{path}:{line}: column {name}: {shown!r} {error}") from None
    return [known[text] for text in texts]


def read_value(text: str, kind: Kind) -> object:
    """`text` as a value of `kind`; ValueError says what it is not."""
    if kind == "text":
        return text
    if kind == "status":
        if text not in STATUSES:
            raise ValueError(f"is not a status ({', '.join(STATUSES)})")
        return text
    if kind in ("name", "count") and text == "":
        raise ValueError("is empty, but every row needs it")
    if kind == "name":
        return text
    if kind == "flag":
        if text and text.lower() not in _FLAGS:
            raise ValueError("is not True or False")
        return _FLAGS[text.lower()] if text else None
    return _read_number(text, kind)


def _read_number(text: str, kind: Kind) -> float | int | None:
    if text == "":
        return None if kind == "whole" else math.nan
    try:
        value = float(text)
    except ValueError:
        raise ValueError("is not a number") from None
    if kind == "loss":
        return value
    if not math.isfinite(value):
        raise ValueError("is not finite")
    if kind in ("whole", "count"):
        if not value.is_integer():
            raise ValueError("is not a whole number")
        # int(text) first: a float64 does not hold every seed above 2**53.
        value = int(text) if text.lstrip("+-").isdigit() else int(value)
    if kind == "divergence" and -_ROUNDING <= value < 0:
        return 0.0
    if kind != "number" and value < 0:
        raise ValueError("is negative")
    if kind == "share" and value > 1:
        raise ValueError("is above 1, but a share lies between 0 and 1")
    return value


def _check_unique(
    path: Path, table: str, rows: list[tuple[int, list[str]]], columns: dict[str, list[object]]
) -> None:
    if table not in UNIQUE:
        return
    seen: dict[tuple[str, ...], int] = {}
    keys = zip(*(map(str, columns[name]) for name in UNIQUE[table]), strict=True)
    for (line, _), key in zip(rows, keys, strict=True):
        if key in seen:
            names = ", ".join(UNIQUE[table])
            raise ReportError(f"{path}:{line}: same {names} as line {seen[key]}; it would count twice")
        seen[key] = line
