"""A run with more series than anybody tells apart: bands in its figures, few rows in its page."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PathCollection, PolyCollection
from page_data import embedded
from synthetic_run import Tables, cost, failed, synthetic_run

from reports.__main__ import publish
from reports.load import load
from reports.plots import time
from reports.settings import cost_settings

METHODS = ("sdpa", "longformer", "performer")
LENGTHS = (512, 1024, 2048, 4096)
BUDGETS = 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods of 30 budgets; a third of performer's configurations fail at the longest length."""
    tables = Tables()
    for method in METHODS:
        for budget in range(BUDGETS):
            for seq_len in LENGTHS:
                row = cost(method, seq_len, budget_name="width", budget_value=8.0 * (budget + 1))
                for end in ("", "_low", "_high"):
                    row[f"latency_ms{end}"] *= 1 + 0.1 * budget
                if method == "performer" and seq_len == LENGTHS[-1] and budget % 3 == 0:
                    row = failed(row, "oom", "needs 9 GiB")
                tables.rows["efficiency"].append(row)
    return tables.write(tmp_path_factory.mktemp("crowded") / "run")


def test_a_band_spans_the_configurations_of_a_method(run: Path) -> None:
    (setting,) = cost_settings(load([run]))
    figure = time.draw(setting.run)
    assert figure is not None
    (panel,) = figure.axes
    bands = [found for found in panel.collections if isinstance(found, PolyCollection)]
    assert len(bands) == len(METHODS)
    for band, method in zip(bands, ("sdpa", "longformer", "performer"), strict=True):
        corners = np.concatenate([path.vertices for path in band.get_paths()])
        at = {n: corners[np.isclose(corners[:, 0], n), 1] for n in LENGTHS}
        for n in LENGTHS:
            rows = setting.run.efficiency
            here = rows[(rows["method"] == method) & (rows["seq_len"] == n)]["latency_ms"].dropna()
            assert (at[n].min(), at[n].max()) == pytest.approx((here.min(), here.max()))
    # Ten failures at one place are one cross: a stack of them would hide the panel.
    crosses = [found for found in panel.collections if isinstance(found, PathCollection)]
    assert [len(found.get_offsets()) for found in crosses] == [1]
    (legend,) = figure.legends
    assert sorted(text.get_text() for text in legend.get_texts()) == ["failed or skipped", *sorted(METHODS)]
    assert f"{len(METHODS) * BUDGETS} in all" in legend.get_title().get_text()
    plt.close(figure)


def test_a_page_holds_a_share_of_many_fields_and_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.page._MOST_FIELDS", 50)
    page = publish([run], tmp_path / "out").read_text()
    table = re.search(r'<table id="table-time-forward">(.*?)</table>(.*?)</details>', page, re.DOTALL)
    assert table
    assert table[1].count("<tr>") - 1 == 12
    assert f"The first 12 of {len(METHODS) * BUDGETS} rows; the files have all." in table[2]
    with (tmp_path / "out" / "tables" / "time-forward.csv").open() as handle:
        assert len(list(handle)) == 1 + len(METHODS) * BUDGETS * len(LENGTHS)


@pytest.mark.parametrize(("most", "large"), [(10, True), (1_000_000, False)])
def test_a_page_of_many_marks_is_marked_as_large(
    most: int, large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.page._MOST_MARKS", most)
    page = publish([synthetic_run().write(tmp_path / "run")], tmp_path / "out").read_text()
    assert re.search(r'<html lang="en"( class="large")?>', page)[1] == (' class="large"' if large else None)  # type: ignore[index]
    assert embedded(page)["charts"]
