"""The typed configuration: every key a user may set, its type, its default and its range.

Hydra merges the YAML files of `conf/` into these dataclasses, so a wrong name or type is refused while the
configuration is composed; `check_ranges` refuses values outside their range. The parameters of methods and
tasks are typed by the constructors of their classes instead (bench/plugin.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from bench.errors import Refused


class Level(Enum):
    """What is measured: the attention alone, the mixing layer with its projections, or a whole model."""

    core = "core"
    mixer = "mixer"
    model = "model"


class Mode(Enum):
    """Inference, or forward and backward (at level `model` with the optimiser's step)."""

    forward = "forward"
    train = "train"


class Pass(Enum):
    """One measurement, taken apart from the others."""

    latency = "latency"
    memory = "memory"
    flops = "flops"
    error = "error"
    train = "train"


class MemoryWay(Enum):
    """How peak memory is read: `auto` takes the best the device has."""

    auto = "auto"
    high_water = "high_water"
    profiler = "profiler"


class DType(Enum):
    """Element type of the inputs."""

    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Positions(Enum):
    """How the encoder knows where a token stands."""

    learned = "learned"
    sinusoidal = "sinusoidal"
    rotary = "rotary"
    none = "none"


class Pooling(Enum):
    """How a sequence becomes one vector: a learned token in front, or its real tokens."""

    cls = "cls"
    mean = "mean"
    first = "first"
    last = "last"


class Schedule(Enum):
    """How the learning rate goes, after a linear warm-up: bench/training/schedule.py."""

    cosine = "cosine"
    linear = "linear"
    rsqrt = "rsqrt"
    constant = "constant"


class Pretrain(Enum):
    """What a model learns of the task's inputs before it sees their labels."""

    none = "none"
    masked = "masked"
    causal = "causal"


class Isolation(Enum):
    """How a cell's process starts; `auto` takes the fork server where there is one."""

    auto = "auto"
    forkserver = "forkserver"
    subprocess = "subprocess"


class Rerun(Enum):
    """Which stored cells run again."""

    none = "none"
    failed = "failed"
    stale = "stale"
    all = "all"


@dataclass
class ModelConfig:
    """The encoder around a method, used at level `model`; null dimensions follow heads x head_dim."""

    name: str = MISSING
    layers: int = 2
    heads: int = 2
    head_dim: int = 32
    width: int | None = None
    ff_dim: int = 128
    dropout: float = 0.0
    positions: Positions = Positions.learned
    embedding_std: float = 0.02
    pooling: Pooling = Pooling.mean
    classifier_dim: int | None = None
    reversible: bool = False
    ff_chunks: int = 1


@dataclass
class TrainConfig:
    """One training run: AdamW under a schedule, the best dev step tested once.

    Null: `eval_batch_size` as `batch_size`, no `patience`, `pretrain_steps` as `steps`.
    """

    steps: int = 500
    batch_size: int = 32
    lr: float = 1e-3
    schedule: Schedule = Schedule.cosine
    warmup_steps: int = 50
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    grad_clip_value: float = 0.0
    accumulate: int = 1
    eval_every: int = 50
    eval_batch_size: int | None = None
    patience: int | None = None
    pretrain: Pretrain = Pretrain.none
    pretrain_steps: int | None = None
    pretrain_mask: float = 0.15


@dataclass
class TaskConfig:
    """A task: its class, default length, folder of files, constructor's parameters, and how to train on it."""

    name: str = MISSING
    _target_: str | None = None
    seq_len: int | None = None
    data_dir: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass
class MeasureConfig:
    """Which passes run and how long. `passes: null` means all that fit the cell."""

    name: str = MISSING
    passes: list[Pass] | None = None
    min_rounds: int = 6
    max_rounds: int = 40
    budget_s: float = 2.0
    block_s: float = 0.02
    qk_norms: list[float] = field(default_factory=lambda: [1.0])
    attention_max_len: int = 1024
    memory_way: MemoryWay = MemoryWay.auto


@dataclass
class HardwareConfig:
    """Where a cell runs. `threads: null` means all cores this process may use."""

    name: str = MISSING
    device: str = "cpu"
    dtype: DType = DType.float32
    threads: int | None = None
    compile: bool = False


@dataclass
class SweepConfig:
    """A union of grids: name of the grid -> axis -> its values."""

    name: str | None = None
    grids: dict[str, Any] = field(default_factory=dict)


@dataclass
class Config:
    """The whole configuration. A null axis takes the default of the level, the model or the task."""

    method: Any = MISSING
    task: TaskConfig = MISSING
    model: ModelConfig = MISSING
    measure: MeasureConfig = MISSING
    hardware: HardwareConfig = MISSING
    sweep: SweepConfig = MISSING

    seq_len: int | None = None
    batch_size: int | None = None
    heads: int | None = None
    head_dim: int | None = None
    causal: bool | None = None
    level: Level | None = None
    mode: Mode = Mode.forward
    seed: int = 0

    run: str | None = None
    results_dir: str = "results"
    rerun: Rerun | None = None
    isolation: Isolation = Isolation.auto
    timeout_s: float | None = None
    memory_limit_mib: float | None = None
    checkpoint_s: float | None = 60.0


#: The config groups a grid or a command line may choose from.
GROUPS = ("method", "task", "model", "measure", "hardware", "sweep")

#: Key -> (smallest allowed, largest allowed); None is no bound.
RANGES: dict[str, tuple[float, float | None]] = {
    "seq_len": (1, None),
    "batch_size": (1, None),
    "heads": (1, None),
    "head_dim": (1, None),
    "seed": (0, 2**31 - 1),
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
    "measure.block_s": (0, None),
    "measure.attention_max_len": (0, None),
    "hardware.threads": (1, None),
}


def register() -> None:
    """Make the schema known to Hydra; conf/config.yaml extends it, and the files of the groups fill it."""
    ConfigStore.instance().store(name="schema", node=Config)


def check_ranges(cfg: DictConfig) -> None:
    """Refuse the first value outside `RANGES`, by key, value and what is allowed."""
    for key, (low, high) in RANGES.items():
        value = OmegaConf.select(cfg, key)
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
