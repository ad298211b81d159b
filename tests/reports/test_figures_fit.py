"""No text of a figure is cut off at its edge."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from synthetic_run import synthetic_run

from reports.figures import _save
from reports.load import load
from reports.plots import accuracy
from reports.settings import task_settings
from reports.style import use_theme


def test_names_are_whole_in_the_picture(tmp_path: Path) -> None:
    use_theme()
    tables = synthetic_run(("sdpa", "longformer", "performer"))
    for row in tables.rows["accuracy"]:
        if row["method"] == "longformer":
            row["method"] = "longformer_with_a_long_name"
    (setting,) = task_settings(load([tables.write(tmp_path / "run")]), "accuracy")
    figure = accuracy.draw(setting.run)
    assert figure is not None
    _save(figure, tmp_path / "accuracy")
    # An inch of the file is an inch of the layout: nothing is drawn on its outermost pixels.
    pixels = plt.imread(tmp_path / "accuracy.png")
    assert pixels[:, :3, :3].min() == pytest.approx(1.0)
    plt.close(figure)
