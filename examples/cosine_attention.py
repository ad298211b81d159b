"""A method of one's own, outside the package: softmax over cosine similarities instead of dot products.

    PYTHONPATH=examples python bench/run.py method=custom \
        method._target_=cosine_attention.CosineAttention +method.temperature=0.1
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base import Attention, Capabilities, Shape
from methods.ops.dense import allowed_keys, both, causal_mask, masked_softmax


class CosineAttention(Attention):
    """softmax(cos(q_i, k_j) / temperature) v_j."""

    capabilities = Capabilities()

    def __init__(
        self,
        shape: Shape,
        *,
        temperature: float = 0.1,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        if temperature <= 0:
            raise ValueError(f"temperature={temperature}: expected a number > 0")
        self.temperature = temperature

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`: unit vectors first, so the fused kernel does the rest."""
        scale = q.shape[-1] ** 0.5 / self.temperature  # undoes the kernel's own 1 / sqrt(D)
        mask = allowed_keys(key_padding_mask)
        if self.shape.causal:
            mask = both(mask, causal_mask(q.shape[-2], q.device))
        unit_q, unit_k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        return F.scaled_dot_product_attention(unit_q * scale, unit_k, v, attn_mask=mask)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """The definition, with the N x N matrix of cosines."""
        norms = q.norm(dim=-1)[..., :, None] * k.norm(dim=-1)[..., None, :]
        mask = allowed_keys(key_padding_mask)
        if self.shape.causal:
            mask = both(mask, causal_mask(q.shape[-2], q.device))
        return masked_softmax(q @ k.transpose(-1, -2) / norms / self.temperature, mask) @ v

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 N^2 D a head."""
        return 4 * batch_size * self.shape.heads * seq_len**2 * self.shape.head_dim
