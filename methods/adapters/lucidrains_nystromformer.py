"""Nystromformer as in lucidrains' nystrom-attention: `NystromAttention` without its convolution.

It pads at the front, with zeros that it attends to unless it gets a mask, so it gets one whenever it pads;
landmarks are then means over real tokens only. What differs from the paper: the initial value of the
pseudo-inverse is scaled by two maxima over the whole batch (rows of a batch depend on each other; from an
isolated head as well), and half precision fails on a float32 identity.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.adapters.hf_nystromformer import ITERATIONS, iterated_inverse
from methods.adapters.optional import require
from methods.adapters.seams import Given, ThirdParty, construction, draw_seed
from methods.base import Capabilities, PerLayer, Shape
from methods.ops.dense import masked_softmax

EPS = 1e-8
"""What it adds to the count of the tokens behind a landmark."""


class Chunked:
    """What its joint projection returns: only ever asked for its three chunks."""

    def __init__(self, parts: tuple[Tensor, ...]) -> None:
        self.parts = parts

    def chunk(self, count: int, dim: int) -> tuple[Tensor, ...]:
        """q, k, v."""
        return self.parts


class LucidrainsNystromformer(ThirdParty):
    """Heads go in as rows of the batch, which their maths does not tell apart and which spares a copy."""

    capabilities = Capabilities(causal=False, normalised=False, dtypes=("float64", "float32"))
    budget = "landmarks"

    def __init__(
        self,
        shape: Shape,
        *,
        landmarks: PerLayer = 64,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        if landmarks < 1:
            raise ValueError(f"landmarks={landmarks}: expected an integer >= 1")
        nystrom = require("nystrom_attention", "nystrom-attention")
        super().__init__(shape, "nystrom-attention")
        self.landmarks = landmarks
        with construction(draw_seed(generator, layer)):
            self.attention = nystrom.NystromAttention(
                shape.head_dim, shape.head_dim, heads=1, num_landmarks=landmarks, residual=False, eps=EPS
            )
        self.attention.to_qkv = Given()
        self.attention.to_out = nn.Identity()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`."""
        batch, heads, n, dim = q.shape
        front = -n % self.landmarks
        real = self._real(q, key_padding_mask)
        parts = tuple(x.flatten(0, 1) for x in (q, k, v))
        if front:
            parts = tuple(F.pad(x, (0, 0, front, 0)) for x in parts)
        self.attention.to_qkv.give(Chunked(parts))
        out: Tensor = self.attention(q.new_zeros(()).expand(batch * heads, n, dim), mask=real)
        return out.view(batch, heads, n, dim)

    def _real(self, q: Tensor, padding: Tensor | None) -> Tensor | None:
        """bool `[B * H, N]`, True at tokens; None where all are and nothing is padded."""
        if padding is not None:
            return (~padding).repeat_interleave(q.shape[1], dim=0)
        if q.shape[-2] % self.landmarks:
            return torch.ones(q.shape[0] * q.shape[1], q.shape[-2], dtype=torch.bool, device=q.device)
        return None

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """softmax(Q K~^T) Z softmax(Q~ K^T) as an N x N matrix, means and softmaxes over real tokens."""
        n, m = q.shape[-2], self.landmarks
        front, segments = -n % m, -(-n // m)
        q = q / math.sqrt(q.shape[-1])
        real = torch.ones(q.shape[0], n, dtype=torch.bool, device=q.device)
        if key_padding_mask is not None:
            real = ~key_padding_mask
        masked = key_padding_mask is not None or front > 0
        q, k = (x * real[:, None, :, None] for x in (q, k))
        counts = F.pad(real, (front, 0)).view(-1, m, segments).sum(-1)  # [B, m]
        share = (counts + EPS if masked else counts)[:, None, :, None]
        mean_q, mean_k = (
            F.pad(x, (0, 0, front, 0)).view(*x.shape[:2], m, segments, -1).sum(-2) / share for x in (q, k)
        )
        rows, columns = real[:, None, :, None], real[:, None, None, :]
        slots = counts[:, None, :] > 0
        first = self._softmax(q @ mean_k.transpose(-1, -2), rows & slots[:, :, None], m)
        middle = self._softmax(mean_q @ mean_k.transpose(-1, -2), slots[..., None] & slots[:, :, None], m)
        last = self._softmax(mean_q @ k.transpose(-1, -2), slots[..., None] & columns, n + front)
        scale = middle.sum(-1).max() * middle.sum(-2).max()
        return (first @ iterated_inverse(middle, scale) @ last) @ (v * real[:, None, :, None])

    @staticmethod
    def _softmax(logits: Tensor, allowed: Tensor, width: int) -> Tensor:
        """Softmax where `allowed`; a row without anything is uniform over the `width` slots it has."""
        empty = ~allowed.any(-1, keepdim=True)
        return masked_softmax(logits, allowed).masked_fill(empty, 1 / width)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """8 N m D for the kernels and values, 2 N m^2 and 2 m^2 D, four products of m^3 an iteration."""
        dim, m = self.shape.head_dim, self.landmarks
        n = seq_len + -seq_len % m
        products = 8 * n * m * dim + 2 * n * m * m + 2 * m * m * dim + ITERATIONS * 8 * m**3
        return batch_size * self.shape.heads * products

    def degenerate(self, seq_len: int) -> bool:
        """A landmark a token: from `landmarks >= seq_len` on nothing is saved."""
        return self.landmarks >= seq_len
