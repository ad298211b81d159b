"""The range of every number in the configuration."""

from __future__ import annotations

from operator import attrgetter

from bench.errors import Refused
from bench.schema import Config

#: Key -> (smallest allowed, largest allowed); None is no bound.
RANGES: dict[str, tuple[float, float | None]] = {
    "seq_len": (1, None),
    "batch_size": (1, None),
    "heads": (1, None),
    "kv_heads": (1, None),
    "head_dim": (1, None),
    "seed": (0, 2**31 - 1),
    "workers": (1, None),
    "timeout_s": (0.001, None),
    "memory_limit_mib": (1, None),
    "checkpoint_s": (0, None),
    "model.layers": (1, None),
    "model.heads": (1, None),
    "model.head_dim": (1, None),
    "model.width": (1, None),
    "model.ff_dim": (1, None),
    "model.dropout": (0, 0.99),
    "model.embedding_std": (1e-6, None),
    "model.classifier_dim": (1, None),
    "model.ff_chunks": (1, None),
    "task.seq_len": (1, None),
    "task.train.steps": (1, None),
    "task.train.batch_size": (1, None),
    "task.train.lr": (0, None),
    "task.train.warmup_steps": (0, None),
    "task.train.weight_decay": (0, None),
    "task.train.grad_clip": (0, None),
    "task.train.eps": (0, None),
    "task.train.grad_clip_value": (0, None),
    "task.train.accumulate": (1, None),
    "task.train.eval_every": (1, None),
    "task.train.eval_batch_size": (1, None),
    "task.train.patience": (1, None),
    "task.train.pretrain_steps": (1, None),
    "task.train.pretrain_mask": (0, 1),
    "measure.min_rounds": (3, None),
    "measure.max_rounds": (3, None),
    "measure.budget_s": (0, None),
    "measure.precision": (0, None),
    "measure.block_s": (0, None),
    "measure.attention_max_len": (0, None),
    "hardware.threads": (1, None),
}


_values = attrgetter(*RANGES)


def check_ranges(cfg: Config) -> None:
    """Refuse the first value outside `RANGES`, by key, value and what is allowed."""
    for (key, (low, high)), value in zip(RANGES.items(), _values(cfg), strict=True):
        if value is not None and (value < low or (high is not None and value > high)):
            allowed = f">= {low:g}" if high is None else f"from {low:g} to {high:g}"
            raise Refused(f"{key}={value}: expected a number {allowed}")
    betas = cfg.task.train.betas
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise Refused(f"task.train.betas={list(betas)}: expected two numbers from 0 to below 1")
    norms = cfg.measure.qk_norms
    if not norms or any(norm <= 0 for norm in norms):
        raise Refused(f"measure.qk_norms={list(norms)}: expected at least one number > 0")
    if cfg.measure.max_rounds < cfg.measure.min_rounds:
        raise Refused(
            f"measure.max_rounds={cfg.measure.max_rounds}: expected at least min_rounds, {cfg.measure.min_rounds}"
        )
