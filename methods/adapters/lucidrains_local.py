"""Sliding window as in lucidrains' local-attention: `LocalAttention`, blocks of w / 2 that look to both sides.

By default that package attends to the whole neighbouring blocks, so that a token sees w / 2 to w on a side by
where it stands in its block; the adapter sets `exact_windowsize`, which masks that to the w / 2 of the paper.
It pads inputs to whole blocks with zeros that it attends to unless it gets a mask, so it gets one. Rotary
positions are off. The rows of padding are set to 0: there it averages over everything near, beyond the ends too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.adapters.optional import require
from methods.adapters.seams import ThirdParty, construction
from methods.base import Capabilities, PerLayer, Shape
from methods.ops.dense import dense_attention


class LucidrainsLocal(ThirdParty):
    """`window` is the total width, as in longformer; the causal form sees the half of it that is past."""

    capabilities = Capabilities()
    budget = "window"

    def __init__(
        self,
        shape: Shape,
        *,
        window: PerLayer = 256,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        if window < 2 or window % 2:
            raise ValueError(f"window={window}: expected an even number >= 2 (the total width)")
        local = require("local_attention", "local-attention")
        super().__init__(shape, "local-attention")
        self.window = window
        with construction(0):
            self.attention = local.LocalAttention(
                window // 2, causal=shape.causal, exact_windowsize=True, autopad=True, use_rotary_pos_emb=False
            )

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`."""
        batch, _, n, _ = q.shape
        real = None if key_padding_mask is None else ~key_padding_mask
        if real is None and n % (self.window // 2):
            real = torch.ones(batch, n, dtype=torch.bool, device=q.device)
        out: Tensor = self.attention(q, k, v, mask=real)
        return out if key_padding_mask is None else out.masked_fill(key_padding_mask[:, None, :, None], 0.0)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Softmax over the keys within w / 2, past ones only when causal; rows of padding are 0."""
        position = torch.arange(q.shape[-2], device=q.device)
        ahead = position - position[:, None]
        near = (ahead.abs() <= self.window // 2) & (ahead <= (0 if self.shape.causal else self.window))
        if key_padding_mask is None:
            return dense_attention(q, k, v, near)
        out = dense_attention(q, k, v, near & ~key_padding_mask[:, None, None, :])
        return out.masked_fill(key_padding_mask[:, None, :, None], 0.0)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 D a pair of a query with the keys of its own block and of those beside it (before it when causal)."""
        block = self.window // 2
        n = seq_len + -seq_len % block
        keys = block * (2 if self.shape.causal else 3)
        return 4 * batch_size * self.shape.heads * n * keys * self.shape.head_dim

    def degenerate(self, seq_len: int) -> bool:
        """The window covers the sequence: from `window >= seq_len` on nothing is saved."""
        return self.window >= seq_len
