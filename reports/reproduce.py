"""The commands that measure the cells of a run again, built from the axes of their rows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable

from reports.load import Run
from reports.points import Row, records
from reports.settings import NO_TASK, OF_MODEL

#: Axes of a command that may take several values at once, as `seq_len=512,1024`.
_SWEPT = ("seq_len", "mode", "seed")
#: Column -> key of the harness, for every level.
_ALWAYS = {
    "level": "level",
    "batch_size": "batch_size",
    "heads": "heads",
    "kv_heads": "kv_heads",
    "head_dim": "head_dim",
    "causal": "causal",
    "device": "hardware.device",
    "dtype": "hardware.dtype",
    "threads": "hardware.threads",
    "compile": "hardware.compile",
}
#: And those of level `model`.
_MODEL_KEYS = {name: f"model.{name}" for name in OF_MODEL}
_PASSES = {"efficiency": "measure=cost", "errors": "measure=error"}

#: What a table does not hold, and a command therefore leaves at its default.
UNTOLD = (
    "limits of time and memory, the number and budget of rounds, the scales of q and k, the parameters of a task "
    "and its training settings other than the steps; a cell's record (results/RUN/cells/CELL_ID.json) has them all"
)


def commands(run: Run, table: str) -> list[str]:
    """Command lines that measure every cell of a table, one for all lengths, modes and seeds of a method."""
    frame = getattr(run, table)
    if table == "errors":
        frame = frame.drop_duplicates(["env_id", "cell_id"])
    fixed = ["method", "method_params", "task", "model", *_ALWAYS, *_MODEL_KEYS]
    fixed += ["steps"] if table == "accuracy" else []
    groups: dict[tuple[str, ...], list[Row]] = {}
    for _, rows in frame[[*fixed, *_SWEPT]].groupby(fixed, dropna=False, sort=False):
        words = _words(records(rows.iloc[:1])[0], table)
        groups.setdefault(words, []).extend(records(rows[list(_SWEPT)].drop_duplicates()))
    lines = [_line(words, product) for words, rows in groups.items() for product in _products(rows)]
    return list(dict.fromkeys(lines))


def _words(row: Row, table: str) -> tuple[str, ...]:
    """What is not swept, as overrides."""
    words = [f"method={row['method']}", *_parameters(row)]
    if row["task"] not in NO_TASK:
        words.append(f"task={row['task']}")
    words += [_PASSES[table]] if table in _PASSES else []
    if row["level"] == "model":
        words += [f"model={row['model']}", *_set(row, _MODEL_KEYS)]
    words += _set(row, _ALWAYS)
    if table == "accuracy" and row["steps"] is not None:
        words.append(f"task.train.steps={row['steps']}")
    return tuple(words)


def _parameters(row: Row) -> list[str]:
    try:
        found = json.loads(str(row["method_params"]) or "{}")
    except json.JSONDecodeError:
        return []
    return [f"method.{name}={_hydra(value)}" for name, value in found.items()] if isinstance(found, dict) else []


def _set(row: Row, keys: dict[str, str]) -> list[str]:
    known = ((key, row[column]) for column, key in keys.items())
    return [f"{key}={_hydra(value)}" for key, value in known if value not in (None, "") and value == value]


def _hydra(value: object) -> str:
    """A value as Hydra reads it."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _products(rows: list[Row]) -> Iterable[dict[str, list[str]]]:
    """The places of the rows as products of axes: one where they are one, else a product a mode and seed."""
    places = {tuple(str(row[axis]) for axis in _SWEPT) for row in rows}
    axes = [sorted({place[i] for place in places}, key=_order) for i in range(len(_SWEPT))]
    if len(places) == len(axes[0]) * len(axes[1]) * len(axes[2]):
        yield dict(zip(_SWEPT, axes, strict=True))
        return
    rests = sorted({place[1:] for place in places}, key=lambda rest: (rest[0], _order(rest[1])))
    for mode, seed in rests:
        lengths = sorted({place[0] for place in places if place[1:] == (mode, seed)}, key=_order)
        yield {"seq_len": lengths, "mode": [mode], "seed": [seed]}


def _line(words: tuple[str, ...], product: dict[str, list[str]]) -> str:
    several = any(len(values) > 1 for values in product.values())
    swept = [f"{axis}={','.join(values)}" for axis, values in product.items() if values != ["None"]]
    return " ".join(["python bench/run.py", *(["-m"] if several else []), *map(shlex.quote, [*words, *swept])])


def _order(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdigit() else (-1, text)
