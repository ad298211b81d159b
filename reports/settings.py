"""What may share a plot: rows that differ in nothing but method, budget, length, mode and seed.

A run may hold several devices, dtypes, levels, ... Each combination is a setting of its own, so that two
environments, or two shapes, are never pooled into one line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.load import Run
from reports.text import plural, slug

_CONTEXT = (
    "env_id",
    "level",
    "task",
    "model",
    "layers",
    "width",
    "ff_dim",
    "dropout",
    "positions",
    "pooling",
    "pooled_norm",
    "reversible",
    "ff_chunks",
    "device",
    "dtype",
    "heads",
    "kv_heads",
    "head_dim",
    "causal",
    "threads",
    "compile",
    "processes",
    "pretrain",
    "batch_size",
)
#: In training a task brings its own shapes, which therefore do not split a run.
OF_MODEL = (
    *("layers", "width", "ff_dim", "dropout", "positions", "pooling", "pooled_norm"),
    *("reversible", "ff_chunks"),
)
_OF_TASK = (
    *("task", "level", "seq_len", "batch_size", "heads", "kv_heads", "head_dim", "causal"),
    *("model", "layers", "width", "ff_dim", "dropout", "positions", "pooling", "pooled_norm"),
)
NO_TASK = ("", "none")
#: What has one value at each place of a line.
_LINE = ["env_id", "level", "mode", "task", "seq_len", "batch_size"]
_COUNTED = {"layers": "layer", "ff_chunks": "feed-forward chunk", "heads": "head", "threads": "thread"}


@dataclass(frozen=True)
class Setting:
    """A run narrowed, in one table, to rows that may be compared.

    `table` is that table; `label` says what sets them apart from other settings, `context` all that they share.
    """

    table: str
    label: str
    slug: str
    context: str
    run: Run


def cost_settings(run: Run) -> list[Setting]:
    """The settings of `efficiency`, without training cells of a task at its one length."""
    settings = _split(run, "efficiency", list(_CONTEXT))
    kept = [setting.run.efficiency for setting in settings if _scales(setting.run.efficiency)]
    if len(kept) == len(settings):
        return settings
    # Split again: what sets the remaining ones apart may be less.
    return _split(run.narrow("efficiency", pd.concat(kept)), "efficiency", list(_CONTEXT)) if kept else []


def error_settings(run: Run) -> list[Setting]:
    """The settings of `errors`."""
    return _split(run, "errors", list(_CONTEXT))


def trained_error_settings(run: Run) -> list[Setting]:
    """The settings of `trained_errors`."""
    return _split(run, "trained_errors", list(_CONTEXT))


def task_settings(run: Run, table: str) -> list[Setting]:
    """The settings of `accuracy` or `curves`: one covers several tasks, each with its own shapes."""
    frame = getattr(run, table)
    fixed = [column for column in _OF_TASK if _follows(frame, column, ["task"])]
    return _split(run, table, [column for column in _CONTEXT if column not in (*fixed, "task")])


def with_series(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with a column `series`: the method, and what tells its configurations apart."""
    labels: dict[tuple[str, str, str, str], str] = {}
    for method, rows in frame.groupby("method", sort=True):
        labels |= _labels(str(method), rows)
    names = [labels[key] for key in _configurations(frame)]
    return frame.assign(series=pd.Series(names, frame.index, dtype="object"))


def _labels(method: str, rows: pd.DataFrame) -> dict[tuple[str, str, str, str], str]:
    keys = _configurations(rows)
    configurations = sorted(set(keys))
    numbers = {key: place for place, key in enumerate(configurations)}
    keyed = rows[_LINE].assign(key=[numbers[key] for key in keys])
    budgets = {(name, value) for _, name, value, _ in configurations}
    # One configuration a place: a budget that follows the length or the task is one line, not many.
    if _follows(keyed, "key", _LINE):
        label = _budget_label(method, *next(iter(budgets))) if len(budgets) == 1 else method
        return dict.fromkeys(configurations, label)
    names = {key: _budget_label(*key[:3]) for key in configurations}
    if len(budgets) == len(configurations):
        return names
    return {key: names[key] + _differing(key, configurations) for key in configurations}


