"""Linformer (Wang et al. 2020, arXiv 2006.04768): keys and values projected along the sequence to `rank` slots.

head = softmax(Q (E K)^T / sqrt(D)) (F V) with learned E, F of shape [rank, seq_len] (eq. 7). E mixes all
positions, so there is no causal form: masking the [N, rank] matrix would still leak the future.

Shorter inputs use the first columns of E and F; padded positions are zeroed before the projection, which
is the same thing. Entries start as N(0, 1/rank), the scale of the paper's Johnson-Lindenstrauss argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from methods.base import Attention, Capabilities, PerLayer, Shape
from methods.ops.fused import fused_attention

Sharing = Literal["none", "headwise", "key_value", "layerwise"]


class Linformer(Attention):
    """`sharing` follows section 4: `none` (a matrix a head, E and F apart), `headwise` (E and F for all heads
    of a layer), `key_value` (E = F), `layerwise` (one E = F for all layers).
    """

    capabilities = Capabilities(causal=False, fixed_length=True, learned=True, normalised=False)
    budget = "rank"

    def __init__(
        self,
        shape: Shape,
        *,
        rank: PerLayer = 256,
        sharing: Sharing = "layerwise",
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        if rank < 1:
            raise ValueError(f"rank={rank}: expected an integer >= 1")
        self.rank = rank
        self.sharing: Sharing = sharing
        heads = shape.heads if sharing == "none" else 1

        def draw() -> nn.Parameter:
            return nn.Parameter(
                torch.empty(heads, rank, shape.seq_len).normal_(0, rank**-0.5, generator=generator)
            )

        self.E = draw()
        self.F = self.E if sharing in ("key_value", "layerwise") else draw()

    @classmethod
    def layers(cls, shape: Shape, count: int, generator: torch.Generator, **params: Any) -> Sequence[Self]:
        """One a layer; under `layerwise` sharing they hold the very same parameter."""
        built = super().layers(shape, count, generator, **params)
        if built and built[0].sharing == "layerwise":
            for other in built[1:]:
                other.E = other.F = built[0].E
        return built

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`. Raises ValueError for inputs longer than `seq_len`."""
        n = k.shape[-2]
        if n > self.shape.seq_len:
            raise ValueError(f"seq_len={n}: linformer was built for at most {self.shape.seq_len} tokens")
        if key_padding_mask is not None:
            pads = key_padding_mask[:, None, :, None]
            k, v = k.masked_fill(pads, 0.0), v.masked_fill(pads, 0.0)
        E, F = self.E[..., :n].to(k.dtype), self.F[..., :n].to(v.dtype)
        out, self.backend = fused_attention(q, E @ k, F @ v)
        return out

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Equation 7 as written, as an N x N matrix: softmax(Q (E K)^T / sqrt(D)) F, then times V."""
        n = k.shape[-2]
        E, F = self.E[..., :n].to(q.dtype), self.F[..., :n].to(q.dtype)
        if key_padding_mask is not None:
            real = (~key_padding_mask).to(q.dtype)[:, None, None, :]
            E, F = E * real, F * real
        slots = (q @ (E @ k).transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
        attended: Tensor = (slots @ F) @ v
        return attended

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 N rank D to project keys and values, and as much to attend the slots, a head."""
        return 8 * batch_size * self.shape.heads * seq_len * self.rank * self.shape.head_dim

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """3 times the projections and 3.5 times the fused attention."""
        return self.flops(batch_size, seq_len) * 13 // 4

    def degenerate(self, seq_len: int) -> bool:
        """No fewer slots than tokens: from `rank >= seq_len` on nothing is saved."""
        return self.rank >= seq_len
