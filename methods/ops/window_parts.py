"""The three parts of windowed attention and their backwards: the band, columns that all rows share, whole rows.

Everything is in the dtype of its workspace and without autograd. Tensors are `[B, H, N, C]`: q, k, v, out and
grad with C = D; the logsumexp, its negative `floor` and `delta` = grad . out with C = 1. Logits are in units of
ln 2: torch's exp has a slow path on CPUs for -inf and for what underflows, exp2 has none. Weights that are too
small to matter (2^-100 of the largest, in float32) are 0: products with denormal numbers are 100 times slower.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.ops.bands import lanes, pieces, strands
from methods.ops.tiles import LOG2_E, Workspace, attend, groups

if TYPE_CHECKING:
    from methods.ops.windows import Pattern

LOW = -1e30
"""Below any logit, yet finite: differences of it are 0, not NaN."""


def band(
    pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, space: Workspace
) -> None:
    """Fills out and lse with the softmax over the band."""
    hidden = _hidden_keys(pattern, q)
    for own, (queries, keys, values, result, mass, *hide) in strands(pattern.heads, q, k, v, out, lse, *hidden):
        for piece in pieces(*queries.shape[:2], own.left, own.right, queries):
            rows, reach = piece.rows(queries), piece.reach(keys)
            weights = space.take("weights", *rows.shape[:2], reach.shape[1])
            weights.copy_(piece.bias)
            weights.baddbmm_(rows, reach.transpose(1, 2), alpha=scale * LOG2_E)
            for mask in hide:
                weights.masked_fill_(piece.reach(mask).transpose(1, 2), -math.inf)
            top = weights.amax(dim=-1, keepdim=True).clamp_min_(LOW)
            total = exp2_(weights.sub_(top)).sum(dim=-1, keepdim=True)
            piece.rows(mass).copy_(total.log2().add_(top))
            if hide:
                total.masked_fill_(total == 0, 1.0)
            target = piece.rows(result)
            product(target, weights, piece.reach(values), 1.0, space, fresh=True)
            target.div_(total)


def band_backward(
    pattern: Pattern,
    given: tuple[Tensor, ...],
    into: tuple[Tensor, Tensor, Tensor],
    scale: float,
    space: Workspace,
) -> None:
    """Adds to dq, and fills dk and dv, from q, k, v, grad, floor, delta (see `transposed`)."""
    hidden = _hidden_keys(pattern, given[0])
    for own, views in strands(pattern.heads, *given, *into, *hidden):
        queries, keys, values, grad, floor, delta, dq, dk, dv, *hide = views
        for piece in pieces(*queries.shape[:2], own.right, own.left, queries):
            rows, reach, slope = piece.rows(keys), piece.reach(queries), piece.reach(grad)
            mask = piece.rows(hide[0]) if hide else None
            weights, slopes = transposed(
                rows, piece.rows(values), reach, slope, piece.reach(floor), piece.reach(delta), scale, space,
                bias=piece.bias, hidden=mask,
            )  # fmt: skip
            product(piece.rows(dv), weights, slope, 1.0, space, fresh=True)
            product(piece.rows(dk), slopes, reach, scale, space, fresh=True)
            share = space.take("share", *reach.shape)
            piece.add_to_reach(dq, share.baddbmm_(slopes.transpose(1, 2), rows, beta=0, alpha=scale))


def columns(
    pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, space: Workspace
) -> None:
    """Takes the shared keys into out and lse."""
    for part in _shared(pattern, q, out, lse, gather(k, pattern.shared), gather(v, pattern.shared)):
        hidden, (queries, result, mass, keys, values) = part
        for own, rows, hide in _blocks(hidden, queries):
            weights = space.take("weights", *hide.shape)
            weights.baddbmm_(keys[own], queries[own, rows].transpose(1, 2), beta=0, alpha=scale * LOG2_E)
            weights.masked_fill_(hide, -math.inf)
            old = mass[own, rows].transpose(1, 2)
            top = torch.maximum(weights.amax(dim=1, keepdim=True), old).clamp_min_(LOW)
            rest = torch.exp2(old - top)
            total = exp2_(weights.sub_(top)).sum(dim=1, keepdim=True).add_(rest)
            old.copy_(total.log2().add_(top))
            total.masked_fill_(total == 0, 1.0)
            target = result[own, rows].mul_(rest.div_(total).transpose(1, 2))
            product(target, weights.div_(total).transpose(1, 2), values[own], 1.0, space)


def columns_backward(
    pattern: Pattern,
    given: tuple[Tensor, ...],
    into: tuple[Tensor, Tensor, Tensor],
    scale: float,
    space: Workspace,
) -> None:
    """Adds what passes through the shared keys to dq, dk and dv; the arguments of `band_backward`."""
    q, k, v, *rest = given
    dq, dk, dv = into
    keys_, values_ = gather(k, pattern.shared), gather(v, pattern.shared)
    dkeys_, dvalues_ = torch.zeros_like(keys_), torch.zeros_like(values_)
    for hidden, views in _shared(pattern, q, *rest, dq, keys_, values_, dkeys_, dvalues_):
        queries, grad, floor, delta, dqueries, keys, values, dkeys, dvalues = views
        for own, rows, hide in _blocks(hidden, queries):
            at, slope = queries[own, rows], grad[own, rows]
            weights, slopes = transposed(
                keys[own], values[own], at, slope, floor[own, rows], delta[own, rows], scale, space, hidden=hide
            )
            product(dvalues[own], weights, slope, 1.0, space)
            product(dkeys[own], slopes, at, scale, space)
            product(dqueries[own, rows], slopes.transpose(1, 2), keys[own], scale, space)
    scatter(dk, pattern.shared, dkeys_)
    scatter(dv, pattern.shared, dvalues_)


def rows(pattern: Pattern, queries: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The rows of shared positions: queries `[B, H, G, D]` over all keys -> out, and lse `[B, H, G, 1]`."""
    out, lse = torch.empty_like(queries), queries.new_empty((*queries.shape[:3], 1))
    unseen = pattern.unseen(k.shape[2])
    for batch, (own, keys, values, result, mass) in lanes(queries, k, v, out, lse):
        bias = None
        if unseen is not None:
            hide = _of_lanes(unseen, batch, own.shape[0]).expand(-1, own.shape[1], -1)
            bias = torch.zeros_like(hide, dtype=own.dtype).masked_fill_(hide, -math.inf)
        found, found_lse = attend(own, keys, values, bias, scale)
        result.copy_(found)
        mass.copy_(found_lse[..., None] * LOG2_E)
    return out, lse


