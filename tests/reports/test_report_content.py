"""What the tables and sentences say, and what they must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from synthetic_run import METHODS, Tables, cost, costs, failed, identity, synthetic_run, trained

from reports.answer import answers, sentences
from reports.load import Run, load
from reports.plots import breakdown
from reports.points import cost_points, seed_points
from reports.sections import sections
from reports.settings import cost_settings, error_settings, task_settings, trained_error_settings, with_series
from reports.style import styles
from reports.tables import Table
from reports.tables.failures import failures_table
from reports.tables.quality import accuracy_table, error_table, parameters_table
from reports.tables.scaling import scaling_tables
from reports.tables.trained_error import trained_error_table
from reports.text import interval, latex, markdown, number, slug
from reports.tradeoff import candidates, front


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load([synthetic_run().write(tmp_path_factory.mktemp("runs") / "synthetic")])


def load_rows(folder: Path, **rows: list[dict[str, object]]) -> Run:
    tables = Tables()
    tables.rows |= rows
    return load([tables.write(folder)])


def field(table: Table, row: str, column: str) -> str:
    cells = next(cells for cells in table.rows if cells[0].text == row)
    return cells[table.header.index(column)].text


def by_name(run: Run) -> dict[str, Table]:
    (setting,) = cost_settings(run)
    return {table.name: table for table in scaling_tables(setting.run, "")}


def test_a_failed_cell_is_its_status_and_never_a_number(run: Run) -> None:
    table = by_name(run)["time-train"]
    assert field(table, "full", "4K") == "oom"
    assert field(table, "full", "8K") == "skipped"
    assert field(table, "reformer · hashes 4", "2K") == "timeout"
    failing = table.data[table.data["failure"] != ""]
    assert failing["value"].isna().all()
    assert list(failing["reason"]) == [
        "needs 9.1 GiB, the limit is 8 GiB",
        "4096 ran out of memory",
        "no result after 600 s",
    ]


def test_the_seeds_that_survived_are_not_averaged(run: Run) -> None:
    (setting,) = task_settings(run, "accuracy")
    table = accuracy_table(setting.run, "")
    assert field(table, "performer · features 128", "image") == "diverged 1 of 2"
    assert field(table, "performer · features 128", "mean") == "\u2013"
    assert field(table, "sdpa", "mean") != "\u2013"


def test_exponents_and_crossovers_of_the_known_laws(run: Run) -> None:
    table = by_name(run)["exponents"]
    facts = table.data[table.data["mode"] == "forward"].set_index("method")
    for method, (_, _, power, base, _) in METHODS.items():
        assert facts.loc[method, "time_exponent"] == pytest.approx(power, abs=1e-6)
        if power == 1.0:
            assert facts.loc[method, "crossover_length"] == pytest.approx(1024 * base / 3.0, rel=1e-6)
    assert facts.loc["sdpa", "crossover"] == "baseline"
    assert facts.loc["full", "crossover"] == "not within the measured range"
    assert facts.loc["full", "memory_crossover"] == "not within the measured range"  # falls ever further behind
    assert facts.loc["performer", "memory_crossover"] == "no difference"


def test_memory_crossovers_are_of_peaks_and_extrapolations_are_marked(tmp_path: Path) -> None:
    lengths, rows = (512, 1024, 2048, 4096), []
    for n in lengths:
        exact, slow = cost("sdpa", n), cost("performer", n)
        exact["peak_mib"], slow["peak_mib"] = n * n / 2**20, n * 1536 / 2**20  # equal at 1536
        times = (n / 20_000, 0.97 * n / 20_000, 1.03 * n / 20_000)
        slow |= dict(zip(("speedup", "speedup_low", "speedup_high"), times, strict=True))
        rows += [exact, slow]
    table = by_name(load_rows(tmp_path, efficiency=rows))["exponents"]
    facts = table.data.set_index("method").loc["performer"]
    assert facts["memory_crossover"] == "crosses"
    assert facts["memory_crossover_length"] == pytest.approx(1536)
    assert facts["memory_crossover_low"] == pytest.approx(1536 * 0.98 / 1.02)
    assert facts["memory_crossover_high"] == pytest.approx(1536 * 1.02 / 0.98)
    assert (facts["crossover"], facts["crossover_length"]) == ("extrapolated", pytest.approx(20_000))
    shown = next(row for row in table.rows if row[0].text.startswith("performer"))[4]
    assert shown.text == "~20,000 [20,000, 20,000]"
    assert "extrapolated beyond 4K" in shown.note


def test_best_is_bold_only_where_it_is_distinguishable(tmp_path: Path) -> None:
    rows = [cost("a", 512), cost("b", 512), cost("a", 1024), cost("b", 1024)]
    for row, (low, value, high) in zip(rows, [(9, 10, 11), (10, 11, 12), (9, 10, 11), (13, 14, 15)], strict=True):
        row |= {"speedup": value, "speedup_low": low, "speedup_high": high}
    table = by_name(load_rows(tmp_path, efficiency=rows))["speedup-forward"]
    assert [[cell.bold for cell in row] for row in table.rows] == [[False, False, False], [False, False, True]]


def test_degenerate_configurations_are_marked_and_do_not_answer(run: Run) -> None:
    assert field(by_name(run)["speedup-forward"], "longformer · window 256", "256").endswith("°")
    (setting,) = cost_settings(run)
    first = answers(setting.run)[0]
    assert first.seq_len == 256
    assert first.approximate is not None
    assert "longformer" not in (first.approximate.best.series, first.approximate.rival.series)  # type: ignore[union-attr]


def test_the_answer_names_winner_margin_error_and_faithful_choice(run: Run) -> None:
    (setting,) = cost_settings(run)
    found = {(one.mode, one.seq_len): one for one in answers(setting.run)}
    short, long = found["forward", 256], found["forward", 8192]
    assert short.fastest is not None
    assert short.fastest.series == "sdpa"
    assert long.fastest is not None
    assert long.fastest.series == "linformer · rank 128"
    assert long.approximate is not None
    assert long.approximate.margin == pytest.approx(3.4 / 2.2)
    assert long.faithful is not None
    assert long.faithful.series == "reformer · hashes 4"
    assert long.faithful.error < 0.1
    text = " ".join(sentences(list(found.values())))
    assert "Forward, 256 and 512 tokens: use sdpa, which is exact." in text
    assert "linformer · rank 128 is fastest: 10.9\u00d7 SDPA [10.6, 11.2] at 8K" in text


def test_overlapping_intervals_are_no_difference(tmp_path: Path) -> None:
    rows = [cost("sdpa", 512), cost("performer", 512)]
    rows[1] |= {"speedup": 1.02, "speedup_low": 0.98, "speedup_high": 1.06}
    (setting,) = cost_settings(load_rows(tmp_path, efficiency=rows))
    (only,) = answers(setting.run)
    assert only.fastest is not None
    assert only.fastest.series == "sdpa"
    assert "makes no difference in time" in sentences([only])[0]


def test_settings_are_not_pooled(tmp_path: Path) -> None:
    rows = costs(("sdpa",)) + [
        row | {"env_id": "envB"} | {"cell_id": row["cell_id"] + "B"} for row in costs(("sdpa",))
    ]
    run = load_rows(tmp_path, efficiency=rows)
    assert [setting.label for setting in cost_settings(run)] == ["environment envA", "environment envB"]
    for setting in cost_settings(run):
        assert all(
            point.count <= 1 for point in cost_points(setting.run.efficiency, "speedup", ("mode", "seq_len"))
        )


def test_a_batch_that_follows_the_length_is_one_setting(tmp_path: Path) -> None:
    rows = [cost("sdpa", n, batch_size=8192 // n) for n in (512, 1024, 2048)]
    assert len(cost_settings(load_rows(tmp_path / "a", efficiency=rows))) == 1
    more = [*rows, cost("performer", 512, batch_size=1)]
    assert len(cost_settings(load_rows(tmp_path / "b", efficiency=more))) > 1


def test_series_tell_budgets_and_parameters_apart(tmp_path: Path) -> None:
    rows = [
        cost("performer", 512, budget_value=b, method_params=f'{{"kernel": "{k}"}}')
        for b, k in ((64, "relu"), (128, "relu"), (128, "exp"))
    ]
    frame = with_series(load_rows(tmp_path, efficiency=rows).efficiency)
    assert list(frame["series"]) == [
        "performer · features 64",
        "performer · features 128 · kernel=relu",
        "performer · features 128 · kernel=exp",
    ]


def test_cost_and_accuracy_join_by_configuration_task_and_environment(run: Run) -> None:
    (setting,) = task_settings(run, "accuracy")
    found = candidates(setting.run)
    assert len(found) == 3 * len(METHODS) - 1
    assert all("speedup" in one.cost_label for one in found)
    best = front([one for one in found if one.task == "listops"])
    assert {one.series for one in best} == {"linformer · rank 128", "reformer · hashes 4"}
    elsewhere = replace(setting.run, accuracy=setting.run.accuracy.assign(env_id="envB"))
    assert all("speedup" not in one.cost_label for one in candidates(elsewhere))


def test_one_seed_falls_back_to_the_interval_of_its_row(tmp_path: Path) -> None:
    run = load_rows(tmp_path, accuracy=[trained("sdpa", "text", 0, 0.5)])
    (setting,) = task_settings(run, "accuracy")
    (point,) = seed_points(setting.run.accuracy, "accuracy", ("task",))
    assert (point.low, point.high, point.way) == (0.47, 0.53, "one seed")


def test_a_breakdown_is_the_mean_over_seeds_by_tag(run: Run) -> None:
    (setting,) = task_settings(run, "breakdown")
    points = breakdown.data(setting.run)
    assert len(points) == len(METHODS) * 8
    assert set(points["seeds"]) == {2}
    raw = run.breakdown[
        (run.breakdown["method"] == "sdpa") & (run.breakdown["tags"] == '{"depth":0.5,"length":64}')
    ]
    here = points[(points["method"] == "sdpa") & (points["length"] == 64) & (points["depth"] == 0.5)]
    assert here["accuracy"].item() == pytest.approx(raw["accuracy"].mean())
    figure = breakdown.FIGURE.draw(setting.run)
    assert figure is not None
    panels = [axes for axes in figure.axes if axes.get_title() or axes.get_title(loc="left")]
    assert len(panels) == len(METHODS)
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["64", "128", "256"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["0", "0.5", "1"]
    assert panels[0].images[0].get_array().mask.sum() == 1  # no such kind
    plt.close(figure)


def test_failures_are_counted_with_their_reasons(run: Run) -> None:
    table = failures_table(run)
    assert table is not None
    assert list(table.data["status"]) == ["diverged", "skipped", "oom", "skipped", "timeout"]
    assert table.data["count"].sum() == 5


def test_a_drift_of_parameters_is_marked(run: Run) -> None:
    (setting,) = task_settings(run, "accuracy")
    table = parameters_table(setting.run, "")
    assert table is not None
    assert field(table, "linformer · rank 128", "text") == "115,000 (+15%)"
    assert field(table, "performer · features 128", "text") == "100,000"
    accuracies = accuracy_table(setting.run, "")
    (marked,) = [row for row in accuracies.rows if any("†" in cell.text for cell in row)]
    assert marked[0].text == "linformer · rank 128"
    assert all(cell.text.endswith("†") and "1.15 times" in cell.note for cell in marked[1:4])
    assert "†" not in marked[4].text  # the mean over tasks


def test_sixty_methods_have_sixty_styles_and_keep_them() -> None:
    names = tuple(f"method{n}" for n in range(60))
    book = styles(names)
    assert len({(s.colour, s.marker, s.line) for s in book.values()}) == 60
    assert styles(("full", "sdpa"))["full"] == styles(("full", *names))["full"]


def test_names_are_escaped() -> None:
    assert latex("a_b & 100% $x$ {y} \\z ~ ^ #") == (
        r"a\_b \& 100\% \$x\$ \{y\} \textbackslash{}z \textasciitilde{} \textasciicircum{} \#"
    )
    assert markdown("a|b*c_d`e<f>\n") == r"a\|b\*c\_d\`e&lt;f>"
    assert slug("<script> & co") == "script-co"


def test_numbers() -> None:
    assert [number(x) for x in (0, 0.00012, 0.1234, 1.234, 12.34, 99.96, 123.4, 12345.6, float("nan"))] == [
        "0",
        "1.2e-04",
        "0.123",
        "1.23",
        "12.3",
        "100",
        "123",
        "12,346",
        "\u2013",
    ]
    assert interval(0.992, 0.962, 1.02) == "0.99 [0.96, 1.02]"


def test_all_failed(tmp_path: Path) -> None:
    run = load_rows(tmp_path, efficiency=[failed(cost("sdpa", n), "oom", "too big") for n in (512, 1024)])
    tables = by_name(run)
    assert field(tables["time-forward"], "sdpa", "1K") == "oom"
    assert tables["exponents"].data["time_exponent"].isna().all()


def test_errors_on_trained_inputs_are_a_table_of_their_own(tmp_path: Path) -> None:
    rows = []
    for seed in (0, 1):
        for layer in (0, 1):
            row = identity("performer", task="copying", level="model", seed=seed, seq_len=64)
            rows.append(
                row
                | {
                    "inputs": "trained",
                    "layer": layer,
                    "qk_norm": 0.9 + layer,
                    "exact_accuracy": 0.8,
                    "output_error": 0.2 + layer,
                    "topk_recall": 0.75,
                }
            )
    gaussian = identity("performer") | {"inputs": "gaussian", "qk_norm": 1.0, "output_error": 0.5}
    run = load_rows(tmp_path, errors=[*rows, gaussian])
    assert (len(run.errors), len(run.trained_errors)) == (1, 4)
    (setting,), (plain,) = trained_error_settings(run), error_settings(run)
    found = trained_error_table(setting.run, "")
    assert [row[2].text for row in found.rows] == ["0", "1"]
    assert list(found.data["output_error"]) == pytest.approx([0.2, 1.2])
    assert list(found.data["topk_recall"]) == pytest.approx([0.75, 0.75])
    assert "test accuracy 0.8" in found.caption
    assert list(error_table(plain.run, "").data["output_error"]) == [0.5]
    assert [part.tables[0].name for part in sections(run)[2].parts] == ["error", "trained-error"]
