"""What the adapters to exact attention on CUDA share: padding by packing, and the equation that they compute."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from methods.base import Attention, Unsupported
from methods.ops.dense import allowed_pairs, dense_attention
from methods.ops.packed import pack, unpack


class PackedExact(Attention):
    """Exact attention by a package that takes no padding mask, but sequences packed end to end.

    Rows at padding are therefore 0. What a NaN or infinity does is the package's affair.
    """

    recomputes_scores = True

    @abstractmethod
    def whole(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v `[B, N, H, D]`, the layout of these packages -> `[B, N, H, D]`."""

    @abstractmethod
    def packed(self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
        """q, k, v `[T, H, D]` and where sequences end, `[B + 1]` -> `[T, H, D]`."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`. Unsupported for a device or dtype that the package does not take."""
        self._check(q)
        if key_padding_mask is None:
            return self.whole(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
        (queries, ends), (keys, _), (values, _) = (pack(x, key_padding_mask) for x in (q, k, v))
        queries, keys, values = (x[0].transpose(0, 1) for x in (queries, keys, values))
        out = self.packed(queries, keys, values, ends)
        return unpack(out.transpose(0, 1)[None], key_padding_mask)

    def _check(self, q: Tensor) -> None:
        able, name = self.capabilities, type(self).__name__
        dtype = str(q.dtype).removeprefix("torch.")
        if q.device.type not in able.devices:
            raise Unsupported(f"{name} runs on {', '.join(able.devices)}, not on {q.device.type}")
        if dtype not in able.dtypes:
            raise Unsupported(f"{name} takes {', '.join(able.dtypes)}, not {dtype}")

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Masked softmax over the N x N scores, 0 in rows of padding."""
        mask = allowed_pairs(q.shape[-2], self.shape.causal, key_padding_mask, q.device)
        out = dense_attention(q, k, v, mask)
        return out if key_padding_mask is None else out.masked_fill(key_padding_mask[:, None, :, None], 0.0)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 N^2 D a head, halved when causal, since tiled kernels skip the blocks of the future."""
        full = 4 * batch_size * self.shape.heads * seq_len**2 * self.shape.head_dim
        return full // 2 if self.shape.causal else full


def lengths(cu_seqlens: Tensor) -> Tensor:
    """`[B + 1]` ends -> `[B]` lengths."""
    return torch.diff(cu_seqlens)
