"""FlashAttention in plain PyTorch: the readable reference of the algorithm (Dao et al. 2022; Dao 2023).

A softmax over many keys needs, of the keys seen so far, only the largest logit m, the sum l of exp(logit - m)
and the output scaled alike; so k and v pass by in tiles and the N x N scores never exist. The backward keeps
out and the logsumexp L = m + log l, and recomputes each tile's weights as exp(logit - L).

Logits are held in units of ln 2, so that 2^x takes the place of e^x: torch's exp has a slow path on CPUs for
-inf and for what underflows, its exp2 has none. Weights too small to matter (2^-100 of the largest, in
float32) are 0: products with denormal numbers are a hundred times slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from methods.ops.scoring import Scoring, Span, spans
from methods.ops.tiles import LOG2_E, Workspace, exp2_
from methods.ops.traffic import Traffic


@dataclass(frozen=True)
class Tiling:
    """Rows of queries and of keys in a tile."""

    block_q: int = 256
    block_k: int = 256


class OnlineSoftmax:
    """softmax(logits) v for some rows, while their logits and values come in pieces (Dao 2023, section 3.1.1)."""

    def __init__(self, rows: Tensor) -> None:
        """For the queries `[tiles, rows, dim]`, in their dtype."""
        self.largest = rows.new_full(rows.shape[:2], -torch.inf)
        self.total = rows.new_zeros(rows.shape[:2])
        self.out = torch.zeros_like(rows)

    def add(self, logits: Tensor, values: Tensor) -> None:
        """More keys: logits `[tiles, rows, n]` in units of ln 2, overwritten; values `[tiles, n, dim]`."""
        largest = torch.maximum(self.largest, logits.amax(dim=-1))
        base = largest.masked_fill(largest.isneginf(), 0.0)  # a row without a key yet
        weights = exp2_(logits.sub_(base[..., None]))
        shrink = torch.exp2(self.largest - base)
        self.total.mul_(shrink).add_(weights.sum(dim=-1))
        torch.baddbmm(self.out.mul_(shrink[..., None]), weights, values, out=self.out)
        self.largest = largest

    def finish(self) -> tuple[Tensor, Tensor]:
        """out `[tiles, rows, dim]`, 0 in rows without a key, and lse `[tiles, rows]`, there -inf."""
        lse = (self.largest + self.total.log2()) / LOG2_E
        return self.out.div_(self.total.masked_fill(self.total == 0, 1.0)[..., None]), lse


def tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scoring: Scoring | None = None,
    *,
    tiling: Tiling | None = None,
    sinks: Tensor | None = None,
    scale: float | None = None,
    traffic: Traffic | None = None,
) -> tuple[Tensor, Tensor]:
    """Exact attention without N x N scores: out `[B, H, Nq, D]` and its logsumexp `[B, H, Nq]`.

    q `[B, H, Nq, D]`; k, v `[B, G, Nk, D]` where G divides H: consecutive query heads share a key head
    (grouped and multi-query attention). `sinks` `[H]` are logits that take a share of the softmax and give
    nothing (gpt-oss). `scale` is 1/sqrt(D) by default. Differentiable in q, k, v and sinks; the logsumexp has
    no gradient. `traffic` counts the forward.
    """
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{k.shape[1]} key heads: expected a divisor of the {q.shape[1]} query heads")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    arguments = (q, k, v, sinks, scoring or Scoring(), tiling or Tiling(), scale, traffic)
    out, lse = _TiledAttention.apply(*arguments)  # type: ignore[no-untyped-call]
    return out, lse


@dataclass(frozen=True)
class _Loop:
    """The tiles of one call, with what is the same for all of them."""

    q: Tensor
    k: Tensor
    v: Tensor
    scoring: Scoring
    tiling: Tiling
    scale: float

    def rows(self, x: Tensor, span: Span) -> Tensor:
        """`[B, H, Nq, ...]` -> the span's rows by key head, those of the heads of a group end to end."""
        part = x[:, :, span.first : span.last]
        return part.reshape(self.k.shape[0], -1, *x.shape[3:])

    def pairs(self) -> tuple[list[Span], list[Span]]:
        """The spans of queries and of keys."""
        return spans(self.q.shape[2], self.tiling.block_q), spans(self.k.shape[1], self.tiling.block_k)

    def visible(self, i: int, j: int, rows: Span, cols: Span) -> bool:
        """Whether tile (i, j) holds a pair that attends."""
        blocks = self.scoring.blocks
        return (blocks is None or bool(blocks[i, j])) and self.scoring.visible(rows, cols)

    def logits(self, queries: Tensor, rows: Span, cols: Span, space: Workspace) -> tuple[Tensor, Tensor | None]:
        """A tile's logits in units of ln 2, `[B * G, H / G * rows, cols]`, and their slope if it is not 1."""
        keys = self.k[:, cols.first : cols.last]
        scores = space.take("scores", queries.shape[0], queries.shape[1], cols.size)
        torch.baddbmm(scores, queries, keys.transpose(1, 2), beta=0, alpha=self.scale * LOG2_E, out=scores)
        heads = scores.view(*self.q.shape[:2], rows.size, cols.size)
        slope = self.scoring.apply_(heads, rows, cols, unit=LOG2_E)
        return scores, None if slope is None else slope.view_as(scores)


