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
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from methods.ops.features import FeatureMap
from methods.ops.tiles import CACHED_SCORES, DEVICE_SCORES, Workspace

LOW = -1e30
"""Below any logarithm of a feature, yet finite: differences of it are 0, not NaN."""


def spread(n: int, size: int) -> list[slice]:
    """The fewest stretches of at most `size` that cover n, of equal length but for the last."""
    size = -(-n // -(-n // max(1, size)))
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def room(width: int, dim: int, device: torch.device) -> int:
    """Rows of a block whose features of this width fit the cache, next to their q, k, v and out of `dim` each."""
    return max(1, (CACHED_SCORES if device.type == "cpu" else DEVICE_SCORES) // max(width, 4 * dim))


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


class _Bidirectional(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, queries: FeatureMap, keys: FeatureMap, padding: Tensor | None
    ) -> Tensor:
        space = Workspace(q.device, torch.promote_types(q.dtype, torch.float32))
        batch, heads, n, dim = v.shape
        out = torch.empty(v.shape, device=v.device, dtype=v.dtype)
        mass = torch.empty(batch, heads, n, device=v.device, dtype=space.dtype)
        kept = any(ctx.needs_input_grad)
        states = mass.new_empty(batch * heads if kept else 0, dim + 1, keys.width)
        tops = mass.new_empty(batch * heads)
        rows, first = room(keys.width, q.shape[-1], q.device), 0
        for own, (qs, ks, vs, masses, outs) in slabs(padding, rows, q, k, v, mass, out):
            groups, size = blocks(qs.shape[0], n, rows)
            for hs in groups:
                absent = None if own is None else own[hs]
                state, top = _sum_keys(ks[hs], vs[hs], keys, absent, size, space)
                _attend(qs[hs], state, queries, size, space, masses[hs], outs[hs])
                if kept:
                    states[first + hs.start : first + hs.stop] = state
                    tops[first + hs.start : first + hs.stop] = top
            first += qs.shape[0]
        ctx.maps = queries, keys
        ctx.save_for_backward(q, k, v, out, mass, states, tops, padding)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, out, mass, states, tops, padding = ctx.saved_tensors
        queries, keys = ctx.maps
        space = Workspace(q.device, mass.dtype)
        grads = [torch.empty(x.shape, device=x.device, dtype=x.dtype) for x in (q, k, v)]
        rows, first = room(keys.width, q.shape[-1], q.device), 0
        for own, parts in slabs(padding, rows, q, k, v, mass, out, grad, *grads):
            groups, size = blocks(parts[0].shape[0], q.shape[2], rows)
            for hs in groups:
                place = slice(first + hs.start, first + hs.stop)
                absent = None if own is None else own[hs]
                qs, ks, vs, masses, outs, above, dq, dk, dv = (x[hs] for x in parts)
                slope = _pull_queries(qs, (above, outs, masses), states[place], queries, size, space, dq)
                _pull_keys(ks, vs, slope, tops[place], keys, absent, size, space, dk, dv)
            first += parts[0].shape[0]
        return *grads, None, None, None


def _sum_keys(
    k: Tensor, v: Tensor, keys: FeatureMap, padding: Tensor | None, size: int, space: Workspace
) -> tuple[Tensor, Tensor]:
    """[v, 1]^T phi(k) `[g, D + 1, m]` over all keys of a group of heads, and the log scale of phi `[g]`."""
    g, columns = k.shape[0], v.shape[-1] + 1
    state = space.take("state", g, columns, keys.width).zero_()
    top = state.new_full((g, 1), LOW)
    plain = state.new_zeros(g, columns)
    for x, values, absent in pieces(size, k, v, padding):
        projected = keys.project(real_rows(x.to(space.dtype), absent), space, "phi")
        level = keys.level(projected)
        if level is not None:
            level = level if absent is None else level.masked_fill_(absent, LOW)
            raised = torch.maximum(top, level.amax(dim=1, keepdim=True))
            if top.device.type != "cpu" or not torch.equal(raised, top):  # elsewhere asking costs more than doing
                state.mul_((top - raised).exp_()[..., None])
            top = raised
        phi = keys.evaluate(projected, shift_of(top, absent, keys), space)
        wide = with_ones(values.to(space.dtype), absent, space)
        torch.baddbmm(state, wide.transpose(1, 2), phi, out=state)
        if keys.floor:
            plain.add_(wide.sum(dim=1))
    if keys.floor:
        state.add_(plain[..., None], alpha=keys.floor)
    return state, top[:, 0]


def shift_of(top: Tensor, padding: Tensor | None, keys: FeatureMap) -> Tensor | None:
    """The stabiliser of a block's keys from that of their heads `[g, 1]`; inf at padding, whose powers are 0."""
    if not keys.levelled or padding is None:
        return top if keys.levelled else None
    return top.expand_as(padding).masked_fill(padding, float("inf"))


def _attend(
    q: Tensor, state: Tensor, queries: FeatureMap, size: int, space: Workspace, mass: Tensor, out: Tensor
) -> None:
    """Rows of the output, into `out` `[g, N, D]`, and what they are divided by, into `mass` `[g, N]`."""
    moments, sums = state[:, :-1].transpose(1, 2), state[:, -1:]
    floor = state.sum(dim=-1, keepdim=True).mul_(queries.floor).transpose(1, 2)
    for x, own_mass, own_out in pieces(size, q, mass, out):
        phi = query_features(x.to(space.dtype), queries, space)
        rows = torch.baddbmm(floor[..., :-1], phi, moments, out=space.take("rows", *own_out.shape))
        total = torch.baddbmm(floor[..., -1:], sums, phi.transpose(1, 2))
        own_mass.copy_(total[:, 0])
        torch.div(rows, total.transpose(1, 2), out=own_out)
    empty = mass == 0
    if mass.device.type != "cpu" or bool(empty.any()):
        out.masked_fill_(empty[..., None], 0.0)
        mass.masked_fill_(empty, 1.0)


def _pull_queries(
    q: Tensor,
    of_rows: tuple[Tensor, Tensor, Tensor],
    state: Tensor,
    queries: FeatureMap,
    size: int,
    space: Workspace,
    dq: Tensor,
) -> Tensor:
    """Gradients of queries, into dq, and of the sums over keys `[g, D + 1, m]`; of_rows: (grad, out, mass)."""
    slope = space.take("state", *state.shape).zero_()
    plain = state.new_zeros(state.shape[:2])
    for x, grad, out, mass, own in pieces(size, q, *of_rows, dq):
        x = x.to(space.dtype)
        phi = query_features(x, queries, space)
        above = before_division(grad.to(space.dtype), out.to(space.dtype), mass, space)
        torch.baddbmm(slope, above.transpose(1, 2), phi, out=slope)
        if queries.floor:
            plain.add_(above.sum(dim=1))
        of_phi = torch.bmm(above, state, out=space.take("slopes", *phi.shape))
        own.copy_(queries.pull(x, phi, of_phi, space))
    return slope.add_(plain[..., None], alpha=queries.floor) if queries.floor else slope


def _pull_keys(
    k: Tensor,
    v: Tensor,
    slope: Tensor,
    top: Tensor,
    keys: FeatureMap,
    padding: Tensor | None,
    size: int,
    space: Workspace,
    dk: Tensor,
    dv: Tensor,
) -> None:
    """Gradients of keys and values, into dk and dv, from that of their sums `[g, D + 1, m]`."""
    of_moments = slope[:, :-1].transpose(1, 2)
    floor = of_moments.sum(dim=1, keepdim=True).mul_(keys.floor)
    for x, values, absent, own_dk, own_dv in pieces(size, k, v, padding, dk, dv):
        projected = keys.project(real_rows(x.to(space.dtype), absent), space, "phi")
        phi = keys.evaluate(projected, shift_of(top[:, None], absent, keys), space)
        wide = with_ones(values.to(space.dtype), absent, space)
        of_values = torch.baddbmm(floor, phi, of_moments, out=space.take("rows", *values.shape))
        of_phi = torch.bmm(wide, slope, out=space.take("slopes", *phi.shape))
        own_dk.copy_(real_rows(keys.pull(projected.x, phi, of_phi, space), absent))
        own_dv.copy_(real_rows(of_values, absent))


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
