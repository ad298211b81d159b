"""Normalised kernel attention phi(Q) (phi(K)^T V) in time linear in N, streamed, with a backward by hand.

Out row i is sum_j (phi(q_i) . phi(k_j)) v_j / sum_j phi(q_i) . phi(k_j). Features exist for one block of rows
at a time, small enough to stay in cache, and are computed again in the backward: kept are q, k, v, the output,
a row's mass, and the two sums over keys (phi(k) v^T and phi(k)) of each head.

Features with a logarithmic scale are stabilised by constants that the gradient holds constant: a query's own
largest feature; for keys the largest of one head of one sequence, in the causal form of the keys so far. The
map's floor is added to stabilised features, so only through it does a constant show (chosen by the paper).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from methods.ops.features import FeatureMap
from methods.ops.tiles import CACHED_SCORES, DEVICE_SCORES, Workspace

LOW = -1e30
"""Below any logarithm of a feature, yet finite: differences of it are 0, not NaN."""


class Problem(NamedTuple):
    """One attention over heads laid side by side: maps, and which keys are real (`[G, N]` bool, None: all)."""

    queries: FeatureMap
    keys: FeatureMap
    real: Tensor | None


class Sums(NamedTuple):
    """What all keys so far leave behind: phi(k) v^T `[G, m, D]`, phi(k) `[G, m]`, their stabiliser `[G]`."""

    moments: Tensor
    mass: Tensor
    top: Tensor


def room(device: torch.device) -> int:
    """Numbers in the features of one block."""
    return CACHED_SCORES if device.type == "cpu" else DEVICE_SCORES


def spread(n: int, size: int) -> list[slice]:
    """The fewest stretches of at most `size` rows that cover n, of equal length but for the last."""
    size = -(-n // max(1, -(-n // max(1, size))))
    return [slice(start, min(start + size, n)) for start in range(0, n, max(1, size))]


def blocks(heads: int, n: int, width: int, device: torch.device) -> tuple[list[slice], list[slice]]:
    """(groups of heads, stretches of tokens) whose blocks fill the cache; two heads at least, one for each core."""
    budget = max(1, room(device) // width)  # rows
    together = max(min(2, heads), min(heads, budget // n))
    return spread(heads, together), spread(n, max(1, budget // together))


def slabs(real: Tensor | None, width: int, *tensors: Tensor) -> Iterator[tuple[Tensor | None, list[Tensor]]]:
    """Tensors `[B, H, N, ...]` as heads side by side, `[G, N, ...]`, and their real keys `[G, N]`.

    Where that takes a copy, large batches go one sequence at a time and small ones are copied.
    """
    batch, heads, n = tensors[0].shape[:3]
    if batch == 1 or heads * n * width < room(tensors[0].device):
        keys = None if real is None else real.repeat_interleave(heads, dim=0)
        yield keys, [x.flatten(0, 1) for x in tensors]
        return
    for i in range(batch):
        yield None if real is None else real[i].expand(heads, n), [x[i] for x in tensors]


def block(x: Tensor, hs: slice, ts: slice, space: Workspace) -> Tensor:
    """Rows of x `[G, N, D]` in the workspace's dtype."""
    return x[hs, ts].to(space.dtype)


def real_block(
    x: Tensor, real: Tensor | None, hs: slice, ts: slice, space: Workspace
) -> tuple[Tensor, Tensor | None]:
    """Rows of keys or values with 0 at padding, and which rows are real (None: all)."""
    rows = block(x, hs, ts, space)
    if real is None or bool(real[hs, ts].all()):
        return rows, None
    return rows.masked_fill(~real[hs, ts, None], 0.0), real[hs, ts]


def key_features(
    x: Tensor, projected: Tensor, top: Tensor | None, real: Tensor | None, keys: FeatureMap, space: Workspace
) -> Tensor:
    """phi(k) `[g, c, m]` at scale exp(-top), top `[g, c]`; 0 at padding, without the floor."""
    phi = keys.evaluate(x, projected, top, space)
    return phi if real is None else phi.masked_fill_(~real[..., None], 0.0)


def reached(x: Tensor, projected: Tensor, real: Tensor | None, keys: FeatureMap) -> Tensor | None:
    """Logarithm of each key's largest feature `[g, c]`, LOW at padding; None where features have no scale."""
    level = keys.level(x, projected)
    return level if level is None or real is None else level.masked_fill(~real, LOW)


def row_times(rows: Tensor, matrix: Tensor) -> Tensor:
    """`[g, c]`, `[g, c, m]` -> `[g, m]`: the sum of the matrix's rows with these weights."""
    return torch.bmm(rows[:, None], matrix)[:, 0]


