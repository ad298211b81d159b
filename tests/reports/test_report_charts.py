"""The data of the interactive charts against the CSV files, without a browser."""

from __future__ import annotations

import base64
import csv
import re
import shlex
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pandas as pd
import pytest
from page_data import embedded, marks, values
from synthetic_run import METHODS, Tables, cost, synthetic_run

from bench.cli import compose, jobs
from bench.collect import axes_of, text
from bench.compose import hydra_context
from reports import figures
from reports.__main__ import publish
from reports.charts.embed import column
from reports.load import load
from reports.reproduce import commands
from reports.schema import RESULTS, TABLES
from reports.style import DARK, contrast, outline, styles


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("charts")
    publish([synthetic_run().write(folder / "run")], folder / "out")
    return folder


def read(folder: Path, table: str) -> list[dict[str, str]]:
    with (folder / "run" / f"{table}.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def page(folder: Path) -> str:
    return (folder / "out" / "index.html").read_text()


@pytest.mark.parametrize("table", RESULTS)
def test_the_rows_in_the_page_are_the_rows_of_the_file(home: Path, table: str) -> None:
    held, rows = embedded(page(home))["tables"][table], read(home, table)
    assert held["count"] == len(rows)
    for name in TABLES[table]:
        for shown, row in zip(values(held["columns"][name], len(rows)), rows, strict=True):
            written = row[name]
            if shown is None or isinstance(shown, bool):
                assert written.lower() == ("" if shown is None else str(shown).lower()), (name, row["cell_id"])
            elif isinstance(shown, str):
                assert written == shown
            else:
                assert float(written) == shown


def test_marks_of_costs_are_the_medians_of_their_rows(home: Path) -> None:
    data, rows = embedded(page(home)), read(home, "efficiency")
    for name, wanted in (("time", "latency_ms"), ("memory", "peak_mib"), ("speedup", "speedup")):
        (chart,) = data["charts"][name]
        places = set()
        for mark in marks(chart):
            behind = [rows[place] for place in mark["rows"]]
            assert {row["mode"] for row in behind} == {mark["panel"]}
            assert {float(row["seq_len"]) for row in behind} == {mark["x"]}
            places.add((behind[0]["method"], mark["panel"], mark["x"]))
            if mark["failure"]:
                assert mark["y"] is None
                assert {row["status"] for row in behind} == {mark["failure"]}
                assert behind[0]["reason"] == mark["reason"]
            else:
                assert mark["y"] == pytest.approx(median(float(row[wanted]) for row in behind), rel=1e-8)
        core = [row for row in rows if row["level"] == "core"]
        assert places == {(row["method"], row["mode"], float(row["seq_len"])) for row in core}


def test_marks_of_accuracy_and_error_are_means_over_seeds(home: Path) -> None:
    data = embedded(page(home))
    for name, table, axis, wanted in (
        ("accuracy", "accuracy", "x", "accuracy"),
        ("error-budget", "errors", "y", "output_error"),
    ):
        rows = read(home, table)
        (chart,) = data["charts"][name]
        found = marks(chart)
        assert found
        for mark in found:
            behind = [rows[place] for place in mark["rows"]]
            assert len(behind) == len({row["seed"] for row in behind}) == 2
            if not mark["failure"]:
                assert mark[axis] == pytest.approx(fmean(float(row[wanted]) for row in behind))
                assert mark[f"{axis}_low"] <= mark[axis] <= mark[f"{axis}_high"]
    failed = [mark for mark in marks(data["charts"]["accuracy"][0]) if mark["failure"]]
    assert [mark["reason"] for mark in failed] == ["loss is not finite at step 40"]


def test_columns_in_short_are_whole() -> None:
    columns: list[list[Any]] = [
        [1, 1, 1],
        ["a", "b", "a", "a", "b", "a", "b"],
        [0.5, None, float("nan"), 2.0],
        [True, False, True, True, True, False, True],
        [7, 7.5, 7, 7, 7, 7, 7.5],
        [],
    ]
    for given in columns:
        back = values(column(pd.Series(given, dtype="object")), len(given))
        expected = [None if value != value else value for value in given]
        assert back == expected
        assert [type(a) for a in back if not isinstance(a, float)] == [
            int if isinstance(b, float) else type(b)
            for b in expected
            if not isinstance(b, float) or b.is_integer()
        ]


def test_nothing_comes_from_elsewhere(home: Path) -> None:
    text = page(home)
    # The name of a namespace is no address that a browser asks.
    addresses = set(re.findall(r"""["'(](?:https?:)?//[^"')\s]+""", text))
    assert {address[1:] for address in addresses} <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"<(link|iframe|img|object)\b|@import|\bfetch\(|XMLHttpRequest", text)


