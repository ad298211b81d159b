"""Softmax attention over a band of keys, keys that all rows share, and rows that attend everything: one softmax.

The forward runs over tiles of queries and writes each row once. The backward runs over tiles of keys, so that
the gradients of k and v are written once and only those of q overlap; it recomputes the weights from the
logsumexp (Dao 2023, Algorithm 2), a cache-sized group of tiles at a time (methods/ops/window_parts.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from methods.ops import window_parts as parts
from methods.ops.bands import Pattern, gather, merges, scatter, worth_merging
from methods.ops.tiles import LOG2_E, Workspace


def windowed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    *,
    sink: Tensor | None = None,
    global_qkv: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the pairs of `pattern`, `[B, H, N, D]`; differentiable in all tensors.

    `sink` `[H]`: a logit a head that takes a share of every row's softmax and gives nothing. `global_qkv`: the
    queries `[B, H, G, D]` of the shared positions and the keys and values `[B, H, N, D]` that their rows attend;
    without it those rows use q, k and v. Rows with nothing to attend are 0. Half precision computes in float32.
    """
    own = (None, None, None) if global_qkv is None else global_qkv
    out: Tensor = _Windowed.apply(q, k, v, sink, *own, pattern)  # type: ignore[no-untyped-call]
    return out


class _Windowed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sink: Tensor | None,
        qg: Tensor | None,
        kg: Tensor | None,
        vg: Tensor | None,
        pattern: Pattern,
    ) -> Tensor:
        given = (q, k, v, sink, qg, kg, vg)
        ctx.dtypes = [None if x is None else x.dtype for x in given]
        q, k, v = _ready(q), _ready(k), _ready(v)
        sink, *own = (None if x is None else _ready(x) for x in given[3:])
        call = parts.Call(pattern, q.shape[-1] ** -0.5, True, Workspace(q.device, q.dtype))
        out, lse = q.new_empty(q.shape), q.new_empty((*q.shape[:3], 1))
        call = parts.band(call, q, k, v, out, lse)
        if pattern.shared is not None:
            parts.columns(call, q, k, v, out, lse)
        if sink is not None:
            total = torch.logaddexp2(lse, sink[:, None, None] * LOG2_E)
            out.mul_(torch.exp2(lse - total.masked_fill(total.isneginf(), 0.0)))
            lse = total
        rows_lse = None
        if pattern.rows:
            row, slot, position = pattern.places(q.shape[0])
            result, rows_lse = parts.rows(call, *_row_inputs(pattern, q, k, v, own))
            out[row, :, position] = result[row, :, slot]
        ctx.pattern, ctx.deep = pattern, call.deep
        ctx.save_for_backward(q, k, v, sink, *own, out, lse, rows_lse)
        return out.to(given[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, sink, *own, out, lse, rows_lse = ctx.saved_tensors
        pattern: Pattern = ctx.pattern
        grad = _ready(grad)
        call = parts.Call(pattern, q.shape[-1] ** -0.5, ctx.deep, Workspace(q.device, q.dtype))
        floor, delta = lse.masked_fill(lse.isneginf(), 0.0).neg_(), parts.dots(call, grad, out)
        rows_delta = gather(delta, pattern.index) if pattern.rows else None
        if pattern.rows:  # as local rows these weigh nothing
            row, _, position = pattern.places(q.shape[0])
            floor[row, :, position] = -torch.inf
            delta[row, :, position] = 0.0
        dq, dk, dv = torch.zeros_like(out), torch.empty_like(out), torch.empty_like(out)
        parts.band_backward(call, (q, k, v, grad, floor, delta), (dq, dk, dv))
        if pattern.shared is not None:
            parts.columns_backward(call, (q, k, v, grad, floor, delta), (dq, dk, dv))
        dsink = None
        if sink is not None:
            dsink = (torch.exp2(sink[:, None, None] * LOG2_E + floor) * -delta).sum(dim=(0, 2, 3))
        down: tuple[Tensor | None, ...] = (None, None, None)
        if rows_delta is not None:
            separate = own[0] is not None
            inputs = (
                *_row_inputs(pattern, q, k, v, own),
                gather(grad, pattern.index),
                rows_lse,
                rows_delta,
            )
            into = (torch.empty_like(out), torch.empty_like(out)) if separate else (dk, dv)
            dqg = parts.rows_backward(call, inputs, into, fresh=separate)
            if separate:
                down = (dqg, *into)
            else:
                scatter(dq, pattern.index, dqg)
        grads = zip((dq, dk, dv, dsink, *down), ctx.dtypes, strict=True)
        return *(None if x is None else x.to(dtype) for x, dtype in grads), None


def _ready(x: Tensor) -> Tensor:
    """In the dtype of the arithmetic, rows contiguous, heads merged where that is worth a copy."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if x.dim() == 4 and (x.stride(-1) != 1 or (not merges(x) and worth_merging(x))):
        return x.contiguous()
    return x


def _row_inputs(
    pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, own: list[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """What the shared rows attend with: projections of their own, or those of all rows."""
    queries, keys, values = own
    if queries is None or keys is None or values is None:
        return gather(q, pattern.index), k, v
    return queries, keys, values
