"""Exact attention through torch's scaled_dot_product_attention: FlashAttention and its kin, pinned by name.

FlashAttention (Dao et al. 2022; Dao 2023) tiles the softmax so that the N x N scores never reach memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.base import Attention, Capabilities, Shape
from methods.ops.dense import allowed_keys, both, causal_mask, dense_attention
from methods.ops.fused import Kernel, fused_attention


class SDPA(Attention):
    """The baseline of every speedup. `kernel` pins one; a kernel that refuses the input is `unsupported`."""

    capabilities = Capabilities(cross=True, exact=True)

    def __init__(
        self,
        shape: Shape,
        *,
        kernel: Kernel = "auto",
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        self.kernel: Kernel = kernel

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`. Raises Unsupported where the pinned kernel cannot take the input."""
        mask, causal = allowed_keys(key_padding_mask), self.shape.causal
        if causal and mask is not None:
            # torch takes a mask or is_causal, not both: the one case that needs an N x N mask.
            mask, causal = both(mask, causal_mask(q.shape[-2], q.device)), False
        out, self.backend = fused_attention(q, k, v, mask=mask, causal=causal, kernel=self.kernel)
        return out

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Masked softmax over the N x N scores."""
        mask = allowed_keys(key_padding_mask)
        if self.shape.causal:
            mask = both(mask, causal_mask(q.shape[-2], q.device))
        return dense_attention(q, k, v, mask)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 N^2 D a head, halved when causal, since tiled kernels skip the blocks of the future."""
        full = 4 * batch_size * self.shape.heads * seq_len**2 * self.shape.head_dim
        return full // 2 if self.shape.causal else full

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """3.5 times the forward: the backward recomputes the scores, 5 products against 2."""
        return self.flops(batch_size, seq_len) * 7 // 2
