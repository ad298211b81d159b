"""Nystromformer (Xiong et al. 2021, arXiv 2102.03902): softmax attention through a few landmarks.

A = softmax(Q K~^T) pinv(softmax(Q~ K~^T)) softmax(Q~ K^T), every logit over sqrt(D) (equation 13). Landmarks Q~
and K~ are means of segments of queries and keys (section "Landmarks"). Multiplied from the right, A v costs
O(N landmarks D): no N x N and, tile by tile, no N x landmarks matrix reaches memory.

Choices: the pseudoinverse is started for every matrix by itself, where the authors' default takes one maximum
over the batch. Segments run over the real tokens of a row, so that pads do not enter the means, as they
do in the authors' and the Hugging Face code. If the landmarks do not divide the tokens, segments differ by one
token, the shorter first (the authors' later code). No causal form: landmarks mix past and future.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from methods.base import Attention, Capabilities, PerLayer, Shape
from methods.ops.dense import allowed_keys, masked_softmax
from methods.ops.kernels import kernel_name
from methods.ops.pinv import iterative_pinv
from methods.ops.segments import Segments
from methods.ops.thin import few_keys_backward, few_queries_backward
from methods.ops.tiles import attend

Pinv = Literal["iterative", "exact"]


class Nystromformer(Attention):
    """`pinv`: `iterative` runs `pinv_iterations` of equation 14, `exact` is an SVD (slow, for study).

    `conv_kernel` > 0 adds the paper's skip connection, a depthwise convolution of that many taps over the values,
    one filter a head: 33 to 65 in public code, 0 here, where what is compared is the attention. Half precision
    is computed in float32. A NaN or infinite token spoils its own head and sequence only (`exact` raises torch's
    LinAlgError); what padded positions hold is never read into another position.
    """

    capabilities = Capabilities(causal=False, normalised=False)
    budget = "landmarks"

    def __init__(
        self,
        shape: Shape,
        *,
        landmarks: PerLayer = 64,
        pinv: Pinv = "iterative",
        pinv_iterations: int = 6,
        conv_kernel: int = 0,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        if landmarks < 1:
            raise ValueError(f"landmarks={landmarks}: expected an integer >= 1")
        if pinv not in ("iterative", "exact"):
            raise ValueError(f"pinv={pinv}: expected iterative or exact")
        if pinv_iterations < 1:
            raise ValueError(f"pinv_iterations={pinv_iterations}: expected an integer >= 1")
        if conv_kernel < 0 or (conv_kernel and conv_kernel % 2 == 0):
            raise ValueError(f"conv_kernel={conv_kernel}: expected 0 or an odd number")
        self.landmarks = landmarks
        self.pinv: Pinv = pinv
        self.pinv_iterations = pinv_iterations
        self.conv_kernel = conv_kernel
        self.conv: nn.Parameter | None = None
        if conv_kernel:
            bound = conv_kernel**-0.5  # what torch starts a convolution of this fan-in with
            taps = torch.empty(shape.heads, 1, conv_kernel, 1).uniform_(-bound, bound, generator=generator)
            self.conv = nn.Parameter(taps)
            # with the skip connection the output is no approximation of attention before training
            object.__setattr__(self, "capabilities", replace(self.capabilities, learned=True))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`."""
        wide = torch.promote_types(q.dtype, torch.float32)
        flat = (_tiles(x.to(wide)) for x in (q, k, v))
        segments = Segments(q.shape[-2], self.landmarks, key_padding_mask, self.shape.heads)
        iterations = self.pinv_iterations if self.pinv == "iterative" else None
        out: Tensor = _Nystrom.apply(*flat, key_padding_mask, segments, iterations)  # type: ignore[no-untyped-call]
        self.backend = kernel_name(q.device)
        return self._skip(out.view(q.shape), v.to(wide), key_padding_mask).to(q.dtype)

    def _skip(self, out: Tensor, v: Tensor, padding: Tensor | None) -> Tensor:
        """out + the convolution of the values `[B, H, N, D]` along N, pads and the outside counted as 0."""
        if self.conv is None:
            return out
        if padding is not None:
            v = v.masked_fill(padding[:, None, :, None], 0.0)
        taps = self.conv.to(v.dtype)
        return out + F.conv2d(v, taps, padding=(self.conv_kernel // 2, 0), groups=self.shape.heads)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Equation 13 as an N x N matrix, row by row of the batch, each over its real tokens alone."""
        n = q.shape[-2]
        rows = []
        for b in range(len(q)):
            real = torch.arange(n) if key_padding_mask is None else (~key_padding_mask[b]).nonzero()[:, 0].cpu()
            mean = self._averages(real, n).to(q)
            allowed = None if key_padding_mask is None else ~key_padding_mask[b]
            scaled = q[b] / q.shape[-1] ** 0.5
            landmark_keys = mean @ k[b]
            first = masked_softmax(scaled @ landmark_keys.transpose(-1, -2), None)
            second = masked_softmax(mean @ scaled @ landmark_keys.transpose(-1, -2), None)
            third = masked_softmax(mean @ scaled @ k[b].transpose(-1, -2), allowed)
            rows.append(first @ self._inverse(second) @ third @ v[b])
        out = torch.stack(rows)
        if self.conv is not None:
            offset = torch.arange(n)[:, None] - torch.arange(n) + self.conv_kernel // 2
            inside = (offset >= 0) & (offset < self.conv_kernel)
            taps = self.conv[:, 0, :, 0].flip(-1)[:, offset.clamp(0, self.conv_kernel - 1)].to(q.dtype)
            band = (taps * inside.to(q))[None]
            if (keys := allowed_keys(key_padding_mask)) is not None:
                band = band * keys
            out = out + band @ v
        return out

    def _averages(self, real: Tensor, n: int) -> Tensor:
        """`[landmarks, n]`: the matrix that takes the segment means of the tokens `real`, an index list."""
        count = min(self.landmarks, len(real))
        width, longer = divmod(len(real), max(count, 1))
        lengths = [width] * (count - longer) + [width + 1] * longer
        matrix = torch.zeros(count, n, dtype=torch.float64)
        for row, own in enumerate(torch.split(real, lengths) if count else ()):
            matrix[row, own] = 1 / len(own)
        return matrix

    def _inverse(self, a: Tensor) -> Tensor:
        """The pseudoinverse of `[H, m, m]`, as equation 14 is printed or by SVD."""
        if self.pinv == "exact" or a.shape[-1] == 0:
            exact: Tensor = torch.linalg.pinv(a)
            return exact
        norms = torch.linalg.matrix_norm(a, 1) * torch.linalg.matrix_norm(a, float("inf"))
        z: Tensor = a.transpose(-1, -2) / norms[..., None, None]
        eye = torch.eye(a.shape[-1], device=a.device, dtype=a.dtype)
        for _ in range(self.pinv_iterations):
            z = z / 4 @ (13 * eye - a @ z @ (15 * eye - a @ z @ (7 * eye - a @ z)))
        return z

    def flops(self, batch_size: int, seq_len: int) -> int:
        """8 N m D a head in the two long kernels, 4 m^2 D between landmarks, 8 m^3 an iteration, the skip."""
        m, dim = min(self.landmarks, seq_len), self.shape.head_dim
        iterations = self.pinv_iterations if self.pinv == "iterative" else 0
        head = 8 * seq_len * m * dim + 4 * m * m * dim + 8 * iterations * m**3
        return batch_size * self.shape.heads * (head + 2 * seq_len * self.conv_kernel * dim)

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """3.5 times the long kernels, whose scores are recomputed; 4 times what is between landmarks, which runs
        again as well; of an iteration 19 products for its 4.
        """
        m, dim = min(self.landmarks, seq_len), self.shape.head_dim
        long, skip = 8 * seq_len * m * dim, 2 * seq_len * self.conv_kernel * dim
        iterations = 8 * (self.pinv_iterations if self.pinv == "iterative" else 0) * m**3
        between = 4 * m * m * dim
        head = long * 7 // 2 + 3 * skip + 4 * between + iterations * 19 // 4
        return batch_size * self.shape.heads * head

    def degenerate(self, seq_len: int) -> bool:
        """Every token its own landmark: from `landmarks >= seq_len` on nothing is saved."""
        return self.landmarks >= seq_len


def _tiles(x: Tensor) -> Tensor:
    """`[B, H, N, D]` -> `[B * H, N, D]`, copied only if heads or columns are not evenly spread in memory."""
    flat = x.flatten(0, 1)
    return flat if flat.stride(-1) == 1 else flat.contiguous()


def _bias(blocked: Tensor | None, heads: int, like: Tensor) -> Tensor | None:
    """bool `[B, n]` -> `[B * heads, 1, n]`: -inf where blocked, else 0."""
    if blocked is None:
        return None
    zeros = torch.zeros(blocked.shape, device=like.device, dtype=like.dtype)
    return zeros.masked_fill(blocked, float("-inf")).repeat_interleave(heads, dim=0)[:, None]


def _between(q: Tensor, k: Tensor, attended: Tensor, empty: Tensor | None, iterations: int | None) -> Tensor:
    """pinv(softmax(q k^T / sqrt(D))) attended, for landmarks q, k `[T, m, D]`; empty bool `[T, m]`."""
    allowed = None if empty is None else ~(empty[:, None, :] | empty[:, :, None])
    kernel = masked_softmax(torch.bmm(q * q.shape[-1] ** -0.5, k.transpose(1, 2)), allowed)
    inverse = torch.linalg.pinv(kernel) if iterations is None else iterative_pinv(kernel, iterations)
    return torch.bmm(inverse, attended)


class _Nystrom(torch.autograd.Function):
    """Equation 13 on tiles `[T, N, D]`. Kept for the backward: the inputs, the output and O(N + m D) a tile."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        padding: Tensor | None,
        segments: Segments,
        iterations: int | None,
    ) -> Tensor:
        scale, heads = q.shape[-1] ** -0.5, 1 if padding is None else len(q) // len(padding)
        key_bias, landmark_bias = _bias(padding, heads, q), _bias(segments.empty, heads, q)
        ctx.empty = None if segments.empty is None else segments.empty.repeat_interleave(heads, dim=0)
        few_q, few_k = segments.means(q), segments.means(k)
        attended, lse_few = attend(few_q, k, v, key_bias, scale)
        values = _between(few_q, few_k, attended, ctx.empty, iterations)
        out, lse = attend(q, few_k, values, landmark_bias, scale)
        ctx.save_for_backward(q, k, v, few_q, few_k, attended, lse_few, values, out, lse, key_bias, landmark_bias)
        ctx.segments, ctx.iterations, ctx.scale = segments, iterations, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, few_q, few_k, attended, lse_few, values, out, lse, key_bias, landmark_bias = ctx.saved_tensors
        dq, d_few_k, d_values = few_keys_backward(grad, out, q, few_k, values, lse, landmark_bias, ctx.scale)
        with torch.enable_grad():
            leaves = (
                few_q.detach().requires_grad_(),
                few_k.detach().requires_grad_(),
                attended.detach().requires_grad_(),
            )
            mixed = _between(*leaves, ctx.empty, ctx.iterations)
        mid_q, mid_k, d_attended = torch.autograd.grad(mixed, leaves, d_values)
        d_few_q, dk, dv = few_queries_backward(d_attended, attended, few_q, k, v, lse_few, key_bias, ctx.scale)
        ctx.segments.add_gradient(dq, d_few_q.add_(mid_q))
        ctx.segments.add_gradient(dk, d_few_k.add_(mid_k))
        return dq, dk, dv, None, None, None
