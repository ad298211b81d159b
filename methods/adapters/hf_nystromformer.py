"""Nystromformer as in Hugging Face transformers: `NystromformerSelfAttention`.

It takes inputs of exactly `segment_means_seq_len` tokens and splits by that number, so the adapter sets it to
the length that it is given, padded with zeros to a multiple of the landmarks. What differs from the paper's
definition: the initial value of the pseudo-inverse is scaled by a maximum over the whole batch (so that rows
of a batch depend on each other), landmarks are means over padding too (so that there is no `key_padding_mask`
here), and half precision fails on a float32 identity.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.adapters.optional import require
from methods.adapters.seams import Given, ThirdParty, construction, draw_seed, placeholder, split_heads
from methods.base import Capabilities, PerLayer, Shape

ITERATIONS = 6


class HFNystromformer(ThirdParty):
    """`conv_kernel` is the depthwise convolution of the values that is added to the output; 0 for none."""

    capabilities = Capabilities(causal=False, padding=False, normalised=False, dtypes=("float64", "float32"))
    budget = "landmarks"

    def __init__(
        self,
        shape: Shape,
        *,
        landmarks: PerLayer = 64,
        conv_kernel: int = 0,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        if landmarks < 1:
            raise ValueError(f"landmarks={landmarks}: expected an integer >= 1")
        if conv_kernel < 0 or (conv_kernel and conv_kernel % 2 == 0):
            raise ValueError(f"conv_kernel={conv_kernel}: expected an odd number, or 0 for none")
        nystromformer = require("transformers.models.nystromformer.modeling_nystromformer", "transformers")
        super().__init__(shape, "transformers")
        self.landmarks = landmarks
        config = nystromformer.NystromformerConfig(
            hidden_size=shape.heads * shape.head_dim,
            num_attention_heads=shape.heads,
            num_landmarks=landmarks,
            conv_kernel_size=conv_kernel or 1,
            attention_probs_dropout_prob=0.0,
        )
        with construction(draw_seed(generator, layer)):
            self.attention = nystromformer.NystromformerSelfAttention(config)
        if not conv_kernel:  # its forward knows a None that its configuration no longer takes
            self.attention.conv_kernel_size = None
            del self.attention.conv
        for name in ("query", "key", "value"):
            setattr(self.attention, name, Given())

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`. Raises Unsupported for a mask."""
        self.refuse_padding(key_padding_mask, "its landmarks are means over padding too")
        n, inner = q.shape[-2], self.attention
        tail = -n % self.landmarks
        q, k, v = (F.pad(x, (0, 0, 0, tail)) if tail else x for x in (q, k, v))
        inner.seq_len = n + tail
        for projection, x in ((inner.query, q), (inner.key, k), (inner.value, v)):
            projection.give(x.transpose(1, 2))
        out = inner(placeholder(q, n + tail), attention_mask=self._tail_mask(q, n) if tail else None)[0]
        return split_heads(out, q.shape[1], n)

    def _tail_mask(self, q: Tensor, n: int) -> Tensor:
        """`[1, 1, 1, M]`: the additive mask that hides the keys beyond n."""
        mask = q.new_zeros(1, 1, 1, q.shape[-2])
        mask[..., n:] = torch.finfo(q.dtype).min
        return mask

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """softmax(Q K~^T) Z softmax(Q~ K^T) as an N x N matrix, Z by 6 iterations from the coupled start."""
        self.refuse_padding(key_padding_mask, "its landmarks are means over padding too")
        n, m = q.shape[-2], self.landmarks
        segments = -(-n // m)
        q, k = (x / math.sqrt(math.sqrt(q.shape[-1])) for x in (q, k))
        padded_q, padded_k = (F.pad(x, (0, 0, 0, segments * m - n)) for x in (q, k))
        if segments == 1:
            attended: Tensor = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        else:
            mean_q, mean_k = (x.reshape(*x.shape[:2], m, segments, -1).mean(-2) for x in (padded_q, padded_k))
            first = (q @ mean_k.transpose(-1, -2)).softmax(-1)
            last = (mean_q @ k.transpose(-1, -2)).softmax(-1)
            middle = (mean_q @ mean_k.transpose(-1, -2)).softmax(-1)
            attended = (first @ iterated_inverse(middle, middle.sum(-2).max()) @ last) @ v
        kernel = self.attention.conv_kernel_size
        if kernel is None:
            return attended
        weight = self.attention.conv.weight.to(v.dtype)[None, :, 0, :, :]  # [1, H, kernel, 1]
        stretch = F.pad(v, (0, 0, kernel // 2, kernel // 2)).unfold(2, kernel, 1)  # [B, H, N, D, kernel]
        convolved: Tensor = (stretch * weight.transpose(-1, -2)[:, :, None]).sum(-1)
        return attended + convolved

    def flops(self, batch_size: int, seq_len: int) -> int:
        """8 N m D for the kernels and values, 2 N m^2 and 2 m^2 D, four products of m^3 an iteration, the conv."""
        heads, dim, m = self.shape.heads, self.shape.head_dim, self.landmarks
        n = seq_len + -seq_len % m
        conv = 2 * n * dim * (self.attention.conv_kernel_size or 0)
        if n == m:
            return batch_size * heads * (4 * n * n * dim + conv)
        products = 8 * n * m * dim + 2 * n * m * m + 2 * m * m * dim + ITERATIONS * 8 * m**3
        return batch_size * heads * (products + conv)

    def degenerate(self, seq_len: int) -> bool:
        """A landmark a token: from `landmarks >= seq_len` on this is full attention."""
        return self.landmarks >= seq_len


def iterated_inverse(matrix: Tensor, scale: Tensor) -> Tensor:
    """The pseudo-inverse after 6 iterations Z <- Z (13 I - AZ (15 I - AZ (7 I - AZ))) / 4, Z_0 = A^T / scale."""
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    z = matrix.transpose(-1, -2) / scale
    for _ in range(ITERATIONS):
        az = matrix @ z
        z = z @ (13 * identity - az @ (15 * identity - az @ (7 * identity - az))) / 4
    return z
