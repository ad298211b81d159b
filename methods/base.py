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
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from methods.ops.dense import later_keys

Mode = Literal["forward", "train"]


@dataclass(frozen=True)
class Schedule:
    """Marks a constructor parameter that may differ by layer: a list gives one value a layer."""

    per_layer: bool = True


#: An integer parameter that a model may be given as a list, one value a layer: `window: PerLayer = 256`.
PerLayer = Annotated[int, Schedule()]


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
    normalised: bool = True
    """The rows of A sum to one (to at most one where a sink takes a share)."""
    position_free: bool = False
    """In the bidirectional form nothing depends on the order of keys and values, moved together."""
    token_globals: bool = False
    """`forward` also takes `global_mask`, bool `[B, N]`: tokens that see and are seen by all."""
    shared_qk: bool = False
    """Keys are made from the queries: `forward` ignores k, and a mixer projects none."""
    candidates_see_future: bool = False
    """In the causal form which past keys a row sees may depend on the future; their values never do."""
    decode: bool = False
    """Has `start` and `step`: one token at a time, from a state, equal to the causal form."""
    dtypes: tuple[str, ...] = ("float64", "float32", "bfloat16", "float16")
    devices: tuple[str, ...] = ()
    """The device types that it runs on; none named: all."""
    forward_only: tuple[str, ...] = ()
    """The device types on which it has no backward."""


class Attention(nn.Module, ABC):
    """Base of all methods.

    Subclasses set `capabilities`, and `budget` to the name of the parameter that trades cost for quality
    (None if there is none). Their constructor's keyword-only arguments, except `layer` and `generator`, are
    the method's parameters; one outside its range raises ValueError that names it and what is allowed.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    budget: ClassVar[str | None] = None
    #: The backward computes the scores again rather than keep them.
    recomputes_scores: ClassVar[bool] = False

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
        #: Number of the random draw that the next training forward makes. Methods that draw anew while they
        #: train derive the draw from it and count it up, so that setting it back replays a forward exactly.
        self.draw_index = 0

    @classmethod
    def layers(cls, shape: Shape, count: int, generator: torch.Generator, **params: Any) -> Sequence[Self]:
        """One instance a layer, from the first layer to the last; random draws come from `generator`.

        A list for a `PerLayer` parameter gives each layer its own value; ValueError unless it has `count`.
        """
        own = [by_layer(params, i, count) for i in range(count)]
        return [cls(shape, layer=i, generator=generator, **own[i]) for i in range(count)]  # type: ignore[call-arg]

    @classmethod
    def prepended(cls, **params: Any) -> int:
        """How many learned tokens a model puts before its input for layers with these parameters.

        They are the first rows that the layers see, and count in the `seq_len` that these are built for.
        """
        return 0

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

    def target_logits(self, q: Tensor, k: Tensor, first: int = 0) -> Tensor:
        """Logits of the exact attention that this method stands in for, `[..., M, N]`; -inf where it attends not.

        q are the M queries from position `first` on, k all N keys (with `shared_qk`: all N queries).
        """
        logits: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return logits.masked_fill(later_keys(q, k, first), float("-inf")) if self.shape.causal else logits

    @abstractmethod
    def flops(self, batch_size: int, seq_len: int) -> int:
        """Floating-point operations of one forward, a multiply-add counted as 2, matrix products only."""

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """Operations of forward and backward: each product costs two more of its size in the backward.

        Where the backward recomputes the scores, one of two products, that is 5 products against 2.
        """
        forward = self.flops(batch_size, seq_len)
        return forward * 7 // 2 if self.recomputes_scores else 3 * forward

    def footprint_bytes(self, batch_size: int, seq_len: int, mode: Mode, itemsize: int) -> int:
        """A lower bound of the memory beyond q, k, v, to skip cells that cannot fit: at least the output."""
        return batch_size * self.shape.heads * seq_len * self.shape.head_dim * itemsize

    def degenerate(self, seq_len: int) -> bool:
        """Whether the budget reaches the length, so that the method saves nothing over full attention."""
        return False

    def budget_value(self) -> float | None:
        """The value of the budget parameter, or None if the method has none."""
        return None if self.budget is None else float(getattr(self, self.budget))

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> Any:
        """The state before the first token, for `step`; Unsupported unless the method decodes."""
        raise Unsupported(f"{type(self).__name__} has no token-by-token form")

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One more token: q, k, v `[B, H, 1, D]` -> its output `[B, H, 1, D]` and the next state.

        q may hold R queries of the token, `[B, H, R, D]`, as `methods/grouped.py` gives them; so does the output.
        """
        raise Unsupported(f"{type(self).__name__} has no token-by-token form")

    def prefill(self, k: Tensor, v: Tensor, state: Any) -> Any:
        """The state after tokens k, v `[B, H, n, D]`, whose outputs nobody asks for; the given one is used up."""
        for i in range(k.shape[2]):
            token = slice(i, i + 1)
            _, state = self.step(k[:, :, token], k[:, :, token], v[:, :, token], state)
        return state

    def state_size(self, seq_len: int) -> int:
        """Numbers that the state holds for one sequence after `seq_len` tokens, all heads together."""
        raise Unsupported(f"{type(self).__name__} has no token-by-token form")

    def extra_repr(self) -> str:
        """The shape, in the printed form of a model."""
        return ", ".join(f"{k}={v}" for k, v in vars(self.shape).items())


def by_layer(params: dict[str, Any], layer: int, count: int) -> dict[str, Any]:
    """`params` with every list or tuple of numbers replaced by its entry for `layer`.

    ValueError for a list without exactly `count` entries. Only parameters annotated `PerLayer` can be lists.
    """
    own = {}
    for name, value in params.items():
        if isinstance(value, list | tuple):
            if len(value) != count:
                raise ValueError(f"{name}={list(value)}: expected one value, or one for each of {count} layers")
            value = value[layer]
        own[name] = value
    return own