def _configurations(frame: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    known = {value: f"{value:g}" for value in frame["budget_value"].dropna().unique()}
    values = [known.get(value, "") for value in frame["budget_value"].tolist()]
    method, budget, params = (frame[name].tolist() for name in ("method", "budget_name", "method_params"))
    return list(zip(method, budget, values, params, strict=True))


def _budget_label(method: str, name: str, value: str) -> str:
    return f"{method} · {name} {value}" if name and value else method


def _differing(key: tuple[str, str, str, str], keys: Sequence[tuple[str, str, str, str]]) -> str:
    """The parameters of `key` that another configuration of the same budget sets otherwise."""
    mine, others = _parameters(key[3]), [_parameters(other[3]) for other in keys if other[:3] == key[:3]]
    differing = [name for name in sorted(mine) if any(other.get(name) != mine[name] for other in others)]
    shown = ", ".join(f"{name}={mine[name]}" for name in differing if name != key[1])
    return f" · {shown}" if shown else ""


def _parameters(text: str) -> dict[str, object]:
    try:
        loaded = json.loads(text or "{}")
    except json.JSONDecodeError:
        loaded = text
    return loaded if isinstance(loaded, dict) else {"params": loaded}


def _scales(frame: pd.DataFrame) -> bool:
    return frame["seq_len"].nunique() > 1 or bool(frame["task"].isin(NO_TASK).all())


def _follows(frame: pd.DataFrame, column: str, keys: list[str]) -> bool:
    """Whether `column` is a function of `keys`."""
    if frame.empty:
        return True
    return bool((frame.groupby(keys, dropna=False)[column].nunique(dropna=False) <= 1).all())


def _split(run: Run, table: str, columns: list[str]) -> list[Setting]:
    frame: pd.DataFrame = getattr(run, table)
    if frame.empty:
        return []
    others = [column for column in columns if column != "batch_size"]
    # A batch that only follows the length (constant tokens a batch) belongs to the line.
    if "batch_size" in columns and _follows(frame, "batch_size", [*others, "seq_len"]):
        columns = others
    varying = [column for column in columns if frame[column].nunique(dropna=False) > 1]
    settings = []
    for _, rows in frame.groupby(columns, dropna=False, sort=True):
        shared = [column for column in columns if column != "env_id" or len(run.env_ids) > 1]
        label, context = _describe_all(rows, varying), _describe_all(rows, shared)
        settings.append(
            Setting(table, label, slug(label) if label else "", context, run.narrow(table, with_series(rows)))
        )
    return settings


def _describe_all(rows: pd.DataFrame, columns: Sequence[str]) -> str:
    if not bool((rows["level"] == "model").any()):
        columns = [column for column in columns if column not in OF_MODEL]
    parts = [_describe(column, rows[column].iloc[0]) for column in columns]
    return ", ".join(part for part in parts if part)


def _describe(column: str, value: object) -> str:
    if value is None or value is pd.NA or value in NO_TASK:
        return ""
    if column in _COUNTED:
        return plural(int(str(value)), _COUNTED[column])
    words = {
        "env_id": f"environment {value}",
        "level": f"{value} level",
        "task": f"task {value}",
        "model": f"model {value}",
        "width": f"width {value}",
        "ff_dim": f"feed-forward width {value}",
        "dropout": f"dropout {value:g}" if isinstance(value, float) and value > 0 else "",
        "positions": f"{value} positions",
        "pooling": f"{value} pooling",
        "pooled_norm": "pooled vectors standardised over the batch" if value == "batch" else "",
        "kv_heads": f"{value} heads of keys and values",
        "head_dim": f"head dimension {value}",
        "causal": "causal" if value else "bidirectional",
        "reversible": "reversible" if value else "not reversible",
        "compile": "compiled" if value else "not compiled",
        "batch_size": f"batch {value}",
        "processes": "" if value == 1 else f"{value} processes",
        "pretrain": f"{value} pretraining",
    }
    return words.get(column, str(value))
