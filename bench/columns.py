"""The tables of a run: file names, columns in order, and their types.

This is the one declaration of the CSV schema. `bench/collect.py` writes exactly these columns,
`docs/metrics.md` explains each, and the reader in `reports/` refuses any other `schema_version`.

Types: `str`, `int`, `float`, `bool`. An empty field means "not measured"; why is in `reason`.
Units stand in the names: `_ms`, `_s`, `_mib` (2**20 bytes), `_per_s`. `_low` and `_high` bound a
95 % interval of the column they extend.
"""

from __future__ import annotations

SCHEMA_VERSION = 1

Columns = dict[str, type]

#: Statuses a cell can end in (docs/design.md, section 1).
STATUSES = ("ok", "oom", "timeout", "unsupported", "error", "diverged", "skipped")

IDENTITY: Columns = {
    "schema_version": int,
    "run": str,
    "cell_id": str,
    "config_id": str,
    "env_id": str,
}

AXES: Columns = {
    "method": str,
    "budget_name": str,
    "budget_value": float,
    "degenerate": bool,
    "method_params": str,
    "match": str,
    "match_reached": float,
    "task": str,
    "model": str,
    "layers": int,
    "width": int,
    "ff_dim": int,
    "dropout": float,
    "positions": str,
    "pooling": str,
    "pooled_norm": str,
    "reversible": bool,
    "ff_chunks": int,
    "seq_len": int,
    "batch_size": int,
    "heads": int,
    "kv_heads": int,
    "head_dim": int,
    "causal": bool,
    "level": str,
    "mode": str,
    "seed": int,
    "device": str,
    "dtype": str,
    "threads": int,
    "compile": bool,
    "processes": int,
    "pretrain": str,
}

OUTCOME: Columns = {
    "status": str,
    "reason": str,
    "backend": str,
    "parameters": int,
    "parameters_ratio": float,
    "parameters_flag": bool,
    "started_at": str,
    "elapsed_s": float,
    "overhead_s": float,
    "code_fingerprint": str,
    "commit": str,
}

MEMORY: Columns = {
    "peak_mib": float,
    "peak_way": str,
    "inputs_mib": float,
    "parameters_mib": float,
    "state_mib": float,
    "activations_mib": float,
    "temporary_mib": float,
    "memory_note": str,
}

ENERGY: Columns = {
    "energy_j": float,
    "baseline_energy_j": float,
    "energy_source": str,
    "energy_note": str,
}

#: What the timed part had of its cores.
USAGE: Columns = {"cpu_share": float, "wait_share": float, "contended": bool}

EFFICIENCY: Columns = {
    "latency_ms": float,
    "latency_ms_low": float,
    "latency_ms_high": float,
    "cpu_ms": float,
    "rounds": int,
    "tokens_per_s": float,
    "tokens_per_s_low": float,
    "tokens_per_s_high": float,
    "baseline": str,
    "baseline_backend": str,
    "baseline_latency_ms": float,
    "baseline_latency_ms_low": float,
    "baseline_latency_ms_high": float,
    "speedup": float,
    "speedup_low": float,
    "speedup_high": float,
    **MEMORY,
    "flops": int,
    "flops_source": str,
    "gflops_per_s": float,
    "matmul_gflops": float,
    "copy_gb_per_s": float,
    "utilisation": float,
    "floor_ms": float,
    "floor_share": float,
    "output_error": float,
    **USAGE,
    **ENERGY,
}

ERRORS: Columns = {
    "inputs": str,
    "layer": int,
    "qk_norm": float,
    "output_error": float,
    "spectral_error": float,
    "attention_error": float,
    "row_tv": float,
    "row_kl": float,
    "topk_recall": float,
    "exact_accuracy": float,
    "note": str,
}

ACCURACY: Columns = {
    "metric": str,
    "accuracy": float,
    "accuracy_low": float,
    "accuracy_high": float,
    "test_targets": int,
    "chance": float,
    "dev_accuracy": float,
    "best_step": int,
    "steps": int,
    "train_examples": int,
    "data_digest": str,
    "train_loss": float,
    "train_s": float,
    "step_ms": float,
    "train_tokens_per_s": float,
    "train_params": str,
    "pretrain_steps": int,
    "pretrain_loss": float,
    "pretrain_s": float,
    "resumed": int,
    **MEMORY,
    **USAGE,
}

CURVES: Columns = {
    "step": int,
    "train_loss": float,
    "dev_loss": float,
    "dev_accuracy": float,
    "elapsed_s": float,
}

BREAKDOWN: Columns = {
    "tags": str,
    "accuracy": float,
    "accuracy_low": float,
    "accuracy_high": float,
    "test_targets": int,
}

SAMPLES: Columns = {
    "round": int,
    "position": int,
    "subject": str,
    "wall_ms": float,
    "cpu_ms": float,
    "calls": int,
}

ENVIRONMENTS: Columns = {
    "schema_version": int,
    "run": str,
    "env_id": str,
    "name": str,
    "value": str,
}

#: File stem -> its columns. One observation a row.
TABLES: dict[str, Columns] = {
    "efficiency": {**IDENTITY, **AXES, **OUTCOME, **EFFICIENCY},
    "errors": {**IDENTITY, **AXES, **OUTCOME, **ERRORS},
    "accuracy": {**IDENTITY, **AXES, **OUTCOME, **ACCURACY},
    "breakdown": {**IDENTITY, **AXES, **BREAKDOWN},
    "curves": {**IDENTITY, **AXES, **CURVES},
    "samples": {**IDENTITY, **SAMPLES},
    "environments": ENVIRONMENTS,
}
