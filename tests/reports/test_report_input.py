"""Bad input is refused in one line that names the file, the line and the column."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import Tables, cost, costs, identity, trained

from bench import columns
from reports import schema
from reports.__main__ import main
from reports.load import ReportError, load
from reports.noise import contention_sentences

_TYPES: dict[str, type] = {
    "text": str,
    "name": str,
    "status": str,
    "whole": int,
    "count": int,
    "flag": bool,
    "number": float,
    "metric": float,
    "divergence": float,
    "share": float,
    "loss": float,
}


def test_schema_agrees_with_the_harness() -> None:
    assert schema.SUPPORTED_VERSION == columns.SCHEMA_VERSION
    assert schema.STATUSES == columns.STATUSES
    assert set(schema.TABLES) == set(columns.TABLES)
    for table, kinds in schema.TABLES.items():
        for name, kind in kinds.items():
            assert columns.TABLES[table][name] is _TYPES[kind], f"{table}.{name}"


def small() -> Tables:
    tables = Tables()
    tables.rows["efficiency"] = [cost("sdpa", 512), cost("performer", 512), cost("performer", 1024)]
    return tables


def refusal(folder: Path) -> str:
    with pytest.raises(ReportError) as caught:
        load([folder])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("latency_ms", "fast", "'fast' is not a number"),
        ("latency_ms", "nan", "'nan' is not finite"),
        ("speedup_high", "inf", "'inf' is not finite"),
        ("peak_mib", "-1.5", "'-1.5' is negative"),
        ("status", "fine", "'fine' is not a status"),
        ("seq_len", "", "'' is empty"),
        ("seq_len", "12.5", "'12.5' is not a whole number"),
        ("method", "", "'' is empty"),
        ("causal", "maybe", "'maybe' is not True or False"),
    ],
)
def test_bad_value(tmp_path: Path, column: str, value: str, says: str) -> None:
    tables = small()
    tables.rows["efficiency"][1][column] = value
    message = refusal(tables.write(tmp_path / "run"))
    assert f"efficiency.csv:3: column {column}: {says}" in message


def test_bad_value_after_a_reason_of_two_lines(tmp_path: Path) -> None:
    tables = small()
    tables.rows["efficiency"][0]["reason"] = "first\nsecond"
    tables.rows["efficiency"][1]["latency_ms"] = "x"
    assert "efficiency.csv:4: column latency_ms" in refusal(tables.write(tmp_path / "run"))


def test_a_divergence_that_rounds_to_just_below_zero_is_zero(tmp_path: Path) -> None:
    tables = Tables()
    tables.rows["errors"] = [identity("sdpa") | {"qk_norm": 1, "output_error": 0, "row_kl": -2e-9}]
    assert list(load([tables.write(tmp_path / "run")]).errors["row_kl"]) == [0.0]
    tables.rows["errors"][0]["row_kl"] = -0.1
    assert "column row_kl: '-0.1' is negative" in refusal(tables.write(tmp_path / "run"))


def test_accuracy_in_percent_is_refused(tmp_path: Path) -> None:
    tables = Tables()
    tables.rows["accuracy"] = [trained("sdpa", "text", 0, 0.5) | {"accuracy": 61.2}]
    assert "accuracy.csv:2: column accuracy: '61.2' is above 1" in refusal(tables.write(tmp_path / "run"))


def test_a_diverged_curve_is_read(tmp_path: Path) -> None:
    tables = small()
    axes = {key: value for key, value in cost("performer", 512).items() if key in columns.TABLES["curves"]}
    tables.rows["curves"] = [axes | {"step": 0, "train_loss": "nan"}, axes | {"step": 1, "train_loss": "inf"}]
    assert len(load([tables.write(tmp_path / "run")]).curves) == 2


def test_missing_folder(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert "no such folder" in message
    assert "python bench/run.py" in message


def test_no_rows_at_all(tmp_path: Path) -> None:
    (tmp_path / "efficiency.csv").write_text(",".join(columns.TABLES["efficiency"]) + "\n")
    (tmp_path / "accuracy.csv").write_text("")
    message = refusal(tmp_path)
    assert "no rows in any of efficiency.csv, errors.csv, accuracy.csv" in message
    assert "python bench/run.py" in message


def rewrite(change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "efficiency.csv"
        path.write_text(change(path.read_text()))

    return apply


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (rewrite(lambda text: text.replace("peak_mib", "peak_mb")), "efficiency.csv: missing column peak_mib"),
        (rewrite(lambda text: text.replace("schema_version", "v")), "missing column schema_version"),
        (rewrite(lambda text: text + "1,2\n"), "efficiency.csv:5: 2 fields, but the header names"),
        (
            rewrite(lambda text: re.sub(r"(?m)^1,", "7,", text)),
            "efficiency.csv:2: schema_version '7' is unknown; this report reads version 1",
        ),
        (rewrite(lambda text: text + text.splitlines()[-1] + "\n"), "same env_id, cell_id as line 4"),
        (rewrite(lambda text: text.replace("sdpa", '"sd"pa', 1)), "cannot be read as CSV"),
    ],
)
def test_damaged_file(tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    folder = small().write(tmp_path / "run")
    damage(folder)
    assert says in refusal(folder)


def test_an_unknown_version_is_named_before_its_columns(tmp_path: Path) -> None:
    (tmp_path / "efficiency.csv").write_text("schema_version,other\n2,x\n")
    assert "schema_version '2' is unknown" in refusal(tmp_path)


def test_the_same_cell_in_two_runs(tmp_path: Path) -> None:
    folders = [small().write(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(ReportError, match="in more than one run"):
        load(folders)


def test_tables_of_before_a_column_came_are_read_with_it_empty(tmp_path: Path) -> None:
    small().write(tmp_path)
    path = tmp_path / "efficiency.csv"
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    with path.open("w", newline="", encoding="utf-8") as handle:
        kept = [name for name in rows[0] if name not in schema.OPTIONAL]
        writer = csv.DictWriter(handle, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    run = load([tmp_path])
    assert run.efficiency["contended"].isna().all()
    assert contention_sentences(run) == []


def test_optional_columns_are_declared_and_identify_nothing() -> None:
    declared = {name for kinds in schema.TABLES.values() for name in kinds}
    assert declared >= schema.OPTIONAL
    assert not any(
        kind in ("name", "count") for k in schema.TABLES.values() for n, kind in k.items() if n in schema.OPTIONAL
    )


def test_a_busy_machine_is_said(tmp_path: Path) -> None:
    tables = small()
    for row, share in zip(tables.rows["efficiency"], (0.01, 0.30, 0.02), strict=True):
        row |= {"wait_share": share, "contended": share > 0.05}
    (line,) = contention_sentences(load([tables.write(tmp_path)]))
    assert "not free for 1 of 3 cost cells" in line
    assert "at most 30.0 %" in line
    assert "performer" in line


def test_two_runs_together(tmp_path: Path) -> None:
    first, second = Tables(), Tables()
    first.rows["efficiency"] = costs(("sdpa",))
    second.rows["efficiency"] = costs(("performer",))
    run = load([first.write(tmp_path / "a"), second.write(tmp_path / "b")])
    assert run.methods == ("performer", "sdpa")
    assert run.name == "a + b"


def test_the_command_says_it_in_one_line_and_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments: list[Any] = [str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("reports: ")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
