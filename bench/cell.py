"""A cell: one fully resolved configuration, frozen, and known by the hash of what it says."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any, Literal

#: Version of the stored record; a record of another version is foreign.
RECORD_VERSION = 3

Table = Literal["efficiency", "errors", "accuracy"]


@dataclass(frozen=True)
class Plugin:
    """A named class and the JSON text of its parameters, defaults included."""

    name: str
    target: str
    params_json: str = "{}"

    @property
    def params(self) -> dict[str, Any]:
        """The parameters as the constructor takes them."""
        loaded: dict[str, Any] = json.loads(self.params_json)
        return loaded


@dataclass(frozen=True)
class Model:
    """The encoder of level `model`."""

    name: str
    layers: int
    width: int
    ff_dim: int
    dropout: float
    positions: str
    embedding_std: float
    pooling: str
    pooled_norm: str
    classifier_dim: int
    reversible: bool
    ff_chunks: int


@dataclass(frozen=True)
class Train:
    """How a task is trained on: AdamW under a schedule; `pretrain` says what comes before."""

    steps: int
    lr: float
    schedule: str
    warmup_steps: int
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    grad_clip: float
    grad_clip_value: float
    accumulate: int
    stratify: bool
    eval_every: int
    eval_batch_size: int
    patience: int | None
    pretrain: str
    pretrain_steps: int
    pretrain_mask: float


@dataclass(frozen=True)
class Measure:
    """Which passes run, and how."""

    passes: tuple[str, ...]
    min_rounds: int
    max_rounds: int
    budget_s: float
    precision: float
    block_s: float
    qk_norms: tuple[float, ...]
    attention_max_len: int
    memory_way: str


@dataclass(frozen=True)
class Hardware:
    """Where it runs; `threads` is resolved, `processes` those that share the training of one model."""

    device: str
    dtype: str
    threads: int
    compile: bool
    processes: int


@dataclass(frozen=True)
class Cell:
    """The unit of measurement: runs in one place, ends in exactly one status."""

    method: Plugin
    seq_len: int
    batch_size: int
    heads: int
    head_dim: int
    causal: bool
    level: str
    mode: str
    seed: int
    measure: Measure
    hardware: Hardware
    model: Model | None = None
    task: Plugin | None = None
    train: Train | None = None
    #: How the method's budget was chosen (bench/match.py); None where it was given.
    match: str | None = None
    #: Heads of keys and values where several query heads share one (methods/grouped.py); None: each has its own.
    kv_heads: int | None = None
    #: Where a task's files are: no part of what the cell says, so that the same data elsewhere are the same cell.
    data_dir: str | None = field(default=None, compare=False)

    @cached_property
    def config_id(self) -> str:
        """The id of what is compared: the key that joins a cost to an accuracy."""
        compared = ("method", "model", "seq_len", "heads", "kv_heads", "head_dim", "causal")
        content = self.content()
        return digest({key: content[key] for key in compared if key in content})

    @cached_property
    def cell_id(self) -> str:
        """The id of this cell and no other: what resuming goes by."""
        return digest({**self.content(), "record_version": RECORD_VERSION})

    def content(self) -> dict[str, Any]:
        """Everything the cell says, as plain values; `kv_heads` only where it says something."""
        said = {item.name: _plain(getattr(self, item.name)) for item in fields(self) if item.compare}
        if self.kv_heads is None:
            del said["kv_heads"]
        return said

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> Cell:
        """The cell that `content()` described. Raises TypeError or KeyError for anything else."""
        fields = dict(content)
        fields["method"] = Plugin(**content["method"])
        measure = dict(content["measure"])
        for listed in ("passes", "qk_norms"):
            measure[listed] = tuple(measure[listed])
        fields["measure"] = Measure(**measure)
        fields["hardware"] = Hardware(**content["hardware"])
        if content["train"] is not None:
            fields["train"] = Train(**{**content["train"], "betas": tuple(content["train"]["betas"])})
        for name, kind in (("model", Model), ("task", Plugin)):
            fields[name] = kind(**content[name]) if content[name] is not None else None
        return cls(**fields)

    @property
    def query_groups(self) -> int:
        """Groups of query heads, as many as there are heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def qkv_shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        """`[B, H, N, D]` of q, k and v at level `core`."""
        heads = (self.heads, self.query_groups, self.query_groups)
        return tuple((self.batch_size, count, self.seq_len, self.head_dim) for count in heads)

    @property
    def piece_rows(self) -> int:
        """Rows of the batch that one process computes at a time."""
        pieces = self.train.accumulate * self.hardware.processes if self.train else 1
        return -(-self.batch_size // pieces)

    @property
    def table(self) -> Table:
        """The CSV table that a cell's row belongs to."""
        if "train" in self.measure.passes:
            return "accuracy"
        return "errors" if self.measure.passes == ("error",) else "efficiency"

    def describe(self) -> str:
        """A short line for progress and messages."""
        words = [self.method.name, f"N={self.seq_len}"]
        if self.kv_heads is not None:
            words.append(f"{self.kv_heads} kv heads")
        if self.task is not None:
            words.append(self.task.name)
        words.append("train" if self.table == "accuracy" else "error" if self.table == "errors" else self.mode)
        if self.level != "core" and self.table != "accuracy":
            words.append(self.level)
        if self.seed:
            words.append(f"seed {self.seed}")
        return " ".join(words)


def _plain(value: Any) -> Any:
    """A part of a cell as plain values; parts hold no parts. `asdict` takes ten times as long."""
    return vars(value).copy() if is_dataclass(value) else value


def canonical(value: Any) -> str:
    """JSON text that does not depend on the order of keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def derive_seed(seed: int, axis: str) -> int:
    """An independent seed for one use, so that a change on one axis leaves the others' draws alone."""
    return int(hashlib.sha256(f"{seed}/{axis}".encode()).hexdigest()[:15], 16)
