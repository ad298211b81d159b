"""From records to tidy CSV files: one observation a row, every axis and id on it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from bench.cell import Cell, canonical
from bench.columns import ENERGY, MEMORY, SCHEMA_VERSION, TABLES
from bench.measure.usage import shares
from bench.stats import by_subject, median, share, speedup
from bench.store import Store

Row = dict[str, Any]

#: Share of its threads' time that a part waited for cores from which on its times are the machine's as well.
CONTENDED = 0.05

#: Long Range Arena's rule for comparable models: within 10 % of the plain Transformer's parameters.
PARAMETERS_RATIO = (0.9, 1.1)

_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def collect(store: Store) -> list[str]:
    """Write all tables of a run from its records; returns a line for every file that is no record."""
    records, complaints = store.read_all()
    rows: dict[str, list[Row]] = {name: [] for name in TABLES}
    for record in records:
        for table, row in rows_of(record):
            rows[table].append(row)
    for env_id, environment in store.read_environments().items():
        for name, value in environment.items():
            base = {"schema_version": SCHEMA_VERSION, "run": store.run, "env_id": env_id}
            rows["environments"].append({**base, "name": name, "value": value})
    for table, columns in TABLES.items():
        store.write_table(table, list(columns), ([text(row.get(key)) for key in columns] for row in rows[table]))
    return complaints


def outside(ratio: float | None) -> bool | None:
    """Whether a model has not about as many parameters as the baseline's; None where there is no model."""
    low, high = PARAMETERS_RATIO
    return None if ratio is None else not low <= ratio <= high


def contended(wait_share: float | None) -> bool | None:
    """Whether others evidently took the cores meanwhile; None where it is unknown."""
    return None if wait_share is None else wait_share > CONTENDED


def was_contended(record: dict[str, Any]) -> bool:
    """Whether the machine was evidently not free while the times of a record's rounds were taken."""
    return contended(_wait_share(record)) is True


def _wait_share(record: dict[str, Any]) -> float | None:
    """Of the rounds of a cost; None where there are none, or on another device, whose work no thread waits for."""
    hardware = record["cell"]["hardware"]
    if hardware["device"] != "cpu":
        return None
    return shares(record["results"].get("latency", {}).get("usage", {}), hardware["threads"])["wait_share"]


def text(value: Any) -> str:
    """A field: empty for None, lower-case booleans, floats with all the digits that matter."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.9g}"
    return str(value)


def rows_of(record: dict[str, Any]) -> Iterator[tuple[str, Row]]:
    """The rows of one record, with the table that each belongs to."""
    cell = Cell.from_content(record["cell"])
    results = record["results"]
    identity = {
        "schema_version": SCHEMA_VERSION,
        **{key: record[key] for key in ("run", "cell_id", "config_id", "env_id")},
    }
    axes = {**identity, **axes_of(cell, record)}
    outcome = {
        key: record.get(key)
        for key in (
            "status",
            "reason",
            "parameters",
            "parameters_ratio",
            "started_at",
            "elapsed_s",
            "overhead_s",
            "code_fingerprint",
            "commit",
        )
    }
    outcome["parameters_flag"] = outside(outcome["parameters_ratio"])
    outcome["backend"] = next((value["backend"] for value in results.values() if "backend" in value), None)
    base = {**axes, **outcome}
    memory = {key: results.get("memory", {}).get(key) for key in MEMORY}
    errors = results.get("error", {}).get("errors", [])
    if cell.table == "efficiency":
        costs = {**memory, **cost_columns(record), **{key: results.get("energy", {}).get(key) for key in ENERGY}}
        yield "efficiency", {**base, **costs, "output_error": _unit_error(errors)}
    if cell.table == "accuracy":
        row: Row = {**base, **memory, "train_params": canonical(cell.content()["train"])}
        row |= accuracy_columns(results.get("train", {}))
        yield "accuracy", row
    inputs = {"inputs": "gaussian" if cell.task is None else "trained"}
    if cell.table == "errors" and not errors:
        yield "errors", {**base, **inputs}
    for row in errors:
        yield "errors", {**base, **inputs, **row}
    for group in results.get("train", {}).get("breakdown", []):
        yield "breakdown", {**axes, **breakdown_columns(group)}
    for point in results.get("train", {}).get("curve", []):
        yield "curves", {**axes, **point}
    for sample in results.get("latency", {}).get("samples", []):
        yield (
            "samples",
            {**identity, **sample, "wall_ms": sample["wall_s"] * 1000, "cpu_ms": sample["cpu_s"] * 1000},
        )


def axes_of(cell: Cell, record: dict[str, Any]) -> Row:
    """Every axis of a cell as a column."""
    return {
        "method": cell.method.name,
        "budget_name": record.get("budget_name"),
        "budget_value": record.get("budget_value"),
        "degenerate": record.get("degenerate"),
        "method_params": cell.method.params_json,
        "match": cell.match,
        "match_reached": record.get("match_reached"),
        "task": cell.task.name if cell.task else "none",
        "model": cell.model.name if cell.model else "none",
        "layers": cell.model.layers if cell.model else 1,
        "width": cell.model.width if cell.model else None,
        "ff_dim": cell.model.ff_dim if cell.model else None,
        "dropout": cell.model.dropout if cell.model else None,
        "positions": cell.model.positions if cell.model else "none",
        "pooling": cell.model.pooling if cell.model else "none",
        "pooled_norm": cell.model.pooled_norm if cell.model else "none",
        "reversible": cell.model.reversible if cell.model else False,
        "ff_chunks": cell.model.ff_chunks if cell.model else 1,
        "seq_len": cell.seq_len,
        "batch_size": cell.batch_size,
        "heads": cell.heads,
        "kv_heads": cell.kv_heads,
        "head_dim": cell.head_dim,
        "causal": cell.causal,
        "level": cell.level,
        "mode": cell.mode,
        "seed": cell.seed,
        "device": cell.hardware.device,
        "dtype": cell.hardware.dtype,
        "threads": cell.hardware.threads,
        "compile": cell.hardware.compile,
        "processes": cell.hardware.processes,
        "pretrain": cell.train.pretrain if cell.train else "none",
    }


def cost_columns(record: dict[str, Any]) -> Row:
    """Times, rates and ratios from the samples; operations from the plan."""
    latency = record["results"].get("latency")
    if not latency:
        return {}
    walls, cpus = by_subject(latency["samples"], "wall_s"), by_subject(latency["samples"], "cpu_s")
    own, base = median(walls["method"]), median(walls["baseline"])
    rate, ratio = own.inverse(latency["tokens"]), speedup(latency["samples"])
    row: Row = {
        "cpu_ms": statistics.median(cpus["method"]) * 1000,
        "rounds": len(walls["method"]),
        "baseline": record["baseline"],
        "baseline_backend": latency["baseline_backend"],
    }
    for name, estimate in (
        ("latency_ms", own.scaled(1000)),
        ("tokens_per_s", rate),
        ("baseline_latency_ms", base.scaled(1000)),
        ("speedup", ratio),
    ):
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    row |= ceiling_columns(record, own.value)
    row |= usage_columns(record, row)
    if "flops" in record["cell"]["measure"]["passes"]:
        row |= {
            "flops": record["flops"],
            "flops_source": "analytic",
            "gflops_per_s": record["flops"] / own.value / 1e9,
        }
    return row


def usage_columns(record: dict[str, Any], row: Row) -> Row:
    """What the rounds had of the cores; on other devices the CPU's share says nothing."""
    hardware = record["cell"]["hardware"]
    if hardware["device"] != "cpu":
        return {}
    waited = _wait_share(record)
    return {
        "cpu_share": row["cpu_ms"] / row["latency_ms"] / hardware["threads"],
        "wait_share": waited,
        "contended": contended(waited),
    }


