"""FlashAttention as published, in plain PyTorch: Dao et al. 2022 (arXiv 2205.14135), Dao 2023 (arXiv 2307.08691).

The algorithm to read and to check against; `sdpa` runs the same algorithm in one fused kernel. The softmax is
computed online over tiles of keys, and the backward recomputes each tile from the logsumexp, so that memory is
linear in N. methods/ops/online.py holds the algorithm itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.base import Capabilities, Shape
from methods.ops.cache import CachedAttention
from methods.ops.dense import allowed_pairs, dense_attention
from methods.ops.online import Tiling, tiled_attention
from methods.ops.scoring import Scoring, spans


class Flash(CachedAttention):
    """Exact attention in tiles of `block_q` x `block_k`. A NaN or infinity spoils the rows that attend it, and
    may spoil others of its head that share a tile with it."""

    capabilities = Capabilities(cross=True, exact=True, position_free=True, decode=True)
    recomputes_scores = True

    def __init__(
        self,
        shape: Shape,
        *,
        block_q: int = 256,
        block_k: int = 256,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        for name, value in (("block_q", block_q), ("block_k", block_k)):
            if value < 1:
                raise ValueError(f"{name}={value}: expected an integer >= 1")
        self.block_q = block_q
        self.block_k = block_k

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`; causal masks are aligned top left where Nq != Nk."""
        return self._attend(q, k, v, Scoring(causal=self.shape.causal, padding=key_padding_mask))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
        return tiled_attention(q, k, v, scoring, tiling=Tiling(self.block_q, self.block_k))[0]

    def look_back(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `CachedAttention.look_back`."""
        return self._attend(q, keys, values, Scoring())

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Masked softmax over the N x N scores."""
        mask = allowed_pairs(q.shape[-2], self.shape.causal, key_padding_mask, q.device)
        return dense_attention(q, k, v, mask)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 D a pair of the tiles that are computed; causal tiles on the diagonal are computed whole."""
        scoring = Scoring(causal=self.shape.causal)
        queries, keys = spans(seq_len, self.block_q), spans(seq_len, self.block_k)
        pairs = sum(i.size * j.size for i in queries for j in keys if scoring.visible(i, j))
        return 4 * batch_size * self.shape.heads * pairs * self.shape.head_dim