def rows_backward(
    pattern: Pattern,
    given: tuple[Tensor, ...],
    into: tuple[Tensor, Tensor],
    scale: float,
    space: Workspace,
    *,
    fresh: bool,
) -> Tensor:
    """dq `[B, H, G, D]` of the whole rows, from queries, k, v, grad, lse, delta of theirs.

    dk and dv `[B, H, N, D]` are filled if `fresh`, else added to.
    """
    queries, k, v, grad, lse, delta = given
    floor = lse.masked_fill(lse.isneginf(), 0.0).neg_()
    if pattern.used is not None:
        floor.masked_fill_(~pattern.used[:, None, :, None], -math.inf)
    dq = torch.zeros_like(queries)
    unseen = pattern.unseen(k.shape[2])
    for batch, views in lanes(queries, grad, floor, delta, dq, k, v, *into):
        own, slope, own_floor, own_delta, downs, keys, values, dkeys, dvalues = views
        hidden = None if unseen is None else _of_lanes(unseen, batch, own.shape[0])
        for low, high in groups(keys.shape[1], own.shape[1], own.device):
            for a, z in groups(own.shape[0], own.shape[1] * (high - low), own.device):
                hide = None if hidden is None else hidden[a:z] if hidden.shape[0] > 1 else hidden
                weights, slopes = transposed(
                    keys[a:z, low:high], values[a:z, low:high], own[a:z], slope[a:z], own_floor[a:z], own_delta[a:z],
                    scale, space, hidden=None if hide is None else hide[..., low:high].transpose(1, 2),
                )  # fmt: skip
                product(dvalues[a:z, low:high], weights, slope[a:z], 1.0, space, fresh=fresh)
                product(dkeys[a:z, low:high], slopes, own[a:z], scale, space, fresh=fresh)
                product(downs[a:z], slopes.transpose(1, 2), keys[a:z, low:high], scale, space)
    return dq


