"""What may be wrong with a whole run: a useful page, or one clear line; never a traceback, nor a wrong number."""

from __future__ import annotations

import html
import math
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from synthetic_run import Row, Tables, cost, costs, failed, identity, synthetic_run, trained

from reports import plots
from reports.__main__ import main, publish
from reports.load import ReportError, load
from reports.parse import read_value
from reports.plots.base import Plot
from reports.schema import TABLES
from reports.sections import sections
from reports.settings import cost_settings, error_settings, task_settings
from reports.tables import Table

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")

NASTY = (
    "<script>alert('x')</script>",
    "</svg><img src=x onerror=alert(1)>",
    "a & b -- c ]]> d",
    r"\frac{1}{2}$\alpha$ 50% #1_a ~ ^",
    "$unbalanced",
    "{{ 7 * 7 }} {% raw %}",
    "| pipe ** star `tick` [link](x)",
    "näme 注意 · 🙂",
    "=cmd|' /C calc'!A0",
    'quote " and, comma',
)


def write(folder: Path, rows: list[Row], **others: list[Row]) -> Path:
    tables = Tables()
    tables.rows |= {"efficiency": rows, **others}
    return tables.write(folder)


def one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says of a run that it refuses."""
    assert main([str(folder), "--out", str(folder.parent / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert not (folder.parent / "out").exists()
    return captured.err


def tables_of(folder: Path) -> list[Table]:
    return [table for section in sections(load([folder])) for part in section.parts for table in part.tables]


def test_mixed_schema_versions_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [cost("sdpa", n) for n in (512, 1024, 2048)]
    rows[1]["schema_version"] = 2
    said = one_line(write(tmp_path / "run", rows), capsys)
    assert "efficiency.csv:3: schema_version '2' is unknown; this report reads version 1" in said


def test_mixed_schema_versions_in_two_runs(tmp_path: Path) -> None:
    write(tmp_path / "new", [cost("sdpa", 512) | {"schema_version": 1}])
    write(tmp_path / "old", [cost("full", 512) | {"schema_version": 0}])
    with pytest.raises(ReportError, match=r"old/efficiency\.csv:2: schema_version '0' is unknown"):
        load([tmp_path / "new", tmp_path / "old"])


def test_mixed_schema_versions_of_two_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accuracy = [trained("sdpa", "text", 0, 0.5) | {"schema_version": 3}]
    assert "accuracy.csv:2: schema_version '3'" in one_line(
        write(tmp_path / "run", [cost("sdpa", 512)], accuracy=accuracy), capsys
    )


@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-inf", "Infinity", "-1", "-0.5", "1e999"])
def test_no_measured_column_takes_such_a_number(text: str) -> None:
    """Over the schema: times, peaks, errors and shares are finite and not negative; only a loss may diverge."""
    kinds = {kind for columns in TABLES.values() for kind in columns.values()}
    for kind in sorted(kinds - {"text", "name", "status", "flag", "loss", "number"}):
        with pytest.raises(ValueError, match=r"is not finite|is negative|is not a whole number"):
            read_value(text, kind)
    value = read_value(text, "loss")
    assert isinstance(value, float)
    if not math.isfinite(float(text)):
        with pytest.raises(ValueError, match="is not finite"):
            read_value(text, "number")


@pytest.mark.parametrize("column", ["latency_ms", "speedup_low", "peak_mib", "output_error", "tokens_per_s_high"])
@pytest.mark.parametrize("text", ["nan", "inf", "-3"])
def test_the_command_says_where_such_a_number_is(
    tmp_path: Path, column: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [cost("sdpa", 512), cost("performer", 512) | {column: text}]
    assert f"efficiency.csv:3: column {column}: {text!r} is" in one_line(write(tmp_path / "run", rows), capsys)


def test_a_truncated_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    rows = [
        cost("sdpa", 512),
        failed(cost("full", 512), "oom", "needs 9 GiB,\nthe limit is 8 GiB"),
        cost("performer", 512),
    ]
    path = write(tmp_path / "run", rows) / "efficiency.csv"
    whole = path.read_bytes()
    ends = [place for place in range(1, len(whole)) if whole[place - 1 : place] == b"\n"]
    refused = 0
    for place in range(1, len(whole), 7):
        path.write_bytes(whole[:place])
        if place in ends:
            continue
        with pytest.raises(ReportError) as caught:
            load([path.parent])
        assert "\n" not in str(caught.value)
        refused += 1
    assert refused > 100
    path.write_bytes(whole[:-2])  # the last digit of the last number is gone
    with pytest.raises(ReportError, match="its last line does not end, so it may be cut off"):
        load([path.parent])
    path.write_bytes(whole)
    assert len(load([path.parent]).efficiency) == 3


def test_a_file_of_another_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for content in (b"\x89PNG\r\n\x1a\n\x00\x00", b"<html></html>\n", b"\xff\xfe" + "a,b\n".encode("utf-16-le")):
        (folder / "efficiency.csv").write_bytes(content)
        assert "efficiency.csv" in one_line(folder, capsys)


def test_a_run_in_progress_without_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    (folder / "cells").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (folder / "cells" / f"{name}.json").write_text("{}")
    said = one_line(folder, capsys)
    assert "3 cells of run have a result that is in no table yet" in said
    assert "python bench/run.py sweep=quick" not in said  # it is being measured


def test_a_run_that_went_on_after_its_tables_says_so_on_the_page(tmp_path: Path) -> None:
    rows = [cost("sdpa", 512), cost("performer", 512)]
    folder = write(tmp_path / "run", rows)
    (folder / "cells").mkdir()
    for row in rows:
        (folder / "cells" / f"{row['cell_id']}.json").write_text("{}")
    assert load([folder]).unfinished == []
    (folder / "cells" / "another.json").write_text("{}")
    page = publish([folder], tmp_path / "out").read_text()
    assert "1 cell of run has a result that is in no table yet" in page


def test_all_failed_in_every_table(tmp_path: Path) -> None:
    error = identity("performer") | {"status": "error", "reason": "no kernel", "qk_norm": ""}
    folder = write(
        tmp_path / "run",
        [failed(row, "oom", "needs 9 GiB") for row in costs(("sdpa", "full"))],
        accuracy=[failed(trained("sdpa", "text", 0, 0.5), "diverged", "loss is nan at step 3")],
        errors=[error],
    )
    page = publish([folder], tmp_path / "out").read_text()
    assert "No cell of this run ended well" in page
    for reason in ("needs 9 GiB", "loss is nan at step 3", "no kernel"):
        assert reason in page
    assert not list((tmp_path / "out").glob("figures/*.png"))
    assert not any(cell.bold for table in tables_of(folder) for row in table.rows for cell in row)


def test_one_method_is_never_called_best(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", costs(("performer",)), accuracy=[trained("performer", "text", 0, 0.5)])
    assert not any(cell.bold for table in tables_of(folder) for row in table.rows for cell in row)
    text = " ".join(s for section in sections(load([folder])) for part in section.parts for s in part.sentences)
    assert "as the only one" in text
    assert "No exact method was measured there" in text


def renamed(folder: Path, *, few: bool = False) -> Path:
    """The made-up run with every name replaced by a nasty one: methods, tasks, reasons, notes and facts."""
    tables = synthetic_run(("sdpa", "performer", "linformer"))
    if few:
        tables.rows["efficiency"] = [row for row in tables.rows["efficiency"] if row["seq_len"] in (512, 1024)]
        for table in ("accuracy", "curves"):
            tables.rows[table] = [row for row in tables.rows[table] if row["task"] == "listops"]
    methods = dict(zip(("performer", "linformer"), NASTY, strict=False))
    tasks = dict(zip(("listops", "text", "image"), NASTY[2:], strict=False))
    for table, rows in tables.rows.items():
        for number, row in enumerate(rows):
            row |= {"method": methods.get(str(row.get("method")), row.get("method"))} if "method" in row else {}
            row |= {"task": tasks.get(str(row.get("task")), row.get("task"))} if "task" in row else {}
            if row.get("budget_name"):
                row["budget_name"] = NASTY[5]
            if "reason" in row and row.get("status") != "ok":
                row["reason"] = NASTY[number % len(NASTY)]
            if table == "environments":
                row |= {"value": NASTY[number % len(NASTY)]}
            if "note" in row:
                row["note"] = NASTY[0]
    if not few:
        tables.rows["efficiency"] += [
            failed(cost(name, 8192, cell_id=name, config_id=name), "error", name) for name in NASTY
        ]
    return tables.write(folder)


def test_names_cannot_break_out_of_tables(tmp_path: Path) -> None:
    for table in tables_of(renamed(tmp_path / "run")):
        if table.name.startswith("literature"):
            continue
        for line in table.to_latex().splitlines():
            bare = re.sub(r"\\[&%$#_{}]|\\text\w+\{\}", "", line)
            assert "#" not in bare, line
            assert "%" not in bare, line
            math_free = re.sub(r"\$(\\\w+|\^\\\w+)\$", "", bare)
            assert "$" not in math_free, line
            assert bare.count("{") == bare.count("}"), line
            if line.endswith(r" \\"):
                assert bare.count("&") == len(table.header) - 1, line
        body = [line for line in table.to_markdown().splitlines() if line.startswith("|")]
        assert len(body) == len(table.rows) + 2
        for line in body:
            assert len(re.findall(r"(?<!\\)\|", line)) == len(table.header) + 1, line
            assert "<" not in line, line


FIGURES = [
    *(("efficiency", plot) for plot in plots.SCALING),
    *(("errors", plot) for plot in plots.ERROR),
    *(("accuracy", plot) for plot in (*plots.ACCURACY, *plots.TRADEOFF)),
    *(("curves", plot) for plot in plots.CURVES),
]


def test_names_cannot_break_figures(tmp_path: Path) -> None:
    """Every figure is drawn, as SVG that parses and has no element that a name made."""
    from xml.etree import ElementTree

    run = load([renamed(tmp_path / "run", few=True)])
    settings = {
        "efficiency": cost_settings(run),
        "errors": error_settings(run),
        "accuracy": task_settings(run, "accuracy"),
        "curves": task_settings(run, "curves"),
    }
    seen: list[Plot] = []
    for table, plot in FIGURES:
        figure = plot.draw(settings[table][0].run)
        assert figure is not None, plot.name
        path = tmp_path / f"{plot.name}.svg"
        figure.savefig(path)
        plt.close(figure)
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert not tags & {"script", "img", "foreignObject"}, plot.name
        seen.append(plot)
    assert len(seen) == len(FIGURES)


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    tables = Tables()
    tables.rows["efficiency"] = [cost(name, 512) for name in NASTY]
    folder = tables.write(tmp_path / "<b>run & co")
    page = publish([folder], tmp_path / "out").read_text()
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "<b>run" not in page
    text = html.unescape(re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL))
    for name in NASTY:
        assert name in text
    assert "{{ 7 * 7 }}" in text
    assert all(re.fullmatch(r"[\w.-]+", path.name) for path in (tmp_path / "out").rglob("*"))


def test_a_method_unknown_to_the_styles_is_drawn_like_the_known(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", [cost(name, n) for name in ("sdpa", "brand_new") for n in (512, 1024, 2048)])
    (setting,) = cost_settings(load([folder]))
    figure = plots.SCALING[0].draw(setting.run)
    assert figure is not None
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    plt.close(figure)
    assert sum(label.startswith("brand_new") for label in labels) == 1


def test_sixty_methods_are_all_in_the_legend_and_it_fits(tmp_path: Path) -> None:
    names = [f"method{n:02}" for n in range(60)]
    folder = write(tmp_path / "run", [cost(name, n) for name in names for n in (512, 1024, 2048)])
    (setting,) = cost_settings(load([folder]))
    figure = plots.SCALING[0].draw(setting.run)
    assert figure is not None
    figure.canvas.draw()
    (legend,) = figure.legends
    texts = legend.get_texts()
    boxes = [text.get_window_extent() for text in texts]
    width, height = figure.get_size_inches() * figure.dpi
    panels = [axes.get_window_extent() for axes in figure.axes]
    plt.close(figure)
    for name in names:
        assert sum(text.get_text().startswith(name) for text in texts) == 1
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[i + 1 :])
    assert not any(box.overlaps(panel) for box in boxes for panel in panels)
    assert min(panel.height for panel in panels) > 0.25 * panels[0].width
