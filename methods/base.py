"""The contract of a method: what every attention mechanism declares and does.

A method is an `nn.Module` whose constructor takes a `Shape` and keyword-only parameters (its budget among
them). One object serves one layer; `layers` builds all layers of a model at once, so that a method can share
or schedule parameters across depth.

Conventions: q, k, v are `[B, H, N, D]`; the logit scale is 1/sqrt(D), applied once; padding masks are bool
`[B, N]`, True at padding; a row with no key to attend gives 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

Mode = Literal["forward", "train"]


class Unsupported(RuntimeError):
    """A request outside what a method, a backend or a machine can do; the message is the reason."""


@dataclass(frozen=True)
class Shape:
    """What a method is built for: `seq_len` is the longest input, `causal` forbids attending the future."""

    heads: int
    head_dim: int
    seq_len: int
    causal: bool = False


@dataclass(frozen=True)
class Capabilities:
    """What a method can do. A request outside it is status `unsupported`, never silently something else."""

    bidirectional: bool = True
    causal: bool = True
    cross: bool = False
    """Queries and keys may differ in length."""
    padding: bool = True
    exact: bool = False
    """Equals softmax attention over all keys."""
    deterministic: bool = True
    """No random draw enters the definition."""
    fixed_length: bool = False
    """Parameters depend on seq_len; longer inputs are refused."""
    learned: bool = False
    """Holds parameters of its own, without whose training the output approximates nothing."""
    linear_in_v: bool = True
    """The output is A(q, k) v, so V = identity reads the effective attention matrix."""
    dtypes: tuple[str, ...] = ("float64", "float32", "bfloat16", "float16")


class Attention(nn.Module, ABC):
    """Base of all methods.

    Subclasses set `capabilities`, and `budget` to the name of the parameter that trades cost for quality
    (None if there is none). Their constructor's keyword-only arguments, except `layer` and `generator`, are
    the method's parameters; one outside its range raises ValueError that names it and what is allowed.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    budget: ClassVar[str | None] = None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        for name in ("heads", "head_dim", "seq_len"):
            value = getattr(shape, name)
            if value < 1:
                raise ValueError(f"{name}={value}: expected an integer >= 1")
        if shape.causal and not self.capabilities.causal:
            raise Unsupported(f"{type(self).__name__} has no causal form (causal=true)")
        if not shape.causal and not self.capabilities.bidirectional:
            raise Unsupported(f"{type(self).__name__} is causal only (causal=false)")
        self.shape = shape
        #: What computed the last forward: `eager`, `sdpa:flash`, ... Recorded with every result.
        self.backend = "eager"

    @classmethod
    def layers(cls, shape: Shape, count: int, generator: torch.Generator, **params: Any) -> Sequence[Self]:
        """One instance a layer, from the first layer to the last; random draws come from `generator`."""
        return [cls(shape, layer=i, generator=generator, **params) for i in range(count)]  # type: ignore[call-arg]

    @abstractmethod
    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """Attend: q, k, v `[B, H, N, D]`, mask bool `[B, N]` (True = padding) -> `[B, H, N, D]`."""

    @abstractmethod
    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """The same function by N x N matrices from the same parameters: the oracle of the tests.

        Works in the dtype of q (give float64 for an oracle); differentiable.
        """

    @abstractmethod
    def flops(self, batch_size: int, seq_len: int) -> int:
        """Floating-point operations of one forward, a multiply-add counted as 2, matrix products only."""

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """Operations of forward and backward: each product costs two more of its size in the backward."""
        return 3 * self.flops(batch_size, seq_len)

    def footprint_bytes(self, batch_size: int, seq_len: int, mode: Mode, itemsize: int) -> int:
        """A lower bound of the memory beyond q, k, v, to skip cells that cannot fit: at least the output."""
        return batch_size * self.shape.heads * seq_len * self.shape.head_dim * itemsize

    def degenerate(self, seq_len: int) -> bool:
        """Whether the budget reaches the length, so that the method saves nothing over full attention."""
        return False

    def budget_value(self) -> float | None:
        """The value of the budget parameter, or None if the method has none."""
        return None if self.budget is None else float(getattr(self, self.budget))

    def extra_repr(self) -> str:
        """The shape, in the printed form of a model."""
        return ", ".join(f"{k}={v}" for k, v in vars(self.shape).items())
