"""The typed configuration: every key a user may set, its type and its default.

Hydra merges the YAML files of `conf/` into these dataclasses, so a wrong name or type is refused while the
configuration is composed; bench/ranges.py refuses values outside their range. The parameters of methods and
tasks are typed by the constructors of their classes instead (bench/plugin.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


class Level(Enum):
    """What is measured: the attention alone, the mixing layer with its projections, or a whole model."""

    core = "core"
    mixer = "mixer"
    model = "model"


class Mode(Enum):
    """Inference; forward and backward (at level `model` with the optimiser's step); one token after seq_len."""

    forward = "forward"
    train = "train"
    decode = "decode"


class Pass(Enum):
    """One measurement, taken apart from the others."""

    latency = "latency"
    memory = "memory"
    flops = "flops"
    error = "error"
    train = "train"
    energy = "energy"


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
    """How a sequence becomes one vector: tasks/heads.py."""

    cls = "cls"
    mean = "mean"
    first = "first"
    last = "last"
    mean_with_padding = "mean_with_padding"
    sum_over_length = "sum_over_length"


class PooledNorm(Enum):
    """What is done to pooled vectors before the classifier: tasks/heads.py."""

    none = "none"
    batch = "batch"


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
    contended = "contended"
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
    pooled_norm: PooledNorm = PooledNorm.none
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
    stratify: bool = False
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
    precision: float = 0.02
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
    """A union of grids: name of the grid -> axis -> its values; a cell's limit where the command gives none."""

    name: str | None = None
    timeout_s: float | None = None
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
    kv_heads: int | None = None
    head_dim: int | None = None
    causal: bool | None = None
    level: Level | None = None
    mode: Mode = Mode.forward
    seed: int = 0
    match: str | None = None

    run: str | None = None
    results_dir: str = "results"
    rerun: Rerun | None = None
    shard: str | None = None
    workers: int | None = None
    isolation: Isolation = Isolation.auto
    timeout_s: float | None = None
    memory_limit_mib: float | None = None
    checkpoint_s: float | None = 60.0


#: The config groups a grid or a command line may choose from.
GROUPS = ("method", "task", "model", "measure", "hardware", "sweep")


def register() -> None:
    """Make the schema known to Hydra; conf/config.yaml extends it, and the files of the groups fill it."""
    ConfigStore.instance().store(name="schema", node=Config)
