"""Softmax attention over a block plan, with a backward that keeps no scores (Dao 2023, Algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from methods.bigbird.lanes import Lanes, Layout, rectangles
from methods.bigbird.plan import Rows
from methods.bigbird.relative import Relative
from methods.bigbird.tiles import Tile, tiles
from methods.ops.tiles import LOG2_E, Workspace

SAFE_EXPONENT = 40.0
"""Logits (base 2) below this need no maximum subtracted: 2^40 times any length is far from float32's end."""

FORWARD_SIZE = 2.0
"""Tiles of the forward against those of the backward, which holds five buffers of that size and not two."""


@dataclass(frozen=True)
class Run:
    """Batch rows of equal length, `holes` if padding lies before their last real token."""

    batch: slice
    layout: Layout
    holes: bool


@dataclass(frozen=True)
class Job:
    """What to attend: runs of batch rows, the plan for a number of blocks, the reach of relative labels."""

    runs: Sequence[Run]
    plan: Callable[[int], Sequence[Rows]]
    reach: int = 0


def runs(padding: Tensor | None, layout: Layout, batch: int) -> list[Run]:
    """Neighbouring batch rows of the same length; a row ends with its last real token. bool `[B, N]`."""
    if padding is None:
        return [Run(slice(0, batch), layout, False)]
    at = torch.arange(1, layout.length + 1, device=padding.device)
    ends = (~padding * at).amax(dim=1)
    holes = (padding & (at <= ends[:, None])).any(dim=1).tolist()
    found: list[Run] = []
    for row, (end, hole) in enumerate(zip(ends.tolist(), holes, strict=True)):
        if found and found[-1].layout.length == end:
            found[-1] = Run(slice(found[-1].batch.start, row + 1), found[-1].layout, found[-1].holes or hole)
        else:
            found.append(Run(slice(row, row + 1), replace(layout, length=end), hole))
    return [run for run in found if run.layout.length]


class BlockAttention(torch.autograd.Function):
    """out = softmax(q (k + a)^T / sqrt(D)) v over the pairs of a plan; a, the relative table, may be None."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, padding: Tensor | None, job: Job
    ) -> Tensor:
        """q, k, v `[B, H, N, D]`, table `[H, labels, D]`, padding bool `[B, N]` -> `[B, H, N, D]`."""
        space = Workspace(q.device, torch.promote_types(q.dtype, torch.float32))
        new = torch.empty if padding is None else torch.zeros
        out = new(q.shape, dtype=q.dtype, device=q.device)
        lse = new((*q.shape[:3], 1), dtype=space.dtype, device=q.device)
        for run in job.runs:
            for lanes in rectangles(run.batch, run.layout, (q, k, v), space):
                part = _Part.load(lanes, run, q, k, v, table, padding, job, space)
                held, stats = lanes.target(out, "out_rows"), lanes.target(lse, "lse_rows")
                for tile in tiles(lanes, job.plan(run.layout.blocks), space, FORWARD_SIZE):
                    part.forward(tile, held, stats)
                part.finish(stats)
                lanes.store(held, out)
                lanes.store(stats, lse)
        if padding is not None:
            out.masked_fill_(padding[:, None, :, None], 0.0)
        ctx.save_for_backward(q, k, v, table, padding, out, lse)
        ctx.job = job
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and the table."""
        q, k, v, table, padding, out, lse = ctx.saved_tensors
        space = Workspace(q.device, lse.dtype)
        given = [torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v)]
        slope = None if table is None else torch.zeros(table.shape, dtype=lse.dtype, device=q.device)
        for run in ctx.job.runs:
            for lanes in rectangles(run.batch, run.layout, (q, k, v, grad), space):
                part = _Part.load(lanes, run, q, k, v, table, padding, ctx.job, space)
                above = lanes.load(grad, "grad_rows", padding if run.holes else None)
                held, stats = lanes.load(out, "out_rows"), lanes.load(lse, "lse_rows")
                into = [lanes.target(x, name) for x, name in zip(given, ("dq", "dk", "dv"), strict=True)]
                for tile in tiles(lanes, ctx.job.plan(run.layout.blocks), space):
                    part.backward(tile, above, held, stats, (into[0], into[1], into[2]), slope)
                for written, x in zip(into, given, strict=True):
                    lanes.store(written, x)
        slope = None if slope is None else slope.to(table.dtype)
        return *given, slope, None, None


