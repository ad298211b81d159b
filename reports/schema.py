"""What the report relies on in the CSV files: the version, and each column it reads with its kind.

`bench/columns.py` declares the whole schema; a test holds the two together.
"""

from __future__ import annotations

from typing import Literal

SUPPORTED_VERSION = 1

STATUSES = ("ok", "oom", "timeout", "unsupported", "error", "diverged", "skipped")

#: `name` is a text that may not be empty and `count` a whole number that may not be; the others may be
#: empty. `metric` is finite and not negative, `share` also at most 1; `loss` may be infinite or NaN,
#: because that is what a diverged training run leaves in its curve. A `divergence` is a metric
#: whose sum may round to just below 0 where it is 0.
Kind = Literal[
    "text", "name", "status", "whole", "count", "flag", "number", "metric", "divergence", "share", "loss"
]

Kinds = dict[str, Kind]

_IDENTITY: Kinds = {
    "schema_version": "count",
    "run": "text",
    "cell_id": "name",
    "config_id": "name",
    "env_id": "name",
}

_AXES: Kinds = {
    "method": "name",
    "budget_name": "text",
    "budget_value": "number",
    "degenerate": "flag",
    "method_params": "text",
    "task": "text",
    "model": "text",
    "layers": "whole",
    "width": "whole",
    "ff_dim": "whole",
    "dropout": "share",
    "positions": "text",
    "pooling": "text",
    "pooled_norm": "text",
    "reversible": "flag",
    "ff_chunks": "whole",
    "seq_len": "count",
    "batch_size": "whole",
    "heads": "whole",
    "kv_heads": "whole",
    "head_dim": "whole",
    "causal": "flag",
    "level": "name",
    "mode": "name",
    "seed": "whole",
    "device": "text",
    "dtype": "text",
    "threads": "whole",
    "compile": "flag",
    "processes": "whole",
    "pretrain": "text",
}

#: The columns that tell cells apart.
AXES = tuple(_AXES)

_OUTCOME: Kinds = {
    "status": "status",
    "reason": "text",
    "backend": "text",
    "parameters": "whole",
    "parameters_ratio": "metric",
    "parameters_flag": "flag",
    "started_at": "text",
}

_MEMORY: Kinds = {"peak_mib": "metric", "peak_way": "text", "inputs_mib": "metric", "parameters_mib": "metric"}


#: What the timed part had of its cores.
_USAGE: Kinds = {"cpu_share": "metric", "wait_share": "metric", "contended": "flag"}

#: Columns that came later: a table without them is read as one where they are empty.
OPTIONAL = frozenset({*_USAGE, "kv_heads", "inputs", "layer", "topk_recall", "exact_accuracy"})


def _interval(column: str, kind: Kind) -> Kinds:
    return {column: kind, f"{column}_low": kind, f"{column}_high": kind}


#: File stem -> the columns read from it.
TABLES: dict[str, Kinds] = {
    "efficiency": {
        **_IDENTITY,
        **_AXES,
        **_OUTCOME,
        **_interval("latency_ms", "metric"),
        "rounds": "whole",
        **_interval("tokens_per_s", "metric"),
        "baseline": "text",
        "baseline_backend": "text",
        **_interval("speedup", "metric"),
        **_MEMORY,
        "output_error": "metric",
        **_USAGE,
    },
    "errors": {
        **_IDENTITY,
        **_AXES,
        **_OUTCOME,
        "qk_norm": "metric",
        "output_error": "metric",
        "spectral_error": "metric",
        "attention_error": "metric",
        "row_tv": "metric",
        "row_kl": "divergence",
        "inputs": "text",
        "layer": "whole",
        "topk_recall": "share",
        "exact_accuracy": "share",
        "note": "text",
    },
    "accuracy": {
        **_IDENTITY,
        **_AXES,
        **_OUTCOME,
        "metric": "text",
        **_interval("accuracy", "share"),
        "test_targets": "whole",
        "chance": "share",
        "dev_accuracy": "share",
        "steps": "whole",
        "train_loss": "loss",
        "step_ms": "metric",
        "train_tokens_per_s": "metric",
        **_MEMORY,
        **_USAGE,
    },
    "breakdown": {
        **_IDENTITY,
        **_AXES,
        "tags": "name",
        **_interval("accuracy", "share"),
        "test_targets": "count",
    },
    "curves": {
        **_IDENTITY,
        **_AXES,
        "step": "count",
        "train_loss": "loss",
        "dev_loss": "loss",
        "dev_accuracy": "share",
    },
    "samples": {**_IDENTITY, "round": "count", "subject": "name", "wall_ms": "metric"},
    "environments": {
        "schema_version": "count",
        "run": "text",
        "env_id": "name",
        "name": "name",
        "value": "text",
    },
}

#: Tables of which at least one must have rows.
RESULTS = ("efficiency", "errors", "accuracy")

#: What identifies a row within a table; a second row with the same values would be counted twice.
UNIQUE: dict[str, tuple[str, ...]] = {
    "efficiency": ("env_id", "cell_id"),
    "errors": ("env_id", "cell_id", "qk_norm", "layer"),
    "accuracy": ("env_id", "cell_id"),
    "breakdown": ("env_id", "cell_id", "tags"),
}
