"""Backward of softmax attention in which one side is short: few keys for many queries, or the reverse.

The short side's gradients add up over stretches of the long side, the long side's are written where they
belong. Scores are recomputed from the logsumexp, a cache-sized stretch at a time (Dao 2023, Algorithm 2).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from methods.ops.tiles import LOG2_E, Workspace, scores_at_once


def _stretches(tiles: int, short: int, long: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """(tiles, rows of the long side) whose scores fit the cache; two tiles at least, one for each core."""
    room = scores_at_once(device)
    size = min(tiles, max(2, room // (short * long)))
    rows = min(long, max(64, room // (size * short)))
    for tile in range(0, tiles, size):
        for row in range(0, long, rows):
            yield slice(tile, min(tile + size, tiles)), slice(row, min(row + rows, long))


def _product(target: Tensor, a: Tensor, b: Tensor, space: Workspace) -> None:
    """target = a b; a product straight into memory with gaps would be slow."""
    if target.is_contiguous():
        torch.bmm(a, b, out=target)
    else:
        target.copy_(torch.bmm(a, b, out=space.take("product", *target.shape)))


def _floor(lse: Tensor) -> Tensor:
    """What is added to logits in base 2 before `exp2`; 0 in rows that see nothing."""
    return lse.masked_fill(lse.isneginf(), 0.0)[..., None] * -LOG2_E


def few_keys_backward(
    grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv) of `tiles.attend`; grad, out, q `[T, N, D]`, k, v `[T, m, D]`, bias `[T, 1, m]` or None."""
    (tiles, n, _), m = q.shape, k.shape[1]
    space = Workspace(q.device, q.dtype)
    logit_keys, slope_keys = (k * (scale * LOG2_E)).transpose(1, 2), k * scale
    dq = torch.empty(q.shape, device=q.device, dtype=q.dtype)
    dk, dv = torch.zeros_like(slope_keys), torch.zeros(v.shape, device=v.device, dtype=v.dtype)
    for t, i in _stretches(tiles, m, n, q.device):
        part_q, part_grad = q[t, i], grad[t, i]
        size, rows = part_q.shape[:2]
        start = _floor(lse[t, i]).expand(size, rows, m) if bias is None else _floor(lse[t, i]) + bias[t]
        weights = torch.baddbmm(start, part_q, logit_keys[t], out=space.take("weights", size, rows, m)).exp2_()
        dv[t].baddbmm_(weights.transpose(1, 2), part_grad)
        slopes = torch.bmm(part_grad, v[t].transpose(1, 2), out=space.take("slopes", size, rows, m))
        slopes.sub_(torch.linalg.vecdot(part_grad, out[t, i])[..., None]).mul_(weights)
        _product(dq[t, i], slopes, slope_keys[t], space)
        dk[t].baddbmm_(slopes.transpose(1, 2), part_q)
    return dq, dk.mul_(scale), dv


def few_queries_backward(
    grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv) of `tiles.attend`; grad, out, q `[T, m, D]`, k, v `[T, N, D]`, bias `[T, 1, N]` or None."""
    (tiles, m, _), n = q.shape, k.shape[1]
    space = Workspace(q.device, q.dtype)
    floor, delta = _floor(lse), torch.linalg.vecdot(grad, out)[..., None]
    logit_queries, slope_queries = q * (scale * LOG2_E), q * scale
    dq = torch.zeros_like(slope_queries)
    dk, dv = (torch.empty(x.shape, device=x.device, dtype=x.dtype) for x in (k, v))
    for t, i in _stretches(tiles, m, n, q.device):
        part_k, part_v = k[t, i], v[t, i]
        size, rows = part_k.shape[:2]
        start = floor[t].expand(size, m, rows) if bias is None else floor[t] + bias[t, :, i]
        weights = space.take("weights", size, m, rows)
        torch.baddbmm(start, logit_queries[t], part_k.transpose(1, 2), out=weights).exp2_()
        _product(dv[t, i], weights.transpose(1, 2), grad[t], space)
        slopes = torch.bmm(grad[t], part_v.transpose(1, 2), out=space.take("slopes", size, m, rows))
        slopes.sub_(delta[t]).mul_(weights)
        _product(dk[t, i], slopes.transpose(1, 2), slope_queries[t], space)
        dq[t].baddbmm_(slopes, part_k)
    return dq.mul_(scale), dk, dv
