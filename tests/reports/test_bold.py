"""Bold is the best that can be told from every other, and not merely the best; in every form of every table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import Row, Tables, cost, failed, synthetic_run, trained

from reports.answer import answers
from reports.load import Run, load
from reports.sections import sections
from reports.settings import cost_settings, task_settings
from reports.tables import Table
from reports.tables.answer import answer_table
from reports.tables.quality import accuracy_table
from reports.tables.scaling import scaling_tables


def run_of(folder: Path, **rows: list[Row]) -> Run:
    tables = Tables()
    tables.rows |= rows
    return load([tables.write(folder)])


def speeds(**intervals: tuple[float, float, float]) -> list[Row]:
    """A cost row a method at 1024 tokens: its speedup with ends, and a time that follows from it."""
    rows = []
    for method, (low, value, high) in intervals.items():
        times = {"latency_ms": 10 / value, "latency_ms_low": 10 / high, "latency_ms_high": 10 / low}
        row = cost(method, 1024) | {"speedup": value, "speedup_low": low, "speedup_high": high} | times
        rate = {"tokens_per_s": 100 * value, "tokens_per_s_low": 100 * low, "tokens_per_s_high": 100 * high}
        rows.append(row | rate | {"peak_mib": 10 / value})
    return rows


def scaling(run: Run) -> dict[str, Table]:
    (setting,) = cost_settings(run)
    return {table.name: table for table in scaling_tables(setting.run, "")}


def bold(table: Table) -> list[str]:
    """The first field of each row that has a bold cell, the same from all three forms of the table."""
    found = [row[0].text for row in table.rows if any(cell.bold for cell in row)]
    lines = table.to_markdown().splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[4:] if "**" in line] == found
    lines = [line for line in table.to_latex().splitlines() if line.endswith(r"\\")]
    assert [line for line in lines if r"\textbf{" in line and line.split(" & ")[0] not in found] == []
    assert sum(r"\textbf{" in line for line in lines) == len(found)
    if "best" in table.data:
        marked = [row["series"] for row in csv.DictReader(io.StringIO(table.to_csv())) if row["best"] == "True"]
        assert marked == found
    return found


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ({"a": (9, 10, 11), "b": (7, 8, 8.9)}, ["a"]),
        ({"a": (9, 10, 11), "b": (7, 8, 9.1)}, []),
        # the next is apart, one further behind is not
        ({"a": (9, 10, 11), "b": (7, 8, 8.5), "c": (5, 7, 9.5)}, []),
        ({"a": (9, 10, 11)}, []),
    ],
)
def test_costs(tmp_path: Path, intervals: dict[str, Any], expected: list[str]) -> None:
    tables = scaling(run_of(tmp_path, efficiency=speeds(**intervals)))
    for name in ("speedup-forward", "time-forward", "throughput-forward"):
        assert bold(tables[name]) == expected, name


def test_a_time_that_its_pairs_do_not_confirm_is_not_bold(tmp_path: Path) -> None:
    rows = speeds(a=(9, 10, 11), b=(7, 8, 8.9))
    rows[1] |= {"speedup": 9.8, "speedup_low": 9, "speedup_high": 10.5}
    tables = scaling(run_of(tmp_path, efficiency=rows))
    assert bold(tables["time-forward"]) == bold(tables["throughput-forward"]) == []


def test_without_any_pair_times_decide(tmp_path: Path) -> None:
    rows = [
        row | dict.fromkeys(("speedup", "speedup_low", "speedup_high"), "")
        for row in speeds(a=(9, 10, 11), b=(7, 8, 8.9))
    ]
    assert bold(scaling(run_of(tmp_path, efficiency=rows))["time-forward"]) == ["a"]


def test_an_unknown_interval_and_a_failure(tmp_path: Path) -> None:
    rows = speeds(a=(9, 10, 11), b=(7, 8, 8.9))
    blind = [rows[0], rows[1] | {"speedup_low": "", "speedup_high": ""}]
    assert bold(scaling(run_of(tmp_path / "blind", efficiency=blind))["speedup-forward"]) == []
    lost = [*rows, failed(cost("c", 1024), "oom", "needs 9 GiB")]
    assert bold(scaling(run_of(tmp_path / "lost", efficiency=lost))["speedup-forward"]) == ["a"]


@pytest.mark.parametrize(("peak", "expected"), [(103.0, []), (105.0, ["a"]), (100.0, [])])
def test_a_peak_within_its_error_is_not_bold(tmp_path: Path, peak: float, expected: list[str]) -> None:
    rows = [cost("a", 1024) | {"peak_mib": 100.0}, cost("b", 1024) | {"peak_mib": peak}]
    assert bold(scaling(run_of(tmp_path, efficiency=rows))["memory-forward"]) == expected


def test_peaks_of_less_than_a_page_counter_s_lag(tmp_path: Path) -> None:
    rows = [cost("a", 1024) | {"peak_mib": 0.5}, cost("b", 1024) | {"peak_mib": 0.9}]
    assert bold(scaling(run_of(tmp_path, efficiency=rows))["memory-forward"]) == []


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # Student t over three seeds one point apart: 4.3 * 0.01 / sqrt(3) = 0.025, and Wilson's 0.03 is wider
        ([0.59, 0.60, 0.61], [0.49, 0.50, 0.51], ["a"]),
        ([0.59, 0.60, 0.61], [0.55, 0.56, 0.57], []),
        ([0.60], [0.50], []),
        ([0.60, 0.60], [0.50], []),
    ],
)
def test_accuracies(tmp_path: Path, first: list[float], second: list[float], expected: list[str]) -> None:
    rows = [trained("a", "text", seed, value) for seed, value in enumerate(first)]
    rows += [trained("b", "text", seed, value) for seed, value in enumerate(second)]
    (setting,) = task_settings(run_of(tmp_path, accuracy=rows), "accuracy")
    assert bold(accuracy_table(setting.run, "")) == expected


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ({"sdpa": (0.99, 1, 1.01), "performer": (2, 3, 4)}, [False, True]),
        ({"sdpa": (0.99, 1, 1.01), "performer": (0.9, 1.1, 1.3)}, [False, False]),
        # fastest of all, but not told from the next approximation
        ({"sdpa": (0.99, 1, 1.01), "performer": (2, 3, 4), "linformer": (2, 2.9, 4)}, [False, False]),
        ({"sdpa": (0.99, 1, 1.01), "performer": (0.5, 0.6, 0.7)}, [True, False]),
        ({"sdpa": (0.99, 1, 1.01), "full": (0.9, 0.98, 1.05)}, [False, False]),
        ({"sdpa": (0.99, 1, 1.01)}, [False, False]),
    ],
)
def test_the_answer(tmp_path: Path, intervals: dict[str, Any], expected: list[bool]) -> None:
    (setting,) = cost_settings(run_of(tmp_path, efficiency=speeds(**intervals)))
    table = answer_table(answers(setting.run), "")
    ((_, _, exact, approximate, *_),) = table.rows
    assert [exact.bold, approximate.bold] == expected
    assert list(table.data["fastest_distinguishable"]) == [any(expected)]


def overlaps(one: dict[str, str], other: dict[str, str]) -> bool:
    return float(one["low"]) <= float(other["high"]) and float(other["low"]) <= float(one["high"])


def places(table: Table) -> Iterator[list[dict[str, str]]]:
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    names = [name for name in ("mode", "seq_len", "task") if name in rows[0]]
    for place in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        yield [row for row in rows if tuple(row[name] for name in names) == place and row["value"]]


def test_every_table_of_a_whole_report_keeps_the_rule(tmp_path: Path) -> None:
    run = load([synthetic_run().write(tmp_path / "run")])
    tables = [table for section in sections(run) for part in section.parts for table in part.tables]
    checked = 0
    for table in tables:
        cells = [cell for row in table.rows for cell in row if cell.bold]
        if not re.match("time|throughput|speedup|accuracy|memory", table.name):
            assert not cells or table.name.startswith("answer"), table.name
            continue
        assert len(cells) == sum(table.data["best"])
        if table.name.startswith("memory"):
            continue
        for rows in places(table):
            for row in rows:
                others = [other for other in rows if other is not row]
                if row["best"] == "True":
                    assert others
                    assert not any(overlaps(row, other) for other in others)
                    checked += 1
    assert checked > 10
