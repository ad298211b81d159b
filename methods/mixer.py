"""The sequence-mixing layer around a core: projections to q, k, v, the attention, and the projection back."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from methods.base import Attention
from methods.ops.rotary import Rotary, rotate


@runtime_checkable
class GlobalProjections(Protocol):
    """A core whose global tokens may have projections of their own (Longformer, section 3.1)."""

    global_projections: bool
    global_tokens: int

    def global_places(self, n: int, global_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None] | None:
        """Positions of the global tokens, int64 `[B or 1, G]`, and which count; None: there are none."""


class Mixer(nn.Module):
    """Hidden states `[B, N, E]` to `[B, N, E]`, E = `width`, or heads x head_dim; the same for every method.

    A core that makes its keys from the queries gets no projection to keys. One that asks for global projections
    gets a second set, begun as copies of the first; its queries are made at global tokens only. With `rotary`
    all queries and keys, also those of global projections, are turned by their places before the core sees them.
    """

    def __init__(self, attention: Attention, *, width: int | None = None, rotary: Rotary | None = None) -> None:
        super().__init__()
        self.attention = attention
        self.rotary = rotary
        self.heads = attention.shape.heads
        self.inner = attention.shape.heads * attention.shape.head_dim
        width = self.inner if width is None else width
        self.shared_qk = attention.capabilities.shared_qk
        self.qkv = nn.Linear(width, (2 if self.shared_qk else 3) * self.inner, bias=False)
        self.out = nn.Linear(self.inner, width, bias=False)
        self.global_qkv: nn.Linear | None = None
        if isinstance(attention, GlobalProjections) and attention.global_projections:
            self.global_qkv = deepcopy(self.qkv)  # no draw: the other parameters are those of a model without

    def forward(self, hidden: Tensor, padding: Tensor | None = None, global_mask: Tensor | None = None) -> Tensor:
        """Mix `[B, N, E]` along N; masks bool `[B, N]`: True at pads, True at global tokens."""
        parts = [self._split(part) for part in self.qkv(hidden).split(self.inner, dim=-1)]
        if self.rotary is not None:
            table = self.rotary.table(torch.arange(hidden.shape[1], device=hidden.device)[None], parts[0].dtype)
            parts[:-1] = [rotate(part, table) for part in parts[:-1]]
        q, k, v = parts if len(parts) == 3 else (parts[0], *parts)
        options: dict[str, Any] = {} if global_mask is None else {"global_mask": global_mask}
        if self.global_qkv is not None:
            options["global_qkv"] = self._project_globals(self.global_qkv, hidden, global_mask)
        mixed = self.attention(q, k, v, key_padding_mask=padding, **options)
        projected: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return projected

    def _split(self, x: Tensor) -> Tensor:
        """`[B, N, E]` -> `[B, H, N, D]`, a view."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def _project_globals(
        self, projection: nn.Linear, hidden: Tensor, global_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Queries `[B, H, G, D]` of the global tokens, keys and values `[B, H, N, D]`; None without globals."""
        assert isinstance(self.attention, GlobalProjections)
        places = self.attention.global_places(hidden.shape[1], global_mask)
        if places is None:
            return None
        index = places[0].to(hidden.device)
        tokens = hidden.take_along_dim(index[..., None], dim=1)
        q = self._split(linear(tokens, projection.weight[: self.inner]))
        k, v = (self._split(part) for part in linear(hidden, projection.weight[self.inner :]).chunk(2, dim=-1))
        if self.rotary is not None:
            every = torch.arange(hidden.shape[1], device=hidden.device)[None]
            q, k = (rotate(x, self.rotary.table(rows, x.dtype)) for x, rows in ((q, index), (k, every)))
        return q, k, v

    def flops(self, batch_size: int, seq_len: int) -> int:
        """The projections, and the attention between them; globals as many as the method itself makes."""
        projected = (3 if self.shared_qk else 4) * seq_len
        if self.global_qkv is not None and isinstance(self.attention, GlobalProjections):
            own = min(self.attention.global_tokens, seq_len)
            projected += 2 * seq_len + own if own else 0
        weights = self.inner * self.qkv.in_features
        return 2 * batch_size * projected * weights + self.attention.flops(batch_size, seq_len)

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """Three times the projections, and the attention's own count."""
        projections = self.flops(batch_size, seq_len) - self.attention.flops(batch_size, seq_len)
        return 3 * projections + self.attention.train_flops(batch_size, seq_len)
