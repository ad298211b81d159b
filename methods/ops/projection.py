"""Keys and values `[B, H, N, D]` shortened along the sequence: by a learned matrix, by filters, by pooling."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from methods.ops.segments import runs
from methods.ops.tiles import scores_at_once


def project(
    key_matrix: Tensor, value_matrix: Tensor, k: Tensor, v: Tensor, padding: Tensor | None
) -> tuple[Tensor, Tensor]:
    """E k and F v, `[B, H, rank, D]`, with padded rows of k and v counted as 0.

    The matrices E and F `[1 or H, rank, N]` may be the same tensor; k and v `[B, H, N, D]`, padding bool `[B, N]`
    or None. Autograd would keep a gradient of E for every head until it sums them; here nothing of that size is.
    """
    other = None if value_matrix is key_matrix else value_matrix
    slots: tuple[Tensor, Tensor] = _Project.apply(key_matrix, other, k, v, padding)  # type: ignore[no-untyped-call]
    return slots


class _Project(torch.autograd.Function):
    """Keeps its inputs only. The second matrix is None where the first serves both."""

    @staticmethod
    def forward(
        ctx: Any, first: Tensor, second: Tensor | None, k: Tensor, v: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(first, second, k, v, padding)
        return _times(first, k, padding), _times(first if second is None else second, v, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dk: Tensor, dv: Tensor) -> tuple[Tensor | None, ...]:
        first, second, k, v, padding = ctx.saved_tensors
        if second is None:
            d_first, d_second, second = _outer(first, [(dk, k), (dv, v)], padding), None, first
        else:
            d_first, d_second = _outer(first, [(dk, k)], padding), _outer(second, [(dv, v)], padding)
        return (
            d_first,
            d_second,
            _transposed_times(first, dk, padding),
            _transposed_times(second, dv, padding),
            None,
        )


def _times(matrix: Tensor, x: Tensor, padding: Tensor | None) -> Tensor:
    """matrix x: `[1 or H, rank, N]` and `[B, H, N, D]` -> `[B, H, rank, D]`."""
    if padding is None and len(matrix) == 1 and x.is_contiguous():
        batched: Tensor = torch.matmul(matrix, x)
        return batched
    out = torch.empty(*x.shape[:2], matrix.shape[1], x.shape[3], device=x.device, dtype=x.dtype)
    for b, row in enumerate(x):  # a row at a time, so that neither side is copied to be batched
        real = row if padding is None else row.masked_fill(padding[b, :, None], 0.0)
        torch.bmm(matrix.expand(len(row), -1, -1), real, out=out[b])
    return out


def _transposed_times(matrix: Tensor, grad: Tensor, padding: Tensor | None) -> Tensor:
    """The gradient of `_times` by x at grad `[B, H, rank, D]`: `[B, H, N, D]`."""
    batch, heads, _, dim = grad.shape
    out = torch.empty(batch, heads, matrix.shape[2], dim, device=grad.device, dtype=grad.dtype)
    for b, row in enumerate(grad):
        torch.bmm(matrix.expand(heads, -1, -1).transpose(1, 2), row, out=out[b])
    return out if padding is None else out.masked_fill_(padding[:, None, :, None], 0.0)


def _outer(matrix: Tensor, pairs: list[tuple[Tensor, Tensor]], padding: Tensor | None) -> Tensor:
    """The gradient of matrix: the sum of grad x^T over pairs, the batch, and the heads that share a matrix."""
    room = scores_at_once(matrix.device)
    by_head = len(pairs[0][0][0]) * matrix.shape[1] * matrix.shape[2] <= room
    total = torch.zeros_like(matrix, memory_format=torch.contiguous_format)
    for grad, x in pairs:
        (_outer_by_row if by_head else _outer_by_column)(total, grad, x, padding, room)
    return total


def _outer_by_row(total: Tensor, grad: Tensor, x: Tensor, padding: Tensor | None, room: int) -> None:
    """For short sequences: a matrix a head, for one row of the batch at a time, summed in cache."""
    per_head = torch.empty(grad.shape[1], *total.shape[1:], device=x.device, dtype=x.dtype)
    for b, row in enumerate(x):
        real = row if padding is None else row.masked_fill(padding[b, :, None], 0.0)
        torch.bmm(grad[b], real.transpose(1, 2), out=per_head)
        total += per_head.view(len(total), -1, *total.shape[1:]).sum(1)


def _outer_by_column(total: Tensor, grad: Tensor, x: Tensor, padding: Tensor | None, room: int) -> None:
    """For long sequences: a stretch of columns at a time, in one product over heads and batch."""

    def summed_last(x: Tensor) -> Tensor:
        """`[B, H, n, D]` -> `[groups, n, B * H / groups * D]`."""
        batch, heads, n, dim = x.shape
        grouped = x.reshape(batch, len(total), heads // len(total), n, dim)
        return grouped.permute(1, 3, 0, 2, 4).flatten(2)

    grads = summed_last(grad)
    step = max(64, room // (2 * len(total) * grads.shape[2]))
    for low in range(0, x.shape[2], step):
        own = slice(low, low + step)
        part = x[:, :, own]
        if padding is not None:
            part = part.masked_fill(padding[:, None, own, None], 0.0)
        total[:, :, own] += torch.bmm(grads, summed_last(part).transpose(1, 2))


def block_means(x: Tensor, length: int, count: int, padding: Tensor | None) -> Tensor:
    """Means over the real tokens of each block: `[B, H, n, D]` -> `[B, H, blocks that n reaches, D]`.

    The `length >= n` tokens that the method is built for make `count` blocks, cut as by `segments.runs`; a block
    without a real token gives 0. padding bool `[B, n]` or None.
    """
    cut = runs(length, count, upto=x.shape[-2])
    if padding is None:
        return torch.cat([run.view(x).mean(-2) for run in cut], dim=-2)
    real = (~padding)[:, None, :, None]
    sums = torch.cat([run.view(x.masked_fill(~real, 0.0)).sum(-2) for run in cut], dim=-2)
    return sums / torch.cat([run.view(real).sum(-2) for run in cut], dim=-2).clamp(min=1)


def block_maxima(x: Tensor, length: int, count: int, padding: Tensor | None) -> Tensor:
    """As `block_means`, the largest entry of each column instead."""
    cut = runs(length, count, upto=x.shape[-2])
    if padding is None:
        return torch.cat([run.view(x).amax(-2) for run in cut], dim=-2)
    pads = padding[:, None, :, None]
    highest = torch.cat([run.view(x.masked_fill(pads, -torch.inf)).amax(-2) for run in cut], dim=-2)
    return highest.masked_fill(torch.cat([run.view(pads).all(-2) for run in cut], dim=-2), 0.0)


def empty_blocks(padding: Tensor, length: int, count: int) -> Tensor:
    """bool `[B, n]` -> bool `[B, blocks that n reaches]`: which blocks have no real token."""
    cut = runs(length, count, upto=padding.shape[1])
    return torch.cat([run.view(padding[..., None]).all(-2) for run in cut], dim=-2)[..., 0]


def block_filters(x: Tensor, taps: Tensor, length: int, count: int, padding: Tensor | None) -> Tensor:
    """Convolution with stride = kernel = block: `[B, H, n, D]` -> `[B, H, count, D]`.

    taps `[1 or H, longest block, D]`: one filter a channel, of which a shorter block uses the first taps. Pads
    and tokens from n to `length` count as 0.
    """
    if padding is not None:
        x = x.masked_fill(padding[:, None, :, None], 0.0)
    cut = runs(length, count, upto=x.shape[-2])
    kept = torch.cat([(run.view(x) * taps[:, None, : run.width]).sum(-2) for run in cut], dim=-2)
    return F.pad(kept, (0, 0, 0, count - kept.shape[-2]))
