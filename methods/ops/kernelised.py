"""Normalised kernel attention phi(Q) (phi(K)^T V) in time linear in N, streamed, with a backward by hand.

Out row i is sum_j (phi(q_i) . phi(k_j)) v_j / sum_j phi(q_i) . phi(k_j). Features exist for one block of rows
at a time, small enough to stay in cache, and are computed again in the backward: kept are q, k, v, the output,
a row's mass, and per head the sums [v, 1]^T phi(k) over keys.

Features with a logarithmic scale are stabilised by constants that the gradient holds constant: a query's own
largest feature; for keys the largest of one head of one sequence. The map's floor is added to stabilised
features, so that only through it a constant shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from methods.ops.features import FeatureMap
from methods.ops.tiles import Workspace, scores_at_once

LOW = -1e30
"""Below any logarithm of a feature, yet finite: differences of it are 0, not NaN."""


def spread(n: int, size: int) -> list[slice]:
    """The fewest stretches of at most `size` that cover n, of equal length but for the last."""
    size = -(-n // -(-n // max(1, size)))
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def room(width: int, dim: int, device: torch.device) -> int:
    """Rows of a block whose features of this width fit the cache, next to their q, k, v and out of `dim` each."""
    return max(1, scores_at_once(device, arrays=1) // max(width, 4 * dim))


def blocks(heads: int, n: int, rows: int) -> tuple[list[slice], int]:
    """(groups of heads, tokens a stretch) of `rows` rows a block; two heads a thread, if there are."""
    together = min(heads, max(2 * torch.get_num_threads(), rows // n))
    return spread(heads, together), spread(n, rows // together)[0].stop


def slabs(padding: Tensor | None, rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor | None, list[Tensor]]]:
    """Tensors `[B, H, N, ...]` as heads side by side, `[G, N, ...]`, and their padding `[G, N]`.

    Where that takes a copy, long sequences go one at a time and short ones are copied.
    """
    batch, heads, n = tensors[0].shape[:3]
    if batch == 1 or heads * n < rows:
        yield None if padding is None else padding.repeat_interleave(heads, 0), [x.flatten(0, 1) for x in tensors]
        return
    for i in range(batch):
        yield None if padding is None else padding[i].expand(heads, n), [x[i] for x in tensors]


def real_rows(x: Tensor, padding: Tensor | None) -> Tensor:
    """Rows `[g, c, D]` with 0 at padding `[g, c]`."""
    return x if padding is None else x.masked_fill(padding[..., None], 0.0)


def pieces(size: int, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Tensors `[g, N, ...]` in stretches of `size` tokens side by side; None stays None."""
    count = next(-(-x.shape[1] // size) for x in tensors if x is not None)
    return zip(*([None] * count if x is None else torch.split(x, size, dim=1) for x in tensors), strict=True)


def query_features(x: Tensor, queries: FeatureMap, space: Workspace, name: str = "phi") -> Tensor:
    """phi(q) `[g, c, m]`, each row at the scale of its largest feature, without the floor."""
    projected = queries.project(x, space, name)
    return queries.evaluate(projected, queries.level(projected), space)


def with_ones(values: Tensor, padding: Tensor | None, space: Workspace) -> Tensor:
    """[v, 1] `[g, c, D + 1]`, rows of zeros at padding."""
    column = 1.0 if padding is None else (~padding).to(values.dtype)
    return beside(real_rows(values, padding), column, space, "values")


def beside(x: Tensor, column: Tensor | float, space: Workspace, name: str) -> Tensor:
    """`[g, c, D]` with one more column, `[g, c]` or a constant."""
    g, c, dim = x.shape
    out = space.take(name, g, c, dim + 1)
    out[..., :dim] = x
    out[..., dim] = column
    return out


def before_division(grad: Tensor, out: Tensor, mass: Tensor, space: Workspace) -> Tensor:
    """Gradients of a row's numerator and denominator `[g, c, D + 1]` from that of their quotient."""
    of_rows = grad / mass[..., None]
    return beside(of_rows, torch.linalg.vecdot(of_rows, out).neg_(), space, "above")


class Sums(NamedTuple):
    """Sums over keys, or their gradients: of v phi(k), `[g, D, m]`, and of phi(k), `[g, 1, m]`."""

    moments: Tensor
    weights: Tensor

    @staticmethod
    def zero(space: Workspace, heads: int, dim: int, width: int) -> Sums:
        """No key yet, in the workspace's memory."""
        return Sums(
            space.take("moments", heads, dim, width).zero_(), space.take("weights", heads, 1, width).zero_()
        )

    def add(self, rows: Tensor, column: Tensor, phi: Tensor) -> None:
        """rows `[g, c, D]` and column `[g, c]`, each row times its features `[g, c, m]`."""
        torch.baddbmm(self.moments, rows.transpose(1, 2), phi, out=self.moments)
        torch.baddbmm(self.weights, column[:, None], phi, out=self.weights)

    def raise_(self, rows: Tensor, column: Tensor, floor: float) -> None:
        """What a floor under every feature adds, from the sums of rows `[g, D]` and column `[g]`."""
        self.moments.add_(rows[..., None], alpha=floor)
        self.weights.add_(column[:, None, None], alpha=floor)

    def heads(self, part: slice) -> Sums:
        """Those of some heads."""
        return Sums(self.moments[part], self.weights[part])


class _Bidirectional(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, queries: FeatureMap, keys: FeatureMap, padding: Tensor | None
    ) -> Tensor:
        space = Workspace(q.device, torch.promote_types(q.dtype, torch.float32))
        batch, heads, n, dim = v.shape
        out = torch.empty(v.shape, device=v.device, dtype=v.dtype)
        mass = torch.empty(batch, heads, n, device=v.device, dtype=space.dtype)
        kept = batch * heads if any(ctx.needs_input_grad) else 0
        sums = Sums(mass.new_empty(kept, dim, keys.width), mass.new_empty(kept, 1, keys.width))
        tops = mass.new_empty(batch * heads)
        rows, first = room(keys.width, q.shape[-1], q.device), 0
        for own, (qs, ks, vs, masses, outs) in slabs(padding, rows, q, k, v, mass, out):
            groups, size = blocks(qs.shape[0], n, rows)
            for hs in groups:
                absent = None if own is None else own[hs]
                found, top = _sum_keys(ks[hs], vs[hs], keys, absent, size, space)
                _attend(qs[hs], found, queries, size, space, masses[hs], outs[hs])
                if kept:
                    place = slice(first + hs.start, first + hs.stop)
                    for held, new in zip(sums, found, strict=True):
                        held[place] = new
                    tops[place] = top
            first += qs.shape[0]
        ctx.maps = queries, keys
        ctx.save_for_backward(q, k, v, out, mass, *sums, tops, padding)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, out, mass, moments, weights, tops, padding = ctx.saved_tensors
        sums, (queries, keys) = Sums(moments, weights), ctx.maps
        space = Workspace(q.device, mass.dtype)
        grads = [torch.empty(x.shape, device=x.device, dtype=x.dtype) for x in (q, k, v)]
        rows, first = room(keys.width, q.shape[-1], q.device), 0
        for own, parts in slabs(padding, rows, q, k, v, mass, out, grad, *grads):
            groups, size = blocks(parts[0].shape[0], q.shape[2], rows)
            for hs in groups:
                place = slice(first + hs.start, first + hs.stop)
                absent = None if own is None else own[hs]
                qs, ks, vs, masses, outs, above, dq, dk, dv = (x[hs] for x in parts)
                slope = _pull_queries(qs, (above, outs, masses), sums.heads(place), queries, size, space, dq)
                _pull_keys(ks, vs, slope, tops[place], keys, absent, size, space, dk, dv)
            first += parts[0].shape[0]
        return *grads, None, None, None


def _sum_keys(
    k: Tensor, v: Tensor, keys: FeatureMap, padding: Tensor | None, size: int, space: Workspace
) -> tuple[Sums, Tensor]:
    """The sums over all keys of a group of heads, and the log scale of their phi `[g]`."""
    sums = Sums.zero(space, k.shape[0], v.shape[-1], keys.width)
    top = sums.weights.new_full((k.shape[0], 1), LOW)
    real = (
        torch.ones(k.shape[:2], device=k.device, dtype=space.dtype)
        if padding is None
        else (~padding).to(space.dtype)
    )
    plain = sums.weights.new_zeros(v.shape[0], v.shape[-1])
    for x, values, present, absent in pieces(size, k, v, real, padding):
        projected = keys.project(real_rows(x.to(space.dtype), absent), space, "phi")
        level = keys.level(projected)
        if level is not None:
            level = level if absent is None else level.masked_fill_(absent, LOW)
            raised = torch.maximum(top, level.amax(dim=1, keepdim=True))
            if top.device.type != "cpu" or not torch.equal(raised, top):  # elsewhere asking costs more than doing
                for held in sums:
                    held.mul_((top - raised).exp_()[..., None])
            top = raised
        phi = keys.evaluate(projected, shift_of(top, absent, keys), space)
        values = real_rows(values.to(space.dtype), absent)
        sums.add(values, present, phi)
        if keys.floor:
            plain.add_(values.sum(dim=1))
    if keys.floor:
        sums.raise_(plain, real.sum(dim=1), keys.floor)
    return sums, top[:, 0]


def shift_of(top: Tensor, padding: Tensor | None, keys: FeatureMap) -> Tensor | None:
    """The stabiliser of a block's keys from that of their heads `[g, 1]`; inf at padding, whose powers are 0."""
    if not keys.levelled or padding is None:
        return top if keys.levelled else None
    return top.expand_as(padding).masked_fill(padding, float("inf"))


def _attend(
    q: Tensor, sums: Sums, queries: FeatureMap, size: int, space: Workspace, mass: Tensor, out: Tensor
) -> None:
    """Rows of the output, into `out` `[g, N, D]`, and what they are divided by, into `mass` `[g, N]`."""
    moments = sums.moments.transpose(1, 2)
    low, low_mass = (x.sum(dim=-1)[:, None].mul_(queries.floor) for x in sums)
    for x, own_mass, own_out in pieces(size, q, mass, out):
        phi = query_features(x.to(space.dtype), queries, space)
        rows = torch.baddbmm(low, phi, moments, out=space.take("rows", *own_out.shape))
        total = torch.baddbmm(low_mass, sums.weights, phi.transpose(1, 2))
        own_mass.copy_(total[:, 0])
        torch.div(rows, total.transpose(1, 2), out=own_out)
    empty = mass == 0
    if mass.device.type != "cpu" or bool(empty.any()):
        out.masked_fill_(empty[..., None], 0.0)
        mass.masked_fill_(empty, 1.0)


def _pull_queries(
    q: Tensor,
    of_rows: tuple[Tensor, Tensor, Tensor],
    sums: Sums,
    queries: FeatureMap,
    size: int,
    space: Workspace,
    dq: Tensor,
) -> Sums:
    """Gradients of queries, into dq, and of the sums over keys; of_rows: (grad, out, mass)."""
    slope = Sums.zero(space, *sums.moments.shape)
    plain = sums.moments.new_zeros(sums.moments.shape[:2]), sums.weights.new_zeros(sums.weights.shape[0])
    for x, grad, out, mass, own in pieces(size, q, *of_rows, dq):
        x = x.to(space.dtype)
        phi = query_features(x, queries, space)
        above = torch.div(grad.to(space.dtype), mass[..., None], out=space.take("rows", *grad.shape))
        of_mass = torch.linalg.vecdot(above, out.to(space.dtype)).neg_()
        slope.add(above, of_mass, phi)
        if queries.floor:
            plain[0].add_(above.sum(dim=1))
            plain[1].add_(of_mass.sum(dim=1))
        of_phi = torch.mul(of_mass[..., None], sums.weights, out=space.take("slopes", *phi.shape))
        torch.baddbmm(of_phi, above, sums.moments, out=of_phi)
        queries.pull(x, phi, of_phi, space, own)
    if queries.floor:
        slope.raise_(*plain, queries.floor)
    return slope


def _pull_keys(
    k: Tensor,
    v: Tensor,
    slope: Sums,
    top: Tensor,
    keys: FeatureMap,
    padding: Tensor | None,
    size: int,
    space: Workspace,
    dk: Tensor,
    dv: Tensor,
) -> None:
    """Gradients of keys and values, into dk and dv, from those of their sums."""
    of_moments = slope.moments.transpose(1, 2)
    floor = of_moments.sum(dim=1, keepdim=True).mul_(keys.floor)
    for x, values, absent, own_dk, own_dv in pieces(size, k, v, padding, dk, dv):
        projected = keys.project(real_rows(x.to(space.dtype), absent), space, "phi")
        phi = keys.evaluate(projected, shift_of(top[:, None], absent, keys), space)
        of_values = torch.baddbmm(floor, phi, of_moments, out=space.take("rows", *values.shape))
        own_dv.copy_(real_rows(of_values, absent))
        values = real_rows(values.to(space.dtype), absent)
        of_phi = torch.baddbmm(slope.weights, values, slope.moments, out=space.take("slopes", *phi.shape))
        keys.pull(projected.x, phi, of_phi, space, own_dk)
        if absent is not None:
            own_dk.masked_fill_(absent[..., None], 0.0)


def kernelised_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    queries: FeatureMap,
    keys: FeatureMap,
    padding: Tensor | None,
) -> Tensor:
    """phi(Q) (phi(K)^T V), rows divided by phi(Q) (phi(K)^T 1): q, k, v `[B, H, N, D]` -> `[B, H, N, D]`.

    padding is bool `[B, N]`, True at keys of weight 0. A row's mass keeps its sign; a row of mass 0 is 0.
    """
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out: Tensor = _Bidirectional.apply(q, k, v, queries, keys, padding)  # type: ignore[no-untyped-call]
    return out