def sum_keys(k: Tensor, v: Tensor, problem: Problem, hs: slice, stretches: list[slice], space: Workspace) -> Sums:
    """The sums over all keys of a group of heads, the floor included."""
    keys = problem.keys
    g, dim = hs.stop - hs.start, v.shape[-1]
    moments = space.take("moments", g, keys.width, dim).zero_()
    mass = k.new_zeros(g, keys.width, dtype=space.dtype)
    top = k.new_full((g,), LOW, dtype=space.dtype)
    plain, count = k.new_zeros(g, dim, dtype=space.dtype), k.new_zeros(g, dtype=space.dtype)
    for ts in stretches:
        x, real = real_block(k, problem.real, hs, ts, space)
        values, _ = real_block(v, problem.real, hs, ts, space)
        projected = keys.project(x, space, "phi")
        level = reached(x, projected, real, keys)
        if level is not None:
            raised = torch.maximum(top, level.amax(dim=1))
            decay = (top - raised).exp_()
            moments.mul_(decay[:, None, None])
            mass.mul_(decay[:, None])
            top = raised
        shift = None if level is None else top[:, None].expand_as(level)
        phi = key_features(x, projected, shift, real, keys, space)
        moments.baddbmm_(phi.transpose(1, 2), values)
        mass.add_(phi.sum(dim=1))
        plain.add_(values.sum(dim=1))
        count.add_(x.shape[1] if real is None else real.sum(dim=1))
    if keys.floor:
        moments.add_(plain[:, None], alpha=keys.floor)
        mass.add_(count[:, None], alpha=keys.floor)
    return Sums(moments, mass, top)


def query_features(x: Tensor, queries: FeatureMap, space: Workspace) -> Tensor:
    """phi(q) `[g, c, m]`, each row at the scale of its largest feature, without the floor."""
    projected = queries.project(x, space, "phi")
    return queries.evaluate(x, projected, queries.level(x, projected), space)


def divisor(mass: Tensor) -> Tensor:
    """What a row is divided by: its mass, of whatever sign, or 1 where there is none."""
    return mass.masked_fill(mass == 0, 1.0)


def widened(x: Tensor, column: Tensor | float, space: Workspace) -> Tensor:
    """`[g, c, D]` with one more column, `[g, c]` or a constant."""
    g, c, dim = x.shape
    out = space.take("widened", g, c, dim + 1)
    out[..., :dim] = x
    out[..., dim] = column
    return out


