"""Performer as in lucidrains' performer-pytorch: `FastAttention` with the softmax kernel.

What differs from the paper: orthogonal features come from a QR without the sign fix, whose estimate is biased
(13 % at D = 8); the stabiliser of the keys leaves out -|x|^2 / 2 and takes the maximum over all tokens, which in
the causal form lets the future in through eps; eps is 1e-4; padded keys keep their features (their values
are zeroed, their share of the normaliser is not), so there is no `key_padding_mask` here. Without its CUDA
extension the causal form keeps N / 128 outer products of m x D a head at a time: its chunk_size is a count.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO

import torch
from torch import Tensor

from methods.adapters.optional import require
from methods.adapters.seams import ThirdParty, construction, draw_seed
from methods.base import Capabilities, PerLayer, Shape

EPS = 1e-4
"""What the package adds to features."""

CAUSAL_EPS = 1e-6
"""What its causal form adds to the sums of features."""


class LucidrainsPerformer(ThirdParty):
    """`features` random features, orthogonal, drawn once: redrawing is its model's business, not the layer's."""

    capabilities = Capabilities(padding=False, deterministic=False, normalised=False)
    budget = "features"

    def __init__(
        self,
        shape: Shape,
        *,
        features: PerLayer = 256,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        if features < 1:
            raise ValueError(f"features={features}: expected an integer >= 1")
        performer = require("performer_pytorch", "performer-pytorch")
        super().__init__(shape, "performer-pytorch")
        self.features = features
        with construction(draw_seed(generator, layer)), redirect_stdout(StringIO()):  # it prints what it lacks
            self.attention = performer.FastAttention(shape.head_dim, features, causal=shape.causal)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`. Raises Unsupported for a mask."""
        self.refuse_padding(key_padding_mask, "padded keys would keep their share of the normaliser")
        out: Tensor = self.attention(q, k, v)
        return out

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """phi(Q) phi(K)^T as an N x N matrix with the package's stabilisers and eps, row-normalised, times V."""
        self.refuse_padding(key_padding_mask, "padded keys would keep their share of the normaliser")
        projection = self.attention.projection_matrix.to(q.dtype)
        parts = []
        for x, dims in ((q, (-1,)), (k, (-1, -2))):
            x = x * x.shape[-1] ** -0.25
            projected = x @ projection.T
            peak = projected.detach().amax(dims, keepdim=True)
            parts.append((projected - x.square().sum(-1, keepdim=True) / 2 - peak).exp() + EPS)
        weights = parts[0] @ parts[1].transpose(-1, -2)
        if not self.shape.causal:
            rows: Tensor = weights / weights.sum(-1, keepdim=True)
            return rows @ v
        weights = weights.tril()
        # its features are scaled by m^-1/2, and eps is added to their sums
        mass = weights.sum(-1) + CAUSAL_EPS * self.features**0.5 * parts[0].sum(-1)
        rows = weights / mass[..., None]
        return rows @ v

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 N m D for features, 4 N m D for state and rows, 2 N m for the normaliser."""
        dim, m = self.shape.head_dim, self.features
        state = 2 * m * dim * (1 if self.shape.causal else 2)  # outer products are no matrix products
        return batch_size * self.shape.heads * seq_len * (4 * m * dim + state + 2 * m)

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """Three times the forward, but twice the features, whose projection has no gradient."""
        features = 4 * batch_size * self.shape.heads * seq_len * self.features * self.shape.head_dim
        return 3 * self.flops(batch_size, seq_len) - features

    def footprint_bytes(self, batch_size: int, seq_len: int, mode: str, itemsize: int) -> int:
        """Features of q and k, and for the causal form the outer products of a chunk (of all in training)."""
        rows = batch_size * self.shape.heads * itemsize
        if not self.shape.causal:
            return rows * 2 * seq_len * self.features
        tokens = seq_len if mode == "train" else -(-seq_len // 128)
        return rows * tokens * self.features * self.shape.head_dim

    def degenerate(self, seq_len: int) -> bool:
        """No fewer features than tokens: from `features >= seq_len` on nothing is saved."""
        return self.features >= seq_len