#: Tensors the size of q that a core call reads or writes at least: q, k, v and the output; in training these, the
#: output's gradient and three gradients, with q, k, v and the output read once more.
_TENSORS = {"forward": 4, "train": 12}


def ceiling_columns(record: dict[str, Any], seconds: float) -> Row:
    """What the machine can do at most, and how near to it the method came."""
    ceiling = record.get("ceiling") or {}
    if not ceiling:
        return {}
    cell, products, copies = record["cell"], ceiling["matmul_gflops"] * 1e9, ceiling["copy_gb_per_s"] * 1e9
    flops = record["flops"] if "flops" in cell["measure"]["passes"] else 0
    moved = 0.0
    if cell["level"] == "core":
        if cell["mode"] == "decode":
            moved = (record["results"].get("memory", {}).get("state_mib") or 0.0) * 2**20
        else:
            heads = (cell["heads"] + cell.get("kv_heads", cell["heads"])) / 2  # half of the tensors are as k and v
            numbers = cell["batch_size"] * heads * cell["seq_len"] * cell["head_dim"]
            moved = float(_TENSORS[cell["mode"]] * numbers * _BYTES[cell["hardware"]["dtype"]])
    floor = max(flops / products, moved / copies)
    return {
        **ceiling,
        "utilisation": flops / seconds / products if flops else None,
        "floor_ms": floor * 1000 or None,
        "floor_share": floor / seconds or None,
    }


def accuracy_columns(trained: dict[str, Any]) -> Row:
    """Scores of one training run; the interval is that of the test sample, not of the seed."""
    if not trained:
        return {}
    estimate = share(trained["correct"], trained["test_targets"])
    others = ("curve", "breakdown", "correct", "backend")
    kept = {key: value for key, value in trained.items() if key not in others}
    kept["contended"] = contended(trained.get("wait_share"))
    return {**kept, "accuracy_low": estimate.low, "accuracy_high": estimate.high}


def breakdown_columns(group: dict[str, Any]) -> Row:
    """Scores of the test examples that have the same tags."""
    estimate = share(group["correct"], group["count"])
    return {
        "tags": canonical(group["tags"]),
        "accuracy": estimate.value,
        "accuracy_low": estimate.low,
        "accuracy_high": estimate.high,
        "test_targets": group["count"],
    }


def _unit_error(errors: list[Row]) -> float | None:
    """The output error at norm 1, where it was measured."""
    return next((row.get("output_error") for row in errors if row["qk_norm"] == 1.0), None)
