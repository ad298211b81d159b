"""A small made-up run as CSV files. No number in it was measured; the curves follow known laws."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

from bench.columns import TABLES

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
TASKS = ("listops", "text", "image")
#: method -> budget name, budget, exponent of its time, its time at 1024 tokens, its output error
METHODS: dict[str, tuple[str, float | None, float, float, float]] = {
    "full": ("", None, 2.0, 9.0, 2e-7),
    "sdpa": ("", None, 2.0, 3.0, 1e-7),
    "longformer": ("window", 256, 1.0, 4.0, 0.35),
    "performer": ("features", 128, 1.0, 3.4, 0.62),
    "linformer": ("rank", 128, 1.0, 2.2, 0.9),
    "reformer": ("hashes", 4, 1.15, 12.0, 0.08),
}
Row = dict[str, Any]


class Tables:
    """Rows by table, to be changed by a test before they are written."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {table: [] for table in TABLES}

    def write(self, folder: Path) -> Path:
        """Write each table that has rows; returns the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for table, rows in self.rows.items():
            if not rows:
                continue
            with (folder / f"{table}.csv").open("w", newline="", encoding="utf-8") as handle:
                writer = csv.DictWriter(handle, list(TABLES[table]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        return folder


def identity(method: str, **axes: Any) -> Row:
    """The columns that every row has."""
    budget_name, budget, *_ = METHODS.get(method, ("", None, 1.0, 1.0, 0.5))
    row: Row = {
        "schema_version": 1,
        "run": "synthetic",
        "env_id": "envA",
        "method": method,
        "budget_name": budget_name,
        "budget_value": budget,
        "degenerate": False,
        "method_params": "{}",
        "task": "none",
        "model": "none",
        "layers": 0,
        "seq_len": 1024,
        "batch_size": 1,
        "heads": 8,
        "head_dim": 64,
        "causal": False,
        "level": "core",
        "mode": "forward",
        "seed": 0,
        "device": "cpu",
        "dtype": "float32",
        "threads": 2,
        "compile": False,
        "status": "ok",
        "reason": "",
        "backend": "eager",
        "parameters": 0,
        "started_at": "2026-01-02T03:04:05Z",
        **axes,
    }
    key = [row[name] for name in ("method", "budget_value", "task", "level", "mode", "seq_len", "method_params")]
    row.setdefault("config_id", "-".join(map(str, [key[0], key[1], key[2], key[5], key[6]])))
    row.setdefault("cell_id", "-".join(map(str, [*key, row["seed"], row["dtype"]])))
    return row


def failed(row: Row, status: str, reason: str) -> Row:
    """`row` as a cell that gave nothing."""
    blank = {"latency_ms", "speedup", "tokens_per_s", "peak_mib", "output_error", "accuracy"}
    kept = {name: value for name, value in row.items() if name.rsplit("_low")[0].rsplit("_high")[0] not in blank}
    return {**kept, "status": status, "reason": reason}


def cost(method: str, seq_len: int, mode: str = "forward", **axes: Any) -> Row:
    """A cost row on the power law of `method`, with 3 % noise in its interval."""
    *_, power, base, error = METHODS.get(method, ("", None, 1.0, 2.0, 0.5))
    factor = 3.1 if mode == "train" else 1.0
    time = factor * base * (seq_len / 1024) ** power
    speedup = factor * 3.0 * (seq_len / 1024) ** 2 / time
    if method == "sdpa":
        speedup = 1.0 + 0.01 * random.Random(f"{seq_len}{mode}").uniform(-1, 1)
    tokens = seq_len / time * 1000
    row = identity(method, seq_len=seq_len, mode=mode, **axes)
    for name, value in (("latency_ms", time), ("speedup", speedup), ("tokens_per_s", tokens)):
        row |= {name: value, f"{name}_low": value * 0.97, f"{name}_high": value * 1.03}
    return row | {
        "rounds": 20,
        "baseline": "sdpa",
        "baseline_backend": "sdpa:flash",
        "peak_mib": 8 * (seq_len / 1024) ** (2 if method == "full" else 1) * factor,
        "peak_way": "high_water",
        "inputs_mib": 6 * seq_len / 1024,
        "parameters_mib": 0.5,
        "output_error": error,
        "degenerate": method == "longformer" and seq_len <= 256,
    }


def trained(method: str, task: str, seed: int, accuracy: float, **axes: Any) -> Row:
    """An accuracy row."""
    row = identity(method, task=task, seed=seed, level="model", mode="train", model="tiny", layers=2, **axes)
    return row | {
        "parameters": 100_000 + (15_000 if method == "linformer" else 0),
        "parameters_ratio": 1.15 if method == "linformer" else 1.0,
        "parameters_flag": method == "linformer",
        "metric": "accuracy",
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.03,
        "accuracy_high": accuracy + 0.03,
        "test_targets": 1000,
        "chance": 0.1 if task != "text" else 0.5,
        "dev_accuracy": accuracy,
        "steps": 200,
        "train_loss": 1.2,
        "step_ms": 40.0,
        "train_tokens_per_s": 25_000.0,
        "peak_mib": 64.0,
    }


def broken_down(row: Row, accuracy: float) -> list[Row]:
    """Accuracy by length and depth, lower by a tenth at each doubling; the longest has two depths only."""
    axes = {key: item for key, item in row.items() if key in TABLES["breakdown"]}
    kinds = [(n, d) for n in (64, 128, 256) for d in (0, 0.5, 1) if (n, d) != (256, 0.5)]
    rows = []
    for length, depth in kinds:
        value = accuracy - 0.1 * (length // 128)
        tags = f'{{"depth":{depth},"length":{length}}}'
        shares = {"accuracy": value, "accuracy_low": value - 0.05, "accuracy_high": value + 0.05}
        rows.append(axes | shares | {"tags": tags, "test_targets": 100})
    return rows


def costs(methods: tuple[str, ...] = tuple(METHODS)) -> list[Row]:
    """Core costs of every method and length; `full` runs out of memory, `reformer` has a hole."""
    rows = []
    for method in methods:
        for mode in ("forward", "train"):
            for seq_len in LENGTHS:
                row = cost(method, seq_len, mode)
                if method == "full" and seq_len == 4096 and mode == "train":
                    row = failed(row, "oom", "needs 9.1 GiB, the limit is 8 GiB")
                if method == "full" and seq_len == 8192:
                    row = failed(row, "skipped", "4096 ran out of memory")
                if method == "reformer" and seq_len == 2048 and mode == "train":
                    row = failed(row, "timeout", "no result after 600 s")
                rows.append(row)
    return rows


def synthetic_run(methods: tuple[str, ...] = tuple(METHODS)) -> Tables:
    """Costs, errors, accuracies on three tasks with two seeds, curves, samples and an environment."""
    tables = Tables()
    rows = tables.rows
    rows["efficiency"] = costs(methods)
    rng = random.Random(0)
    for rank, method in enumerate(methods):
        name, budget, *_, error = METHODS[method]
        for task in TASKS:
            step = cost(method, 1024, "train", task=task, level="model", model="tiny", layers=2)
            rows["efficiency"].append(step)
            for seed in (0, 1):
                value = min(0.95, 0.35 + 0.15 * TASKS.index(task) + 0.04 * rank + 0.02 * rng.random())
                row = trained(method, task, seed, value)
                if method == "performer" and task == "image" and seed == 1:
                    row = failed(row, "diverged", "loss is not finite at step 40")
                rows["accuracy"].append(row)
                axes = {key: item for key, item in row.items() if key in TABLES["curves"]}
                for at in range(0, 201, 20):
                    point = {
                        "step": at,
                        "train_loss": 2.3 - 1.1 * at / 200,
                        "dev_accuracy": value * at / 200,
                        "elapsed_s": at / 10,
                    }
                    rows["curves"].append(axes | point)
                if task == "listops":
                    rows["breakdown"] += broken_down(row, value)
        for seq_len in (512, 1024):
            for scale in (0.25, 1, 4) if budget else (1,):
                for norm in (0.5, 1.0, 2.0):
                    for seed in (0, 1):
                        wobble = 1 + 0.1 * rng.random()
                        size = min(1.2, error * norm**0.5 * scale**-0.5 * wobble)
                        axes = {"budget_value": budget * scale if budget else None, "budget_name": name}
                        base = identity(method, seq_len=seq_len, seed=seed, **axes)
                        measures = {
                            "output_error": size,
                            "spectral_error": size * 0.9,
                            "attention_error": size * 1.1,
                            "row_tv": min(1.0, size / 2),
                            "row_kl": "" if method == "longformer" else size,
                            "note": "KL is infinite: rows of the method hold zeros"
                            if method == "longformer"
                            else "",
                        }
                        rows["errors"].append(base | {"qk_norm": norm} | measures)
    for number in range(10):
        for subject in ("method", "baseline"):
            base = {key: rows["efficiency"][0][key] for key in ("run", "cell_id", "config_id", "env_id")}
            wall = {
                "round": number,
                "position": 0,
                "subject": subject,
                "wall_ms": 3 + 0.1 * (number % 4),
                "calls": 1,
            }
            rows["samples"].append({"schema_version": 1} | base | wall)
    facts = {"cpu": "Made-up CPU, 2 cores", "torch": "2.9.0", "python": "3.12.1", "os": "Linux"}
    for name, value in facts.items():
        rows["environments"].append(
            {"schema_version": 1, "run": "synthetic", "env_id": "envA", "name": name, "value": value}
        )
    return tables
