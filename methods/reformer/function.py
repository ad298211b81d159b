"""The attention over chunks and its hand-written gradient, one unit (a few heads) at a time.

Keys are unit vectors, so |q| bounds every logit of a row: with that bound as the softmax's stabiliser, rounds
merge by adding numerators and denominators, which is the paper's weighting of rounds (eq. 14) before division.
Only q, v, the output, one logsumexp a token and the sorted order are kept; the backward recomputes the weights
from them (as Dao 2023, Algorithm 2) and sums the shares of all rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from methods.ops.tiles import LOG2_E, Workspace, scores_at_once
from methods.reformer.chunks import MASKED, Chunks, Frame, Rules
from methods.reformer.hashing import hash_buckets, sort_by_bucket

SAFE_LOGIT = {torch.float32: 32.0, torch.float64: 300.0}
"""|q| times scale up to which the bound is a stabiliser: weights above 2^-126 even at logits of minus the bound.
Beyond, a pass over the scores finds the true maximum of each row."""

SORTED_AT_ONCE = 4096
"""Tokens of a head that are hashed and sorted together, over several rows of the batch where these are short."""


class HashedAttention(torch.autograd.Function):
    """out `[B, H, N, D]` of q, v and rotations `[H, R, D, columns]`; k gets a gradient of zeros (see Reformer)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor | None,
        v: Tensor,
        rotations: Tensor,
        factors: tuple[int, ...],
        padding: Tensor | None,
        rules: Rules,
    ) -> Tensor:
        """Hash and sort, then attend and merge unit by unit."""
        batch, heads, n, _ = q.shape
        space = Workspace(q.device, torch.promote_types(q.dtype, torch.float32))
        out = torch.empty(v.shape, device=q.device, dtype=q.dtype)
        lse = torch.empty(batch, heads, n, device=q.device, dtype=space.dtype)
        sorted_shape = (2, batch, heads, rotations.shape[1], n)
        sorts = list(torch.empty(sorted_shape, device=q.device, dtype=torch.int32))
        buckets = torch.empty_like(sorts[0]) if rules.bucket_mask else None
        rows = max(1, SORTED_AT_ONCE // n)
        for part in (slice(b, b + rows) for b in range(0, batch, rows)):
            found = hash_buckets(q[part], rotations, factors, space)
            order = sort_by_bucket(found, rules.buckets, None if padding is None else padding[part])
            sorts[0][part] = order
            ranks = torch.arange(n, device=q.device, dtype=torch.int32)
            sorts[1][part].scatter_(-1, order, ranks.expand_as(order))
            if buckets is not None:
                buckets[part] = found
        for unit, chunks in units((q, v), sorts, buckets, padding, rules, space, arrays=1):
            tables = Tables(q, v, unit, chunks)
            _attend(tables, chunks, tables.flat(out), lse[unit].view(-1))
        if any(ctx.needs_input_grad[:3]):
            ctx.rules = rules
            ctx.touches_k = k is not None
            ctx.save_for_backward(q, v, out, lse, padding, buckets, *sorts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """dq through queries and keys, dv; zeros for k, in no memory."""
        q, v, out, lse, padding, buckets, *sorts = ctx.saved_tensors
        space = Workspace(q.device, lse.dtype)
        dq, dv = torch.empty_like(out), torch.empty_like(out)
        for unit, chunks in units((q, v, grad), sorts, buckets, padding, ctx.rules, space, arrays=2):
            tables = Tables(q, v, unit, chunks)
            upstream = tables.take(grad, "grad")
            product = torch.mul(upstream, tables.flat(out), out=space.take("product", *upstream.shape))
            _attend_backward(
                tables, chunks, upstream, lse[unit].view(-1), product.sum(dim=-1), tables.flat(dq), tables.flat(dv)
            )
        dk = grad.new_zeros(()).expand(q.shape) if ctx.touches_k else None
        return dq, dk, dv, None, None, None, None


Unit = tuple[slice, slice]


def units(
    inputs: tuple[Tensor, ...],
    sorts: list[Tensor],
    buckets: Tensor | None,
    padding: Tensor | None,
    rules: Rules,
    space: Workspace,
    arrays: int,
) -> Iterator[tuple[Unit, Chunks]]:
    """(rows of the batch, heads) that are handled together: as many as fill a group of tiles, at least one.

    `inputs` `[B, H, N, D]`; `sorts`: order and rank, int32 `[B, H, R, N]`; buckets alike or None; padding
    `[B, N]` or None. Heads of which one holds a NaN or infinity are handled one by one: a weight of 0 does not
    keep it away from its neighbour.
    """
    rounds, n = sorts[0].shape[2:]
    frames: dict[int, Frame] = {}
    for unit in _partition(inputs, n, rules, space, arrays):
        order, rank = (x[unit].flatten(0, 1) for x in sorts)
        count = len(order)
        if count not in frames:
            frames[count] = Frame(count, rounds, n, rules, space.device, space.dtype, arrays)
        own = None if buckets is None else buckets[unit].flatten(0, 1)
        some = unit[1].stop - unit[1].start
        pads = None if padding is None else padding[unit[0]].repeat_interleave(some, dim=0)
        yield unit, Chunks(frames[count], order, rank, own, pads, space)


def _partition(inputs: tuple[Tensor, ...], n: int, rules: Rules, space: Workspace, arrays: int) -> Iterator[Unit]:
    batch, heads = inputs[0].shape[:2]
    room = scores_at_once(space.device, arrays)
    size = min(rules.chunk, n)
    slot = -(-n // size) * size
    together = 1 if rules.wrap else max(1, room // (slot * size * (1 + rules.back + rules.ahead)))
    rows, some = max(1, together // heads), min(together, heads)
    for b in range(0, batch, rows):
        for h in range(0, heads, some):
            unit = slice(b, min(b + rows, batch)), slice(h, min(h + some, heads))
            if together == 1 or all(bool(x[unit].sum(dtype=space.dtype).isfinite()) for x in inputs):
                yield unit
            else:
                for i in range(unit[0].start, unit[0].stop):
                    yield from ((slice(i, i + 1), slice(j, j + 1)) for j in range(unit[1].start, unit[1].stop))


class Tables:
    """A unit's tokens, `[U * N, D]` in the dtype of the work, padding zeroed; keys are the normalised queries."""

    def __init__(self, q: Tensor, v: Tensor, unit: Unit, chunks: Chunks) -> None:
        self.unit, self.space, self.padding = unit, chunks.space, chunks.padding
        self.q, self.v = self.take(q, "q"), self.take(v, "v")
        norm = torch.linalg.vector_norm(self.q, dim=-1, keepdim=True)
        self.norm = norm[:, 0]
        # the key of a zero vector is zero: the bound keeps 0 / 0 away and lets NaN through
        self.inverse = norm.clamp_min(torch.finfo(norm.dtype).tiny).reciprocal_()
        self.k = torch.mul(self.q, self.inverse, out=self.space.take("table k", *self.q.shape))

    def flat(self, x: Tensor) -> Tensor:
        """The unit's rows `[U * N, D]` of a contiguous `[B, H, N, D]`: a view."""
        return x[self.unit].view(-1, x.shape[-1])

    def take(self, x: Tensor, name: str) -> Tensor:
        """The unit's rows `[U * N, D]` of any `[B, H, N, D]`: a view if nothing is to be changed in it."""
        part = x[self.unit]
        if self.padding is None and part.dtype == self.space.dtype and part.is_contiguous():
            return part.view(-1, part.shape[-1])
        own = self.space.take("table " + name, part.shape[0] * part.shape[1] * part.shape[2], part.shape[3])
        own.view(part.shape).copy_(part)
        return own if self.padding is None else own.masked_fill_(self.padding, 0.0)


def _sum_rounds(rows: Tensor, where: Tensor) -> Tensor:
    """`[rounds * rows, D]` -> `[U * N, D]`: each token's rows of all rounds, back in its place, summed."""
    if where.shape[1] == 1:
        return torch.index_select(rows, 0, where[:, 0])
    summed: Tensor = F.embedding_bag(where, rows, mode="sum")
    return summed


def _attend(tables: Tables, chunks: Chunks, out: Tensor, lse: Tensor) -> None:
    """Writes a unit's output `[U * N, D]` and its logsumexp by 2, `[U * N]`: -inf where nothing else is seen."""
    frame, space, dim = chunks.frame, chunks.space, out.shape[1]
    ceiling = _ceiling(tables, chunks)
    floor = torch.index_select(-ceiling, 0, chunks.index)
    rows, mass = space.take("rows", frame.total, dim), space.take("mass", frame.total)
    for group in frame.groups:
        q = chunks.queries(tables.q, group, "q")
        k, v = chunks.keys(tables.k, group, "k"), chunks.keys(tables.v, group, "v")
        at = chunks.query_rows(group)
        weights = chunks.scores(group, q, k, chunks.inner(floor[chunks.key_rows(group)])).exp2_()
        torch.sum(weights, dim=-1, out=mass[at].view(len(q), -1))
        torch.bmm(weights, v, out=rows[at].view(len(q), -1, dim))
    total = torch.index_select(mass, 0, chunks.where.view(-1)).view(chunks.where.shape).sum(dim=1, keepdim=True)
    alone = total == 0
    torch.mul(_sum_rounds(rows, chunks.where), total.masked_fill(alone, 1.0).reciprocal_(), out=out)
    if bool(alone.any()):
        torch.where(alone, tables.v.to(out.dtype), out, out=out)
    if tables.padding is not None:
        out.masked_fill_(tables.padding, 0.0)
    torch.add(total[:, 0].log2_(), ceiling, out=lse)


def _ceiling(tables: Tables, chunks: Chunks) -> Tensor:
    """`[U * N]` in units of log 2: the bound |q| of each row's logits, or the largest logit where |q| is large."""
    bound: Tensor = tables.norm * chunks.rules.scale
    if bool(bound.max() <= SAFE_LOGIT[chunks.space.dtype]):
        return bound.mul_(LOG2_E)
    tops = chunks.space.take("mass", chunks.frame.total)
    none = bound.new_zeros(())
    for group in chunks.frame.groups:
        q, k = chunks.queries(tables.q, group, "q"), chunks.keys(tables.k, group, "k")
        at = chunks.query_rows(group)
        tops[at] = chunks.scores(group, q, k, none.expand(at.stop - at.start)).amax(dim=-1).flatten()
    highest = tops[chunks.where].amax(dim=-1)
    return torch.where(highest > MASKED / 2, highest, none)


def _attend_backward(
    tables: Tables, chunks: Chunks, grad: Tensor, lse: Tensor, delta: Tensor, dq: Tensor, dv: Tensor
) -> None:
    """Writes dq, dv from the gradient, all `[U * N, D]`, lse of `_attend` and delta = (grad * out).sum(-1)."""
    frame, space, dim, scale = chunks.frame, chunks.space, grad.shape[1], chunks.rules.scale
    alone = lse.isneginf()
    floor = torch.index_select(-lse.masked_fill(alone, 0.0), 0, chunks.index)
    if frame.filler is not None:
        floor.masked_fill_(frame.filler, MASKED)  # no gradient from rows of filler
    slope_at = torch.index_select(delta, 0, chunks.index)
    rows = space.take("rows", frame.total, dim)
    key_rows, value_rows = (space.take(name, len(chunks.index), dim) for name in ("key rows", "value rows"))
    for group in frame.groups:
        q, g = chunks.queries(tables.q, group, "q"), chunks.queries(grad, group, "g")
        k, v = chunks.keys(tables.k, group, "k"), chunks.keys(tables.v, group, "v")
        at, seen = chunks.query_rows(group), chunks.key_rows(group)
        weights = chunks.scores(group, q, k, chunks.inner(floor[seen])).exp2_()
        shares = space.take("shares", *k.shape)
        chunks.spread(value_rows, group, torch.bmm(weights.transpose(1, 2), g, out=shares))
        slopes = torch.bmm(g, v.transpose(1, 2), out=space.take("pairs", *weights.shape))
        slopes.sub_(chunks.inner(slope_at[seen]).view(len(q), -1, 1)).mul_(weights)
        torch.bmm(slopes, k, out=rows[at].view(len(q), -1, dim))
        chunks.spread(key_rows, group, torch.bmm(slopes.transpose(1, 2), q, out=shares))
    dk = _sum_rounds(chunks.fold_halo(key_rows), chunks.where)
    # through k = q / |q|: what lies along k has no effect
    along = torch.mul(tables.k, dk, out=space.take("product", *dk.shape)).sum(dim=-1, keepdim=True)
    dk.addcmul_(tables.k, along, value=-1.0)
    own = _sum_rounds(rows, chunks.where).addcmul_(dk, tables.inverse)
    torch.mul(own, scale, out=dq)
    from_rows = _sum_rounds(chunks.fold_halo(value_rows), chunks.where)
    torch.addcmul(from_rows, grad, alone[:, None].to(grad.dtype), out=dv)
