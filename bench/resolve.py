"""From a composed configuration to a cell: nulls take their defaults, parameters are checked."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig

from bench import torchrun
from bench.cell import Cell, Hardware, Measure, Model, Plugin, Train, canonical
from bench.compose import typed
from bench.errors import Refused
from bench.plugin import check_parameters, defaults, load_class
from bench.ranges import check_ranges
from bench.schema import Config

#: Constructor arguments that the harness gives, by kind.
RESERVED = {"method": ("shape", "layer", "generator"), "task": ("seq_len", "seed", "data_dir")}

#: Where the parameters of a kind stand in the configuration.
PREFIX = {"method": "method", "task": "task.params"}

DEFAULT_SEQ_LEN, DEFAULT_HEADS, DEFAULT_HEAD_DIM = 1024, 8, 64

COST_PASSES = ("latency", "memory", "flops")
DECODE_PASSES = ("latency", "memory", "energy")


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def method_class(target: str) -> type[Any]:
    """The method class at a dotted path; refuses what is no method."""
    from methods.registry import METHODS, Attention

    return load_class(target, Attention, "method", METHODS)


def task_class(target: str) -> type[Any]:
    """The task class at a dotted path; refuses what is no task."""
    from tasks.registry import TASKS, Task

    return load_class(target, Task, "task", TASKS)


def cell_from_config(cfg: DictConfig) -> Cell:
    """Resolve one configuration. Raises Refused with the key, the value and what is allowed."""
    return cell_from_settings(typed(cfg))


def cell_from_settings(cfg: Config) -> Cell:
    """The same for a typed configuration."""
    check_ranges(cfg)
    given = {str(key): value for key, value in cfg.method.items() if key not in ("name", "_target_")}
    method, _ = _plugin("method", cfg.method.get("name"), cfg.method.get("_target_"), canonical(given))
    task, task_cls = (None, None)
    if cfg.task._target_ is not None:
        task, task_cls = _plugin("task", cfg.task.name, cfg.task._target_, canonical(cfg.task.params))
    level = cfg.level.value if cfg.level is not None else "model" if task else "core"
    if task and level != "model":
        raise Refused(f"level={level}: a task needs a model; leave level out or say level=model")
    passes = _passes(cfg, level, bool(task))
    model_level = level == "model"

    heads = first(cfg.heads, cfg.model.heads if model_level else DEFAULT_HEADS)
    head_dim = first(cfg.head_dim, cfg.model.head_dim if model_level else DEFAULT_HEAD_DIM)
    batch_size = first(cfg.batch_size, cfg.task.train.batch_size if task else 1)
    decode = cfg.mode.value == "decode"
    causal = first(cfg.causal, task_cls.causal if task_cls else decode)
    if decode and (level != "core" or not causal):
        raise Refused("mode=decode: needs level=core and the causal form; leave level and causal out")
    kv_heads = _kv_heads(cfg, level, heads)
    processes = torchrun.world() if "train" in passes else 1
    pooling = cfg.model.pooling.value
    if model_level and causal and pooling in ("cls", "first") and not (task_cls and task_cls.per_token):
        raise Refused(f"model.pooling={pooling}: with causal=true its row sees no other token; say last or mean")
    # errors with a task are those on what a trained model's layers are given
    trains = task is not None and bool({"train", "error"} & set(passes))
    train = _train(cfg, batch_size, causal, processes) if trains else None
    if train is not None and train.stratify and task_cls and task_cls.per_token:
        raise Refused("task.train.stratify=true: this task has a target a token, not one class a sequence")
    split = train is not None and (train.accumulate > 1 or processes > 1)
    if split and cfg.model.pooled_norm.value == "batch" and not (task_cls and task_cls.per_token):
        raise Refused("model.pooled_norm=batch: needs whole batches, not pieces or shares; say none")
    return Cell(
        method=method,
        seq_len=first(cfg.seq_len, cfg.task.seq_len, DEFAULT_SEQ_LEN),
        batch_size=batch_size,
        heads=heads,
        head_dim=head_dim,
        causal=causal,
        level=level,
        mode="train" if "train" in passes else cfg.mode.value,
        seed=cfg.seed,
        measure=Measure(
            passes=passes,
            min_rounds=cfg.measure.min_rounds,
            max_rounds=cfg.measure.max_rounds,
            budget_s=cfg.measure.budget_s,
            precision=cfg.measure.precision,
            block_s=cfg.measure.block_s,
            qk_norms=tuple(cfg.measure.qk_norms),
            attention_max_len=cfg.measure.attention_max_len,
            memory_way=cfg.measure.memory_way.value,
        ),
        hardware=Hardware(
            device=cfg.hardware.device,
            dtype=cfg.hardware.dtype.value,
            threads=first(cfg.hardware.threads, max(available_cores() // torchrun.local_world(), 1)),
            compile=cfg.hardware.compile,
            processes=processes,
        ),
        model=_model(cfg, heads * head_dim) if model_level else None,
        task=task,
        train=train,
        match=cfg.match,
        kv_heads=kv_heads,
        data_dir=str(Path(cfg.task.data_dir).expanduser().absolute()) if task and cfg.task.data_dir else None,
    )


def _kv_heads(cfg: Config, level: str, heads: int) -> int | None:
    """Heads of keys and values; None where each query head has its own, however that was said."""
    if cfg.kv_heads in (None, heads):
        return None
    if level != "core":
        raise Refused(f"kv_heads={cfg.kv_heads}: grouped queries are measured at level=core, not at level={level}")
    if heads % cfg.kv_heads:
        raise Refused(f"kv_heads={cfg.kv_heads}: expected a divisor of heads={heads}")
    return cfg.kv_heads


def first(*choices: Any) -> Any:
    """The first that is not None."""
    return next(choice for choice in choices if choice is not None)


@cache
def _plugin(kind: str, name: str, target: str | None, given: str) -> tuple[Plugin, type[Any]]:
    """The class a group names and its parameters, defaults filled in, so that spelling them changes no id.

    given: the parameters as JSON. Once for all cells that say the same.
    """
    if not target or target == MISSING:
        raise Refused(f"{kind}._target_: missing; give a class as {kind}._target_=package.module.Class")
    try:
        cls = method_class(target) if kind == "method" else task_class(target)
        checked = check_parameters(cls, json.loads(given), PREFIX[kind], RESERVED[kind])
    except ValueError as error:
        raise Refused(str(error)) from error
    full = {**defaults(cls, RESERVED[kind]), **checked}
    return Plugin(name, f"{cls.__module__}.{cls.__qualname__}", canonical(full)), cls


def _passes(cfg: Config, level: str, task: bool) -> tuple[str, ...]:
    """The passes asked for, checked against the cell; or all that fit it."""
    if cfg.mode.value == "decode":
        wanted = COST_PASSES if cfg.measure.passes is None else tuple(item.value for item in cfg.measure.passes)
        passes = tuple(name for name in dict.fromkeys(wanted) if name in DECODE_PASSES)
        if not passes:
            raise Refused(f"measure.passes: mode=decode has {' and '.join(DECODE_PASSES)}")
        return passes
    if cfg.measure.passes is None:
        if task:
            return ("train", "memory")
        return (*COST_PASSES, "error") if level == "core" and cfg.mode.value == "forward" else COST_PASSES
    passes = tuple(dict.fromkeys(item.value for item in cfg.measure.passes))
    if not passes:
        raise Refused("measure.passes=[]: expected at least one of latency, memory, flops, error, train, energy")
    if "train" in passes and not task:
        raise Refused("measure.passes: train needs a task, such as task=listops_mini")
    if "train" in passes and {"latency", "error", "energy"} & set(passes):
        raise Refused("measure.passes: train goes with memory only; measure costs in a cell of their own")
    if "error" in passes and task and passes != ("error",):
        raise Refused("measure.passes: with a task, error goes alone: measure=error")
    if "error" in passes and not task and level != "core":
        raise Refused(f"measure.passes: error is defined at level=core, not at level={level}")
    return passes


def _model(cfg: Config, inner: int) -> Model:
    """`inner` is heads x head_dim, the width unless one is given; the classifier's hidden layer follows it."""
    model = cfg.model
    width = inner if model.width is None else model.width
    return Model(
        name=model.name,
        layers=model.layers,
        width=width,
        ff_dim=model.ff_dim,
        dropout=model.dropout,
        positions=model.positions.value,
        embedding_std=model.embedding_std,
        pooling=model.pooling.value,
        pooled_norm=model.pooled_norm.value,
        classifier_dim=width if model.classifier_dim is None else model.classifier_dim,
        reversible=model.reversible,
        ff_chunks=model.ff_chunks,
    )


