"""Exact softmax attention with the N x N scores in memory: the textbook form (Vaswani et al. 2017, eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.base import Capabilities, Mode, Shape
from methods.ops.cache import CachedAttention
from methods.ops.dense import allowed_keys, both, dense_attention


class Full(CachedAttention):
    """What a direct translation of the equation costs; `sdpa` computes the same in linear memory.

    A NaN or infinity in q spoils its row, in k or v every row of its head.
    """

    capabilities = Capabilities(cross=True, exact=True, position_free=True, decode=True)

    def __init__(self, shape: Shape, *, layer: int = 0, generator: torch.Generator | None = None) -> None:
        super().__init__(shape)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`; causal masks are aligned top left where Nq != Nk."""
        allowed = allowed_keys(key_padding_mask)
        if self.shape.causal:
            future_free = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
            allowed = both(allowed, future_free)
        return dense_attention(q, k, v, allowed)

    def look_back(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `CachedAttention.look_back`."""
        return dense_attention(q, keys, values)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """One row at a time with an explicit exponential sum, so that it shares no code with `forward`."""
        rows = []
        real = None if key_padding_mask is None else (~key_padding_mask).to(q.dtype)[:, None, :]
        for i in range(q.shape[-2]):
            logits = torch.einsum("bhd,bhnd->bhn", q[:, :, i], k) / q.shape[-1] ** 0.5
            weights = torch.exp(logits - logits.detach().amax(dim=-1, keepdim=True))
            if self.shape.causal:
                weights = weights * (torch.arange(k.shape[-2], device=q.device) <= i)
            if real is not None:
                weights = weights * real
            total = weights.sum(dim=-1, keepdim=True)
            weights = weights / torch.where(total == 0, torch.ones_like(total), total)
            rows.append(torch.einsum("bhn,bhnd->bhd", weights, v))
        return torch.stack(rows, dim=2)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 N^2 D a head: the causal form computes the masked half too."""
        return 4 * batch_size * self.shape.heads * seq_len**2 * self.shape.head_dim

    def footprint_bytes(self, batch_size: int, seq_len: int, mode: Mode, itemsize: int) -> int:
        """Scores and weights live together; training keeps the weights and their gradient."""
        scores = batch_size * self.shape.heads * seq_len**2 * itemsize
        return 2 * scores + super().footprint_bytes(batch_size, seq_len, mode, itemsize)
