"""The commands that measure what a run leaves open."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from reports.points import Row

#: Column -> the key of the harness that sets it, and what it is without being set.
_KEYS: dict[str, tuple[str, object]] = {
    "level": ("level", "core"),
    "model": ("model", "none"),
    "task": ("task", "none"),
    "batch_size": ("batch_size", 1),
    "heads": ("heads", 8),
    "kv_heads": ("kv_heads", None),
    "head_dim": ("head_dim", 64),
    "causal": ("causal", False),
    "device": ("hardware", "cpu"),
    "dtype": ("hardware.dtype", "float32"),
    "compile": ("hardware.compile", False),
}


def command(row: Row, others: Iterable[Row], folder: Path, *settings: str) -> str:
    """The command line that measures the configuration of `row` once more, into the run in `folder`.

    others: the rows of the run, to tell which parameters its method was given. settings: what is asked
    otherwise, `seq_len=16384`; it overrides what the row says.
    """
    named = {setting.partition("=")[0] for setting in settings}
    words = [f"{key}={row[key]}" for key in ("seq_len", "mode") if key not in named]
    for column, (key, usual) in _KEYS.items():
        value = row.get(column)
        if key not in named and value not in (None, "", usual):
            words.append(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
    return _line([*_method(row, others), *words, *settings], folder)


def training(row: Row, others: Iterable[Row], folder: Path, task: str, seeds: int) -> str:
    """The command line that trains the method of a cost row on a task, with this many seeds."""
    words = [*_method(row, others), f"task={task}", f"seed={','.join(map(str, range(seeds)))}"]
    key, usual = _KEYS["device"]
    if row["device"] != usual:
        words.append(f"{key}={row['device']}")
    return _line(words, folder, "-m")


def _line(words: Sequence[str], folder: Path, *options: str) -> str:
    """The command; into the folder, unless the words name another, and without running again what it holds."""
    named = any(word.startswith("run=") for word in words)
    place = [] if named else [f"run={folder.resolve().name}", "rerun=none"]
    # A folder elsewhere than where the harness writes by itself.
    if folder.resolve().parent != Path("results").resolve():
        place.append(f"results_dir={folder.parent}")
    return " ".join(["python bench/run.py", *options, *map(shlex.quote, [*words, *place])])


def _method(row: Row, others: Iterable[Row]) -> list[str]:
    """The method, its budget, and what other configurations of the same method set otherwise."""
    mine = _loaded(row)
    known = [_loaded(other) for other in others if other["method"] == row["method"]]
    budget = str(row["budget_name"] or "")
    varied = [name for name in mine if any(other.get(name) != mine[name] for other in known)]
    words = [f"method={row['method']}"]
    value = float(str(row["budget_value"])) if row["budget_value"] is not None else math.nan
    if budget and math.isfinite(value):
        words.append(f"method.{budget}={value:g}")
    elif budget in mine:
        words.append(f"method.{budget}={_hydra(mine[budget])}")
    return words + [f"method.{name}={_hydra(mine[name])}" for name in varied if name != budget]


def _loaded(row: Row) -> dict[str, object]:
    try:
        found = json.loads(str(row["method_params"]) or "{}")
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _hydra(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
