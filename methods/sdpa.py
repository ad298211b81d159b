"""Exact attention through torch's scaled_dot_product_attention: FlashAttention and its kin, pinned by name.

FlashAttention (Dao et al. 2022; Dao 2023) tiles the softmax so that the N x N scores never reach memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor

from methods.base import Capabilities, Shape
from methods.ops.cache import CachedAttention
from methods.ops.dense import allowed_keys, allowed_pairs, dense_attention
from methods.ops.fused import Kernel, fused_attention

MASKED_ROWS = 256
"""Queries that share a mask where causality and padding meet: more save calls, fewer save masked work."""


class SDPA(CachedAttention):
    """The baseline of every speedup. `kernel` pins one; a kernel that refuses the input is `unsupported`.

    A NaN or infinity in q spoils its row, in k or v rows of its head that attend it or share a tile with it.
    """

    capabilities = Capabilities(cross=True, exact=True, position_free=True, decode=True)
    recomputes_scores = True

    def __init__(
        self,
        shape: Shape,
        *,
        kernel: Kernel = "auto",
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        if kernel not in get_args(Kernel):
            raise ValueError(f"kernel={kernel}: expected one of {', '.join(get_args(Kernel))}")
        self.kernel: Kernel = kernel

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`. Raises Unsupported where the pinned kernel cannot take the input."""
        mask = allowed_keys(key_padding_mask)
        if not self.shape.causal:
            return self._attend(q, k, v, mask)
        if mask is None:
            return self._attend(q, k, v, causal=True)
        # torch takes a mask or is_causal, not both: blocks of rows, each with the keys up to its last one
        rows = [
            self._attend(_part(q, first, last), _part(k, 0, last), _part(v, 0, last), mask[..., :last] & seen)
            for first, last, seen in _causal_blocks(q.shape[-2], k.shape[-2], q.device)
        ]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=2)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        out, self.backend = fused_attention(q, k, v, mask=mask, causal=causal, kernel=self.kernel)
        return out

    def look_back(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `CachedAttention.look_back`."""
        return self._attend(q, keys, values)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Masked softmax over the N x N scores."""
        mask = allowed_pairs(q.shape[-2], self.shape.causal, key_padding_mask, q.device)
        return dense_attention(q, k, v, mask)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 N^2 D a head, halved when causal, since tiled kernels skip the blocks of the future."""
        full = 4 * batch_size * self.shape.heads * seq_len**2 * self.shape.head_dim
        return full // 2 if self.shape.causal else full


def _causal_blocks(queries: int, keys: int, device: torch.device) -> Iterator[tuple[int, int, Tensor]]:
    """(first, last, bool `[last - first, min(last, keys)]`): blocks of rows and the keys that each may see."""
    for first in range(0, queries, MASKED_ROWS):
        last = min(first + MASKED_ROWS, queries)
        rows = torch.arange(first, last, device=device)
        yield first, last, torch.arange(min(last, keys), device=device) <= rows[:, None]


def _part(x: Tensor, first: int, last: int) -> Tensor:
    """Rows of `[B, H, N, D]`; x itself for all of them, since the gradient of a slice is a copy."""
    return x if first == 0 and last >= x.shape[2] else x[:, :, first:last]
