"""The table of errors on what the layers of a trained model are given."""

from __future__ import annotations

import pandas as pd

from reports.load import Run
from reports.points import Point, seed_points
from reports.tables.base import Cell, Table
from reports.text import DASH, interval, length, number

_MEASURES = (
    ("output_error", "output"),
    ("spectral_error", "output, spectral"),
    ("attention_error", "attention"),
    ("topk_recall", "recall of the top 16"),
)


def trained_error_table(run: Run, suffix: str) -> Table:
    """Every measure by configuration, length and layer, mean and interval over seeds."""
    frame, places = run.trained_errors, ("seq_len", "layer")
    frame = frame.assign(layer=frame["layer"].astype("float64"))
    columns = {
        name: {(p.series, *map(str, p.place)): p for p in seed_points(frame, name, places)}
        for name, _ in _MEASURES
    }
    rows, facts = [], []
    for key, point in columns["output_error"].items():
        found = [columns[name][key] for name, _ in _MEASURES]
        seq_len, layer = (float(str(part)) for part in point.place)
        noted = frame[(frame["series"] == point.series) & (frame["layer"] == layer)]["note"]
        note = point.reason or next((str(text) for text in noted if text), "")
        shown = (Cell(length(seq_len)), Cell(f"{layer:.0f}" if layer == layer else DASH))  # NaN: a failed cell
        rows.append((Cell(point.series), *shown, *(_cell(each, note) for each in found)))
        facts.append(
            {"series": point.series, "method": point.method, "seq_len": seq_len, "layer": layer}
            | {
                f"{name}{end}": getattr(each, attribute)
                for each, (name, _) in zip(found, _MEASURES, strict=True)
                for end, attribute in (("", "value"), ("_low", "low"), ("_high", "high"))
            }
            | {"seeds": point.count, "failure": point.failure, "reason": point.reason}
        )
    accuracy = frame["exact_accuracy"].mean()
    return Table(
        f"trained-error{suffix}",
        "Error on q, k, v of a trained model",
        f"Exact attention was trained on the task (test accuracy {number(accuracy)}, mean over rows), and each "
        f"method put in its place on dev examples, layer by layer. Relative Frobenius and spectral error of the "
        f"output, error of the attention matrix, and the share of each row's 16 heaviest keys that the method "
        f"attends at all. Brackets: 95 % interval of the mean over seeds.",
        ("method", "length", "layer", *(label for _, label in _MEASURES)),
        tuple(rows),
        pd.DataFrame(facts),
    )


def _cell(point: Point, note: str) -> Cell:
    if point.failure:
        return Cell(point.failure, "failure", note=note)
    if not point.measured:
        return Cell(DASH, "empty", note=note)
    return Cell(interval(point.value, point.low, point.high), "number", note=note)