def _loop(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring, tiling: Tiling, scale: float) -> _Loop:
    """In the dtype of the arithmetic: at least float32."""
    wide = torch.promote_types(q.dtype, torch.float32)
    keys, values = (x.to(wide).contiguous().flatten(0, 1) for x in (k, v))
    return _Loop(q.to(wide).contiguous(), keys, values, scoring, tiling, scale)


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        scoring: Scoring,
        tiling: Tiling,
        scale: float,
        traffic: Traffic | None,
    ) -> tuple[Tensor, Tensor]:
        loop = _loop(q, k, v, scoring, tiling, scale)
        wide, device = loop.q.dtype, q.device
        out, lse = torch.empty_like(loop.q), torch.empty(q.shape[:3], device=device, dtype=wide)
        space, (queries, keys) = Workspace(device, wide), loop.pairs()
        for i, rows in enumerate(queries):
            tile = loop.rows(loop.q, rows)
            softmax = OnlineSoftmax(tile)
            if traffic:
                traffic.load(tile)
            for j, cols in enumerate(keys):
                if not loop.visible(i, j, rows, cols):
                    if traffic:
                        traffic.skipped += 1
                    continue
                values = loop.v[:, cols.first : cols.last]
                if traffic:
                    traffic.computed += 1
                    traffic.load(loop.k[:, cols.first : cols.last], values)
                softmax.add(loop.logits(tile, rows, cols, space)[0], values)
            own_out, own_lse = softmax.finish()
            if traffic:
                traffic.store(own_out, own_lse)
            out[:, :, rows.first : rows.last] = own_out.view(*q.shape[:2], rows.size, -1)
            lse[:, :, rows.first : rows.last] = own_lse.view(*q.shape[:2], rows.size)
        if sinks is not None:
            with_sink = torch.logaddexp(lse, sinks.to(wide)[:, None])
            out.mul_((lse - with_sink).exp_()[..., None])
            lse = with_sink
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, sinks, out, lse)
        ctx.rest = (scoring, tiling, scale)
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Dao 2023, Algorithm 2: keys outside, queries inside, every tile's weights from lse."""
        q, k, v, sinks, out, lse = ctx.saved_tensors
        loop = _loop(q, k, v, *ctx.rest)
        wide = loop.q.dtype
        grad = grad.to(wide).contiguous()
        delta = (grad * out).sum(dim=-1)
        floor = lse.masked_fill(lse.isneginf(), 0.0) * LOG2_E
        dq, dk, dv = torch.zeros_like(loop.q), torch.zeros_like(loop.k), torch.zeros_like(loop.v)
        space, (queries, keys) = Workspace(q.device, wide), loop.pairs()
        for j, cols in enumerate(keys):
            own_keys, own_values = (x[:, cols.first : cols.last] for x in (loop.k, loop.v))
            for i, rows in enumerate(queries):
                if not loop.visible(i, j, rows, cols):
                    continue
                tile, dout = loop.rows(loop.q, rows), loop.rows(grad, rows)
                weights, slope = loop.logits(tile, rows, cols, space)
                exp2_(weights.sub_(loop.rows(floor, rows)[..., None]))
                dv[:, cols.first : cols.last] += torch.bmm(weights.transpose(1, 2), dout)
                slopes = space.take("slopes", *weights.shape)
                torch.bmm(dout, own_values.transpose(1, 2), out=slopes)
                slopes.sub_(loop.rows(delta, rows)[..., None]).mul_(weights)
                if slope is not None:
                    slopes.mul_(slope)
                dk[:, cols.first : cols.last].add_(torch.bmm(slopes.transpose(1, 2), tile), alpha=loop.scale)
                share = torch.bmm(slopes, own_keys).view(*q.shape[:2], rows.size, -1)
                dq[:, :, rows.first : rows.last].add_(share, alpha=loop.scale)
        dsinks = None
        if sinks is not None:  # the sink's weight is exp(sink - lse), its value 0
            dsinks = (-delta * (sinks.to(wide)[:, None] - lse).exp()).sum(dim=(0, 2)).to(sinks.dtype)
        grads = (dq.to(q.dtype), dk.view(k.shape).to(k.dtype), dv.view(v.shape).to(v.dtype), dsinks)
        return *grads, None, None, None, None