def transposed(
    keys: Tensor,
    values: Tensor,
    queries: Tensor,
    grad: Tensor,
    floor: Tensor,
    delta: Tensor,
    scale: float,
    space: Workspace,
    *,
    bias: Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The weights of keys `[T, m, D]` for queries `[T, n, D]`, and the gradient of their logits: `[T, m, n]`.

    Floor and delta `[T, n, 1]` are those of the whole softmax, of which these keys may be a part; a floor of
    -inf marks a query without weights here. bias `[m, n]` is added; `hidden` broadcasts, True where no weight.
    """
    shape = (*keys.shape[:2], queries.shape[1])
    weights, slopes = space.take("weights", *shape), space.take("slopes", *shape)
    if bias is None:
        weights.copy_(floor.transpose(1, 2).expand(shape))
    else:
        torch.add(bias, floor.transpose(1, 2), out=weights)
    weights.baddbmm_(keys, queries.transpose(1, 2), alpha=scale * LOG2_E)
    if hidden is not None:
        weights.masked_fill_(hidden, -math.inf)
    exp2_(weights)
    torch.bmm(values, grad.transpose(1, 2), out=slopes)
    return weights, slopes.sub_(delta.transpose(1, 2)).mul_(weights)


def product(into: Tensor, a: Tensor, b: Tensor, scale: float, space: Workspace, *, fresh: bool = False) -> None:
    """into = scale a b if `fresh`, else += that."""
    if into.is_contiguous():
        into.baddbmm_(a, b, beta=0 if fresh else 1, alpha=scale)
        return
    part = space.take("part", *into.shape).baddbmm_(a, b, beta=0, alpha=scale)  # fast only into contiguous memory
    if fresh:
        into.copy_(part)
    else:
        into.add_(part)


def exp2_(x: Tensor) -> Tensor:
    """2^x in place; 0 where neither it nor its product with a slope could be held as a normal number."""
    return F.threshold(x, math.log2(torch.finfo(x.dtype).tiny) + 26, -math.inf, inplace=True).exp2_()


def dots(grad: Tensor, out: Tensor, space: Workspace) -> Tensor:
    """(grad . out) of every row, `[B, H, N, 1]`."""
    delta = out.new_empty((*out.shape[:3], 1))
    for _, (slope, result, dot) in lanes(grad, out, delta):
        for a, z in groups(result.shape[0], result[0].numel(), out.device):
            both = torch.mul(slope[a:z], result[a:z], out=space.take("weights", *result[a:z].shape))
            torch.sum(both, dim=-1, keepdim=True, out=dot[a:z])
    return delta


def gather(x: Tensor, index: Tensor) -> Tensor:
    """`[B, H, N, C]` at positions int64 `[B or 1, G]` -> `[B, H, G, C]`."""
    return x.take_along_dim(index[:, None, :, None], dim=2)


def scatter(into: Tensor, index: Tensor, values: Tensor) -> None:
    """The transpose of `gather`: into `[B, H, N, C]` += values `[B, H, G, C]` where they came from."""
    into.scatter_add_(2, index[:, None, :, None].expand_as(values), values)


def _hidden_keys(pattern: Pattern, q: Tensor) -> list[Tensor]:
    """[bool `[B, H, N, 1]`, True at padding], or nothing."""
    if pattern.padding is None:
        return []
    return [pattern.padding[:, None, :, None].expand(-1, q.shape[1], -1, -1).contiguous()]


def _shared(pattern: Pattern, *xs: Tensor) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """For heads with one band, and sequences that merge: (hidden `[1 or L, G, N]`, the tensors `[L, ., C]`)."""
    for heads in pattern.heads:
        hidden = pattern.hidden(heads.band, xs[0].shape[2])
        for batch, views in lanes(*(x[:, heads.first : heads.last] for x in xs)):
            yield _of_lanes(hidden, batch, views[0].shape[0]), views


def _of_lanes(mask: Tensor, batch: slice, count: int) -> Tensor:
    """`[B or 1, ...]` for `count` lanes that are the heads of the batch rows in `batch`: `[1 or count, ...]`."""
    if mask.shape[0] == 1:
        return mask
    mask = mask[batch]
    return mask if mask.shape[0] == 1 else mask.repeat_interleave(count // mask.shape[0], dim=0)


def _blocks(hidden: Tensor, queries: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """(lanes, rows, bool `[lanes, G, rows]`) of stretches whose scores against G keys fit the cache."""
    for low, high in groups(queries.shape[1], hidden.shape[1], queries.device):
        for a, z in groups(queries.shape[0], hidden.shape[1] * (high - low), queries.device):
            hide = hidden[a:z] if hidden.shape[0] > 1 else hidden
            yield slice(a, z), slice(low, high), hide[..., low:high].expand(z - a, -1, -1)
