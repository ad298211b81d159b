"""Two made-up runs of about 100,000 rows: what a report must bear. No number in them was measured."""

from __future__ import annotations

import hashlib
from itertools import product
from typing import Any

from synthetic_run import Tables, broken_down, cost, failed, identity, trained

from bench.columns import TABLES

TASKS = ("listops", "text", "image", "retrieval", "pathfinder", "mqar")
LENGTHS = tuple(256 * 2**k for k in range(12))
MODES = ("forward", "train", "decode")
METHODS = ("sdpa", *(f"method{k:02d}" for k in range(22)))
Row = dict[str, Any]


def wide_run() -> Tables:
    """One table of costs of 99,360 rows: 23 methods of 10 budgets, 12 lengths, 3 modes, 3 seeds, 4 settings."""
    tables = Tables()
    axes = product(METHODS, range(10), LENGTHS, MODES, range(3), ("float32", "bfloat16"), (False, True))
    for method, budget, seq_len, mode, seed, dtype, causal in axes:
        row = _cost(method, budget, seq_len, mode, seed, dtype=dtype, causal=causal)
        tables.rows["efficiency"].append(row)
    return tables


def long_run() -> Tables:
    """What a sweep of weeks leaves: 100,000 rows, most of them samples and curves."""
    tables = Tables()
    rows = tables.rows
    for method, budget, seq_len, mode, seed in product(METHODS[:12], range(4), LENGTHS[:9], MODES, range(3)):
        rows["efficiency"].append(_cost(method, budget, seq_len, mode, seed))
    for method, budget, seq_len, norm, seed in product(
        METHODS[1:12], range(4), LENGTHS[:6], (0.5, 1.0, 2.0), range(5)
    ):
        axes = {**_budget(budget), "seq_len": seq_len, "seed": seed}
        size = min(1.2, 0.9 * norm**0.5 / (1 + budget) + 0.01 * seed)
        rows["errors"].append(identity(method, **axes) | {"qk_norm": norm, "output_error": size})
    for (rank, method), budget, (place, task), seed in product(
        enumerate(METHODS[:12]), range(4), enumerate(TASKS), range(3)
    ):
        value = 0.3 + 0.05 * place + 0.01 * rank + 0.02 * budget + 0.003 * seed
        row = trained(method, task, seed, value, **_budget(budget))
        rows["accuracy"].append(row)
        shared = {key: item for key, item in row.items() if key in TABLES["curves"]}
        for step in range(0, 250, 10):
            share = step / 240
            rows["curves"].append(
                shared | {"step": step, "train_loss": 2.3 - share, "dev_accuracy": value * share}
            )
        if task == "listops":
            rows["breakdown"] += broken_down(row, value)
    known = sum(len(found) for found in rows.values())
    named = ("run", "cell_id", "config_id", "env_id")
    for number in range(100_000 - known):
        cell = rows["efficiency"][number // 24 % len(rows["efficiency"])]
        wall = {"round": number % 24 // 2, "subject": ("method", "baseline")[number % 2], "position": number % 2}
        sample = {"schema_version": 1, "wall_ms": 3 + 0.01 * (number % 17), "calls": 1}
        rows["samples"].append(sample | wall | {key: cell[key] for key in named})
    return tables


def _cost(method: str, budget: int, seq_len: int, mode: str, seed: int, **axes: Any) -> Row:
    row = cost(method, seq_len, mode, **_budget(budget), seed=seed, **axes)
    rank = METHODS.index(method)
    for name in ("latency_ms", "speedup", "tokens_per_s"):
        better = 1 if name == "latency_ms" else -1
        factor = (1 + 0.11 * rank + 0.07 * budget + 0.01 * seed) ** better
        for end in ("", "_low", "_high"):
            row[name + end] *= factor
    # As long as the real ones, and as hard to compress.
    place = f"{method} {budget} {seq_len} {mode} {axes}"
    row["config_id"] = hashlib.sha256(place.encode()).hexdigest()[:16]
    row["cell_id"] = hashlib.sha256(f"{place} {seed}".encode()).hexdigest()[:16]
    row["peak_mib"] *= 1 + 0.05 * rank + 0.1 * budget
    if seq_len == LENGTHS[-1] and rank % 5 == 1:
        return failed(row, "oom", "needs 9.1 GiB, the limit is 8 GiB")
    return row


def _budget(budget: int) -> Row:
    return {"budget_name": "width", "budget_value": 16 * (1 + budget)}