def _train(cfg: Config, batch_size: int, causal: bool, processes: int) -> Train:
    train = cfg.task.train
    pretrain = train.pretrain.value
    if pretrain == "causal" and not causal:
        raise Refused(
            "task.train.pretrain=causal: needs causal=true, else a model sees the token it is to predict"
        )
    if pretrain == "masked" and train.pretrain_mask == 0:
        raise Refused(
            f"task.train.pretrain_mask={train.pretrain_mask}: expected a share above 0, or no token is ever hidden"
        )
    if train.accumulate * processes > batch_size:
        raise Refused(
            f"task.train.accumulate={train.accumulate}: expected at most one piece for each of the batch's "
            f"{batch_size} rows{f' over {processes} processes' if processes > 1 else ''}"
        )
    return Train(
        steps=train.steps,
        lr=train.lr,
        schedule=train.schedule.value,
        warmup_steps=train.warmup_steps,
        betas=(train.betas[0], train.betas[1]),
        eps=train.eps,
        weight_decay=train.weight_decay,
        grad_clip=train.grad_clip,
        grad_clip_value=train.grad_clip_value,
        accumulate=train.accumulate,
        stratify=train.stratify,
        eval_every=train.eval_every,
        eval_batch_size=first(train.eval_batch_size, batch_size),
        patience=train.patience,
        pretrain=pretrain,
        # what a run does not use is no part of its identity
        pretrain_steps=0 if pretrain == "none" else first(train.pretrain_steps, train.steps),
        pretrain_mask=train.pretrain_mask if pretrain == "masked" else 0.0,
    )