@dataclass(frozen=True)
class _Part:
    """One rectangle of the input in blocks: q, k, v `[lanes, rows, D]`, bias `[lanes, rows]` or None."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    relative: Relative | None
    safe: bool
    space: Workspace

    @classmethod
    def load(
        cls,
        lanes: Lanes,
        run: Run,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        table: Tensor | None,
        padding: Tensor | None,
        job: Job,
        space: Workspace,
    ) -> _Part:
        drop = padding if run.holes else None  # zeros, so that not even an inf there can spread
        q, k, v = lanes.load(q, "q", drop), lanes.load(k, "k", drop), lanes.load(v, "v", drop)
        relative = None
        if table is not None:
            relative = Relative(table.to(space.dtype), job.reach, run.layout.front_blocks)
        safe = q.device.type == "cpu" and _exponent(q, k, relative) < SAFE_EXPONENT
        return cls(q, k, v, lanes.bias(drop), relative, safe, space)

    def forward(self, tile: Tile, out: Tensor, lse: Tensor) -> None:
        """Write the tile's rows of out `[lanes, rows, D]` and lse `[lanes, rows, 1]`, base 2; then `finish` it."""
        scores, _, _ = self._scores(tile)
        top = None
        if not self.safe:
            top = scores.amax(dim=-1, keepdim=True).clamp_min_(torch.finfo(scores.dtype).min)
            scores.sub_(top)
        self._raise(scores)
        total = scores.sum(dim=-1, keepdim=True)
        tile.store(lse, total if top is None else total.log2().add_(top))
        if self.bias is not None:  # else every row has a key
            total.clamp_min_(torch.finfo(total.dtype).tiny)
        mixed = torch.bmm(scores, tile.take_keys(self.v, "keys"), out=tile.target(out, "mixed"))
        tile.store(out, mixed.div_(total))

    def finish(self, lse: Tensor) -> None:
        """What `forward` wrote, sums where no maximum was subtracted, -> lse; inf for a row without a key."""
        if self.safe:
            lse.log2_()
        lse.masked_fill_(lse == -math.inf, math.inf)

    def backward(
        self,
        tile: Tile,
        grad: Tensor,
        out: Tensor,
        lse: Tensor,
        into: tuple[Tensor, Tensor, Tensor],
        dtable: Tensor | None,
    ) -> None:
        """Write the tile's rows of dq, add its share to dk, dv (`into`, each `[lanes, rows, D]`) and dtable."""
        dq, dk, dv = into
        weights, queries, keys = self._scores(tile)
        slopes = tile.take_queries(grad, "grad")
        scaled = self.space.take("mixed", *slopes.shape)
        delta = torch.mul(tile.take_queries(out, "mixed"), slopes, out=scaled).sum(dim=-1, keepdim=True)
        log = tile.take_queries(lse, "lse")
        if self.safe:  # 2^-lse goes into the gradient, D numbers a row instead of n
            share = log.neg().exp2_()
            slopes, delta = torch.mul(slopes, share, out=scaled), delta.mul_(share)
        else:
            weights.sub_(log)
        self._raise(weights)
        values = tile.take_keys(self.v, "values")
        shared = torch.bmm(weights.transpose(1, 2), slopes, out=self.space.take("shared", *keys.shape))
        tile.add_keys(dv, shared)
        down = torch.bmm(slopes, values.transpose(1, 2), out=self.space.take("slopes", *weights.shape))
        down.sub_(delta).mul_(weights)
        own = torch.bmm(down, keys, out=tile.target(dq, "mixed"))
        if self.relative is not None and dtable is not None:
            collected = self.relative.collect(down, tile)
            own.baddbmm_(collected, self.relative.table[tile.heads])
            self.relative.table_gradient(dtable, collected, tile, queries)
        tile.store(dq, own.mul_(self.scale))
        shared = torch.bmm(down.transpose(1, 2), queries, out=shared).mul_(self.scale)
        tile.add_keys(dk, shared)

    @property
    def natural(self) -> bool:
        """Powers of e, not of 2: where no exponent is far from 0."""
        return self.safe and self.bias is None

    @property
    def scale(self) -> float:
        """1 / sqrt(D)."""
        return math.sqrt(1 / self.q.shape[2])

    def _scores(self, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
        """(logits `[count, m, n]` in the base that `_raise` takes, the queries, the keys)."""
        queries, keys = tile.take_queries(self.q, "queries"), tile.take_keys(self.k, "keys")
        scores = self.space.take("scores", tile.count, queries.shape[1], keys.shape[1])
        factor = self.scale * (1 if self.natural else LOG2_E)
        torch.baddbmm(scores, queries, keys.transpose(1, 2), beta=0, alpha=factor, out=scores)
        if self.relative is not None:
            self.relative.add(scores, tile, self.relative.logits(tile, queries).mul_(factor))
        if self.bias is not None:
            scores.add_(tile.key_bias(self.bias))
        return scores, queries, keys

    def _raise(self, scores: Tensor) -> None:
        """Exponents -> powers, in place. On CPUs torch's exp is the faster, but not at -inf or underflow."""
        if self.natural:
            scores.exp_()
            return
        scores.exp2_()
        if not self.safe:  # subnormal factors would slow the products a hundredfold
            F.threshold(scores, torch.finfo(scores.dtype).tiny, 0.0, inplace=True)


def _exponent(q: Tensor, k: Tensor, relative: Relative | None) -> float:
    """A bound of every |logit| in base 2, by Cauchy-Schwarz; NaN where an input is."""
    longest = torch.linalg.vector_norm(k, dim=-1).amax()
    if relative is not None:
        longest = longest + torch.linalg.vector_norm(relative.table, dim=-1).amax()
    bound = torch.linalg.vector_norm(q, dim=-1).amax() * longest
    return float(bound.item()) * math.sqrt(1 / q.shape[2]) * LOG2_E
