"""Linformer as in lucidrains' linformer: `LinformerSelfAttention`, one E and one F for all heads of a layer.

That is the paper's headwise sharing. Entries start uniform in +-1/sqrt(rank). A mask among the arguments is
swallowed without a word, so there is no `key_padding_mask` here; shorter inputs use the first rows of E and F.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.adapters.optional import require
from methods.adapters.seams import (
    Given,
    ThirdParty,
    construction,
    draw_seed,
    merge_heads,
    placeholder,
    split_heads,
)
from methods.base import Capabilities, PerLayer, Shape


class LucidrainsLinformer(ThirdParty):
    """E and F are `attention.proj_k` and `attention.proj_v`, transposed: `[seq_len, rank]`."""

    capabilities = Capabilities(causal=False, padding=False, fixed_length=True, learned=True, normalised=False)
    budget = "rank"

    def __init__(
        self,
        shape: Shape,
        *,
        rank: PerLayer = 256,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        if rank < 1:
            raise ValueError(f"rank={rank}: expected an integer >= 1")
        linformer = require("linformer", "linformer")
        super().__init__(shape, "linformer")
        self.rank = rank
        with construction(draw_seed(generator, layer)):
            self.attention = linformer.LinformerSelfAttention(
                shape.heads * shape.head_dim, shape.seq_len, k=rank, heads=shape.heads
            )
        for name in ("to_q", "to_k", "to_v"):
            setattr(self.attention, name, Given())
        self.attention.to_out = nn.Identity()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`. ValueError for inputs longer than `seq_len`, Unsupported for a mask."""
        self.refuse_padding(key_padding_mask, "the package ignores one")
        n, inner = q.shape[-2], self.attention
        if n > self.shape.seq_len:
            raise ValueError(f"seq_len={n}: built for at most {self.shape.seq_len} tokens")
        inner.to_q.give(q.transpose(1, 2))
        inner.to_k.give(merge_heads(k))
        inner.to_v.give(merge_heads(v))
        return split_heads(inner(placeholder(q, n)), q.shape[1], n)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Equation 7 as an N x N matrix: softmax(Q (E K)^T / sqrt(D)) F, then times V."""
        self.refuse_padding(key_padding_mask, "the package ignores one")
        n = k.shape[-2]
        E, F = (x[:n].to(q.dtype).T for x in (self.attention.proj_k, self.attention.proj_v))
        slots = (q @ (E @ k).transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
        attended: Tensor = (slots @ F) @ v
        return attended

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 N rank D to project keys and values, and as much to attend the slots, a head."""
        return 8 * batch_size * self.shape.heads * seq_len * self.rank * self.shape.head_dim

    def degenerate(self, seq_len: int) -> bool:
        """No fewer slots than tokens: from `rank >= seq_len` on nothing is saved."""
        return self.rank >= seq_len