def test_headings_go_down_one_step_at_a_time(home: Path) -> None:
    body = page(home).split("<script id=")[0]
    levels = [int(level) for level in re.findall(r"<h([1-6])", body)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    # A figure's title is an h4 under an h2 where a run has a single setting.
    assert all(after - before <= 2 for before, after in pairwise(levels))
    for svg in re.findall(r"<svg\b[^>]*>", body):
        assert 'aria-hidden="true"' in svg


def test_every_colour_can_be_seen_on_both_pages() -> None:
    for names in (tuple(METHODS), tuple(f"method{n}" for n in range(60))):
        for name, style in styles(names).items():
            assert contrast(style.colour, "#ffffff") >= 3, name
            assert contrast(style.on_dark, DARK) >= 4.5, name
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # W3C's example of a near miss


def test_words_of_the_page_can_be_read_on_both_pages() -> None:
    css = (Path(__file__).parents[2] / "reports" / "page.css").read_text()
    for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", block))
        for ink in ("ink", "soft", "link", "fail"):
            for ground in ("paper", "card"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)


def test_a_square_is_a_square() -> None:
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", outline("s"))]
    corners = set(zip(numbers[::2], numbers[1::2], strict=True))
    assert corners == {(-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)}


def test_filters_say_every_value_once(home: Path) -> None:
    text = page(home)
    for name, column_name, table in (("method", "method", "efficiency"), ("task", "task", "accuracy")):
        boxes = re.findall(rf'<input type="checkbox" name="{name}" value="([^"]*)" checked>', text)
        assert sorted(boxes) == sorted({row[column_name] for row in read(home, table)})


def test_two_machines_are_two_charts_and_a_filter(tmp_path: Path) -> None:
    here, there = Tables(), Tables()
    rows = [cost(method, n) for method in ("sdpa", "linformer") for n in (512, 1024)]
    here.rows["efficiency"] = rows
    there.rows["efficiency"] = [row | {"env_id": "envB", "run": "other"} for row in rows]
    out = tmp_path / "out"
    text = publish([here.write(tmp_path / "a"), there.write(tmp_path / "b")], out).read_text()
    data = embedded(text)
    envs = values(data["tables"]["efficiency"]["columns"]["env_id"], data["tables"]["efficiency"]["count"])
    for charts in data["charts"].values():
        for chart in charts:
            assert len({envs[place] for mark in marks(chart) for place in mark["rows"]}) == 1
    boxes = re.findall(r'name="hardware" value="([^"]*)"', text)
    assert [label.split("environment ")[1] for label in boxes] == ["envA", "envB"]
    assert "Rows of one environment share figures" in text


def test_longest_that_fits_and_fastest_within(home: Path) -> None:
    with (home / "out" / "tables" / "longest.csv").open(newline="") as handle:
        found = list(csv.DictReader(handle))
    rows = [row for row in read(home, "efficiency") if row["level"] == "core"]
    for one in found:
        mine = [row for row in rows if (row["method"], row["mode"]) == (one["method"], one["mode"])]
        peaks = {
            int(row["seq_len"]): sum(float(row[name]) for name in ("peak_mib", "inputs_mib", "parameters_mib"))
            for row in mine
            if row["status"] == "ok"
        }
        fitting = [n for n, peak in peaks.items() if peak <= float(one["limit_mib"])]
        assert one["fits"] == (str(float(max(fitting))) if fitting else "") or one["fits"] == str(max(fitting))
        beyond = [row for row in mine if int(row["seq_len"]) > max(fitting, default=0)]
        tells = any(row["status"] in ("ok", "oom", "skipped") for row in beyond)
        assert one["at_least"] == str(bool(fitting) and not tells)
    with (home / "out" / "tables" / "within.csv").open(newline="") as handle:
        within = list(csv.DictReader(handle))
    (answer,) = [r for r in within if (r["mode"], r["seq_len"]) == ("forward", "8192") and r["fastest"]][-1:]
    assert answer["fastest"].startswith("linformer")
    assert answer["exact"] == "sdpa"


def test_the_commands_give_the_same_configurations(tmp_path: Path) -> None:
    """Each command, composed by the harness, against the cells that the rows came from."""
    asked = [
        ["method=performer", "measure=error", "seq_len=256"],
        ["method=sdpa", "measure=cost"],
        ["method=longformer", "method.window=64", "level=mixer", "heads=2", "causal=true", "mode=train"],
        ["task=copying", "method=linformer", "method.rank=32", "task.train.steps=20", "seed=1"],
    ]
    tables, cells = Tables(), []
    for overrides in asked:
        for cell in plan(overrides):
            cells.append(cell)
            row = {
                "schema_version": 1,
                "run": "x",
                "env_id": "e",
                "cell_id": cell.cell_id,
                "config_id": cell.config_id,
            }
            row |= axes_of(cell, {}) | {"status": "ok", "steps": cell.train.steps if cell.train else None}
            extra = {"qk_norm": 1.0} if cell.table == "errors" else {}
            tables.rows[cell.table].append(
                {name: text(value) for name, value in (row | extra).items() if value is not None}
            )
    assert {cell.table for cell in cells} == set(RESULTS)
    run = load([tables.write(tmp_path / "run")])
    again = []
    for table in RESULTS:
        for line in commands(run, table):
            words = shlex.split(line)
            assert words[:2] == ["python", "bench/run.py"]
            with hydra_context():
                split = jobs([word for word in words[2:] if word != "-m"], multirun="-m" in words)
            again += [cell for overrides in split for cell in plan(overrides)]

    def known(cell: Any) -> tuple[Any, ...]:
        said = (cell.config_id, cell.level, cell.mode, cell.seed, cell.table, cell.batch_size, cell.hardware)
        return (*said, cell.task, cell.train.steps if cell.train else None)

    assert {known(cell) for cell in again} == {known(cell) for cell in cells}


def plan(overrides: list[str]) -> list[Any]:
    return [planned.cell for planned in compose(overrides)[1]]


def test_a_method_without_rows_of_its_own_peak_is_no_answer(tmp_path: Path) -> None:
    tables = Tables()
    tables.rows["efficiency"] = [{**cost("sdpa", n), "peak_mib": ""} for n in (512, 1024)]
    out = tmp_path / "out"
    text = publish([tables.write(tmp_path / "run")], out).read_text()
    assert not (out / "tables" / "longest.csv").exists()
    assert "efficiency.csv has no rows with a peak of memory" in text


def test_a_heavy_figure_is_a_picture(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"pixels")
    (tmp_path / "x.svg").write_text("<svg></svg>")
    assert figures.embedded(tmp_path / "x").startswith("<svg aria-hidden")
    (tmp_path / "x.svg").write_text(f"<svg>{' ' * 1_000_000}</svg>")
    found = re.fullmatch(r'<img alt="" src="data:image/png;base64,([^"]*)">', figures.embedded(tmp_path / "x"))
    assert found
    assert base64.b64decode(found[1]) == b"pixels"