def weighted(grad: Tensor, out: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a row before division, from those after it, `[g, c, D]`, and of its mass, `[g, c]`."""
    of_rows = grad / mass[..., None]
    return of_rows, -torch.linalg.vecdot(of_rows, out)


def attend(x: Tensor, sums: Sums, queries: FeatureMap, space: Workspace, mass: Tensor, out: Tensor) -> None:
    """Rows of the output, into `out` `[g, c, D]`, and what they were divided by, into `mass` `[g, c]`."""
    phi = query_features(x, queries, space)
    rows = torch.bmm(phi, sums.moments, out=space.take("rows", *out.shape))
    total = torch.bmm(sums.mass[:, None], phi.transpose(1, 2))[:, 0]
    if queries.floor:
        rows.add_(sums.moments.sum(dim=1, keepdim=True), alpha=queries.floor)
        total.add_(sums.mass.sum(dim=1, keepdim=True), alpha=queries.floor)
    mass.copy_(divisor(total))
    torch.div(rows, mass[..., None], out=out)


class _Bidirectional(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, queries: FeatureMap, keys: FeatureMap, real: Tensor | None
    ) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        space = Workspace(q.device, wide)
        batch, heads, n, dim = v.shape
        out = torch.empty(v.shape, device=v.device, dtype=v.dtype)
        mass = torch.empty(batch, heads, n, device=v.device, dtype=wide)
        kept = any(ctx.needs_input_grad)
        state = mass.new_empty(batch if kept else 0, heads, keys.width, dim + 1).flatten(0, 1)
        tops = mass.new_empty(batch * heads)
        first = 0
        for own, (qs, ks, vs, masses, outs) in slabs(real, keys.width, q, k, v, mass, out):
            groups, stretches = blocks(qs.shape[0], n, keys.width, q.device)
            for hs in groups:
                sums = sum_keys(ks, vs, Problem(queries, keys, own), hs, stretches, space)
                for ts in stretches:
                    attend(block(qs, hs, ts, space), sums, queries, space, masses[hs, ts], outs[hs, ts])
                if kept:
                    place = slice(first + hs.start, first + hs.stop)
                    torch.cat([sums.moments, sums.mass[..., None]], dim=-1, out=state[place])
                    tops[place] = sums.top
            first += qs.shape[0]
        ctx.maps = queries, keys
        ctx.save_for_backward(q, k, v, out, mass, state, tops, real)
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, out, mass, state, tops, real = ctx.saved_tensors
        queries, keys = ctx.maps
        space = Workspace(q.device, mass.dtype)
        grads = [torch.empty(x.shape, device=x.device, dtype=x.dtype) for x in (q, k, v)]
        first = 0
        for own, parts in slabs(real, keys.width, q, k, v, mass, out, grad, *grads):
            qs, ks, vs, masses, outs, above, dq, dk, dv = parts
            groups, stretches = blocks(qs.shape[0], q.shape[2], keys.width, q.device)
            for hs in groups:
                place = slice(first + hs.start, first + hs.stop)
                rows = above, outs, masses
                slope = _pull_queries(qs, rows, state[place], queries, hs, stretches, space, dq)
                problem = Problem(queries, keys, own)
                _pull_keys(ks, vs, slope, tops[place], problem, hs, stretches, space, dk, dv)
            first += qs.shape[0]
        return *grads, None, None, None


def _pull_queries(
    q: Tensor,
    rows: tuple[Tensor, Tensor, Tensor],
    state: Tensor,
    queries: FeatureMap,
    hs: slice,
    stretches: list[slice],
    space: Workspace,
    dq: Tensor,
) -> Tensor:
    """Gradients of queries, into dq, and of the sums over keys `[g, m, D + 1]`; rows: (gradient, out, mass)."""
    g, width, columns = state.shape
    moments = space.take("moments", g, width, columns - 1).zero_()
    mass = state.new_zeros(g, width)
    plain = state.new_zeros(g, columns)
    for ts in stretches:
        x = block(q, hs, ts, space)
        phi = query_features(x, queries, space)
        of_rows, of_mass = weighted(*(block(part, hs, ts, space) for part in rows))
        moments.baddbmm_(phi.transpose(1, 2), of_rows)
        mass.add_(row_times(of_mass, phi))
        both = widened(of_rows, of_mass, space)
        plain.add_(both.sum(dim=1))
        grad = torch.bmm(both, state.transpose(1, 2), out=space.take("slopes", *phi.shape))
        dq[hs, ts] = queries.pull(x, phi, grad, space)
    slope = torch.cat([moments, mass[..., None]], dim=-1)
    return slope.add_(plain[:, None], alpha=queries.floor) if queries.floor else slope


def _pull_keys(
    k: Tensor,
    v: Tensor,
    slope: Tensor,
    top: Tensor,
    problem: Problem,
    hs: slice,
    stretches: list[slice],
    space: Workspace,
    dk: Tensor,
    dv: Tensor,
) -> None:
    """Gradients of keys and values, into dk and dv, from that of their sums `[g, m, D + 1]`."""
    keys = problem.keys
    of_moments = slope[..., :-1].contiguous()
    for ts in stretches:
        x, real = real_block(k, problem.real, hs, ts, space)
        values, _ = real_block(v, problem.real, hs, ts, space)
        shift = top[:, None].expand(x.shape[:2]) if keys.levelled else None
        phi = key_features(x, keys.project(x, space, "phi"), shift, real, keys, space)
        of_values = torch.bmm(phi, of_moments, out=space.take("rows", *values.shape))
        if keys.floor:
            of_values.add_(of_moments.sum(dim=1, keepdim=True), alpha=keys.floor)
        both = widened(values, 1.0, space)
        grad = torch.bmm(both, slope.transpose(1, 2), out=space.take("slopes", *phi.shape))
        of_keys = keys.pull(x, phi, grad, space)
        if real is not None:
            of_values.masked_fill_(~real[..., None], 0.0)
            of_keys.masked_fill_(~real[..., None], 0.0)
        dk[hs, ts], dv[hs, ts] = of_keys, of_values


def kernelised_attention(
    q: Tensor, k: Tensor, v: Tensor, queries: FeatureMap, keys: FeatureMap, padding: Tensor | None
) -> Tensor:
    """phi(Q) (phi(K)^T V), rows divided by phi(Q) (phi(K)^T 1): q, k, v `[B, H, N, D]` -> `[B, H, N, D]`.

    padding is bool `[B, N]`, True at keys of weight 0. A row's mass keeps its sign; a row of mass 0 is 0.
    """
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out: Tensor = _Bidirectional.apply(q, k, v, queries, keys, None if padding is None else ~padding)
    return out
