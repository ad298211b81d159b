"""xformers' memory-efficient attention (facebookresearch/xformers; Rabe and Staats 2021, arXiv 2112.05682)."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.adapters.exact import PackedExact, lengths
from methods.adapters.optional import require
from methods.base import Capabilities, Shape


class XFormers(PackedExact):
    """`memory_efficient_attention`, with a block-diagonal bias for padding, so that rows of padding are 0."""

    capabilities = Capabilities(exact=True, dtypes=("float32", "bfloat16", "float16"), devices=("cuda",))

    def __init__(self, shape: Shape, *, layer: int = 0, generator: torch.Generator | None = None) -> None:
        super().__init__(shape)
        self.ops = require("xformers.ops")
        self.biases = require("xformers.ops.fmha.attn_bias", "xformers")

    def whole(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `PackedExact.whole`."""
        return self._attend(q, k, v, self.biases.LowerTriangularMask() if self.shape.causal else None)

    def packed(self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
        """See `PackedExact.packed`."""
        sizes = [size for size in lengths(cu_seqlens).tolist() if size]  # a row of padding only has none
        if not sizes:
            return torch.zeros_like(q)
        bias = self.biases.BlockDiagonalMask.from_seqlens(sizes)
        return self._attend(q[None], k[None], v[None], bias.make_causal() if self.shape.causal else bias)[0]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: object) -> Tensor:
        out: Tensor = self.ops.memory_efficient_attention(q, k, v, attn_bias=bias)
        self.backend = "xformers"
        return out
