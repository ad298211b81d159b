"""What the terminal says: a line a cell, and the table of a single one."""

from __future__ import annotations

import math
from typing import Any

from bench.cell import Cell
from bench.collect import rows_of


def cell_line(record: dict[str, Any]) -> str:
    """One line on a finished cell."""
    cell = Cell.from_content(record["cell"])
    head = f"{cell.describe():<44}"
    if record["status"] != "ok":
        return f"{head} {record['status']}: {record['reason']}"
    row = next(iter(rows_of(record)))[1]
    words = []
    if row.get("latency_ms") is not None:
        words.append(f"{quantity(row['latency_ms'])} ms")
        words.append(f"speedup {interval(row, 'speedup')}")
    if row.get("accuracy") is not None:
        words.append(f"accuracy {score(row)} (chance {row['chance']:.3f})")
    if row.get("peak_mib") is not None:
        words.append(f"peak {quantity(row['peak_mib'])} MiB")
    if row.get("output_error") is not None:
        words.append(f"error {row['output_error']:.2g}")
    if row.get("contended"):
        words.append("machine not free")
    if row["parameters_flag"]:
        words.append(f"parameters x {row['parameters_ratio']:.2f}")
    return f"{head} {'  '.join(words)}"


def cell_table(record: dict[str, Any]) -> str:
    """All that was found of one cell, a line a quantity."""
    cell = Cell.from_content(record["cell"])
    row = next(iter(rows_of(record)))[1]
    budget = "no budget"
    if name := row["budget_name"]:  # without one value it is a schedule, one a layer
        value = row["budget_value"]
        budget = f"{name}={cell.method.params.get(name) if value is None else format(value, 'g')}"
    lines = [
        (
            "method",
            f"{cell.method.name} ({budget}{', degenerate: saves nothing here' if row['degenerate'] else ''})",
        ),
        (
            "shape",
            f"seq_len {cell.seq_len}, batch {cell.batch_size}, heads {cell.heads} x {cell.head_dim}"
            f"{f' on {cell.kv_heads} of keys' if cell.kv_heads else ''}"
            f"{', causal' if cell.causal else ''}",
        ),
        ("measured", f"{cell.level} {cell.mode} on {row['device']}, {row['dtype']}, {row['threads']} threads"),
        ("status", row["status"] + (f": {row['reason']}" if row["reason"] else "")),
    ]
    if row.get("backend"):
        lines.append(("backend", row["backend"]))
    if row.get("latency_ms") is not None:
        if row.get("contended"):
            waited = f"threads waited for a core {row['wait_share']:.0%} of the time"
            lines.append(("machine", f"not free: {waited}; distrust the times, less so the speedup"))
        lines += [
            (
                "time",
                f"{interval(row, 'latency_ms')} ms ({row['rounds']} rounds, cpu {quantity(row['cpu_ms'])} ms)",
            ),
            ("throughput", f"{interval(row, 'tokens_per_s')} tokens/s"),
            (
                "speedup",
                f"{interval(row, 'speedup')} over {row['baseline']} ({row['baseline_backend']},"
                f" {interval(row, 'baseline_latency_ms')} ms)",
            ),
        ]
    if row.get("accuracy") is not None:
        lines += [
            (
                f"test {row['metric']}",
                f"{score(row)} (chance {row['chance']:.3f},"
                f" {row['test_targets']} targets, best dev step {row['best_step']})",
            ),
            (
                "training",
                f"{row['steps']} steps{_pretraining(row)} in {row['train_s']:.1f} s,"
                f" {quantity(row['step_ms'])} ms a step, {quantity(row['train_tokens_per_s'])} tokens/s",
            ),
        ]
    if row.get("peak_mib") is not None:
        lines.append(
            (
                "peak memory",
                f"{quantity(row['peak_mib'])} MiB beyond {quantity(row['inputs_mib'])} of inputs"
                f" and {quantity(row['parameters_mib'])} of parameters ({row['peak_way']})",
            )
        )
    if row.get("activations_mib") is not None:
        kept, rest = quantity(row["activations_mib"]), quantity(row["temporary_mib"])
        lines.append(("of it", f"{kept} MiB activations, kept for the backward, and {rest} temporary"))
    if row.get("energy_j") is not None:
        own, base = quantity(row["energy_j"]), quantity(row["baseline_energy_j"])
        lines.append(("energy", f"{own} J a call, {base} of {record['baseline']} ({row['energy_source']})"))
    elif row.get("energy_note"):
        lines.append(("energy", f"unknown: {row['energy_note']}"))
    if row.get("flops") is not None:
        lines.append(("operations", f"{row['flops'] / 1e9:.3g} GFLOP, {quantity(row['gflops_per_s'])} GFLOP/s"))
    for found in record["results"].get("error", {}).get("errors", []):
        words = [
            f"{found[key]:.3g} of the {thing}"
            for key, thing in (("output_error", "output"), ("attention_error", "attention matrix"))
            if found.get(key) is not None
        ]
        layer = f"layer {found['layer']}, " if "layer" in found else ""
        lines.append((f"error, {layer}|q|,|k| x {found['qk_norm']:.3g}", ", ".join(words) or found["note"]))
    if row["parameters_ratio"] is not None:
        flag = ": not within 10 %" if row["parameters_flag"] else ""
        times = f"{row['parameters_ratio']:.3g} times those of {record['baseline']}"
        lines.append(("parameters", f"{row['parameters']:,}, {times}{flag}"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def _pretraining(row: dict[str, Any]) -> str:
    """What came before the training, if anything did."""
    if row["pretrain"] == "none":
        return ""
    return f" after {row['pretrain_steps']} of {row['pretrain']} pretraining (loss {row['pretrain_loss']:.3f})"


def quantity(value: float) -> str:
    """Three significant digits, without an exponent unless it is tiny."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) < 0.001:
        return f"{value:.2g}"
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"


def interval(row: dict[str, Any], name: str) -> str:
    """`3.10 [3.02, 3.19]`."""
    return f"{quantity(row[name])} [{quantity(row[f'{name}_low'])}, {quantity(row[f'{name}_high'])}]"


def score(row: dict[str, Any]) -> str:
    """An accuracy with its interval, to three decimals."""
    return f"{row['accuracy']:.3f} [{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}]"
