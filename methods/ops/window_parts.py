"""The three parts of windowed attention and their backwards: the band, columns that all rows share, whole rows.

Everything is in the dtype of its workspace and without autograd. Tensors are `[B, H, N, C]`: q, k, v, out and
grad with C = D; the logsumexp, its negative `floor` and `delta` = grad . out with C = 1. Logits are in units of
ln 2: torch's exp has a slow path on CPUs for -inf and for what underflows, exp2 has none. Weights that are too
small to matter (2^-100 of the largest, in float32) are 0: products with denormal numbers are 100 times slower.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from methods.ops.bands import Pattern, gather, lanes, pieces, scatter, strands
from methods.ops.tiles import LOG2_E, Workspace, attend, exp2_, groups

LOW = -1e30
"""Below any logit, yet finite: differences of it are 0, not NaN."""

SHALLOW = 40.0
"""Logits up to this size, in units of ln 2, need no maximum taken off: the weights stay normal numbers."""

SAMPLE = 64
"""Rows a head whose norms tell whether it is worth trying without."""


@dataclass(frozen=True)
class Call:
    """What is the same in all parts of one call."""

    pattern: Pattern
    scale: float
    deep: bool
    """Whether logits may be large, so that weights need a maximum taken off and may underflow."""
    space: Workspace


def deep(q: Tensor, k: Tensor, scale: float, rows: int) -> bool:
    """Whether |q| |k| of so many rows a head allows logits beyond `SHALLOW`; accelerators do not wait to know."""
    if q.device.type != "cpu":
        return True
    step = max(1, q.shape[2] // rows)
    longest = [torch.linalg.vector_norm(x[:, :, ::step], dim=-1).max() for x in (q, k)]
    return not bool(longest[0] * longest[1] * (scale * LOG2_E) <= SHALLOW)


def band(call: Call, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> Call:
    """Fills out and lse with the softmax over the band. Returns the call, deep if logits proved to be large.

    Without padding every row sees itself, so that its logsumexp tells whether sums overflowed or vanished; a
    row without a key would look the same, so that with padding all norms are looked at before.
    """
    call = replace(call, deep=deep(q, k, call.scale, SAMPLE if call.pattern.padding is None else q.shape[2]))
    _fill_band(call, q, k, v, out, lse)
    if not call.deep and call.pattern.padding is None and not bool((lse.abs() <= 1.5 * SHALLOW).all()):
        call = replace(call, deep=True)
        _fill_band(call, q, k, v, out, lse)
    return call


def _fill_band(call: Call, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> None:
    hidden = _hidden_keys(call.pattern, q)
    for own, (queries, keys, values, result, mass, *hide) in strands(
        call.pattern.heads, q, k, v, out, lse, *hidden
    ):
        for piece in pieces(queries, own.left, own.right):
            rows, reach = piece.rows(queries), piece.reach(keys)
            weights = call.space.take("weights", *rows.shape[:2], reach.shape[1])
            weights.copy_(piece.bias)
            multiply_(weights, rows, reach.transpose(1, 2), call.scale * LOG2_E)
            for mask in hide:
                weights.masked_fill_(piece.reach(mask).transpose(1, 2), -math.inf)
            if call.deep:
                top = weights.amax(dim=-1, keepdim=True).clamp_min_(LOW)
                total = exp2_(weights.sub_(top)).sum(dim=-1, keepdim=True)
                piece.rows(mass).copy_(total.log2().add_(top))
            else:
                total = weights.exp2_().sum(dim=-1, keepdim=True)
                piece.rows(mass).copy_(total.log2())
            if hide:
                total.masked_fill_(total == 0, 1.0)
            target = piece.rows(result)
            product(call, target, weights, piece.reach(values), fresh=True)
            target.div_(total)


def band_backward(call: Call, given: tuple[Tensor, ...], into: tuple[Tensor, Tensor, Tensor]) -> None:
    """Adds to dq, and fills dk and dv, from q, k, v, grad, floor, delta (see `transposed`)."""
    hidden = _hidden_keys(call.pattern, given[0])
    for own, views in strands(call.pattern.heads, *given, *into, *hidden):
        queries, keys, values, grad, floor, delta, dq, dk, dv, *hide = views
        for piece in pieces(queries, own.right, own.left):
            rows, reach, slope = piece.rows(keys), piece.reach(queries), piece.reach(grad)
            mask = piece.rows(hide[0]) if hide else None
            weights, slopes = transposed(
                call,
                rows,
                piece.rows(values),
                reach,
                slope,
                piece.reach(floor),
                piece.reach(delta),
                bias=piece.bias,
                hidden=mask,
            )
            product(call, piece.rows(dv), weights, slope, fresh=True)
            product(call, piece.rows(dk), slopes, reach, call.scale, fresh=True)
            share = call.space.take("share", *reach.shape)
            piece.add_to_reach(dq, multiply_(share, slopes.transpose(1, 2), rows, call.scale, fresh=True))


def columns(call: Call, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> None:
    """Takes the shared keys into out and lse."""
    for part in _shared(call.pattern, q, out, lse, gather(k, call.pattern.index), gather(v, call.pattern.index)):
        hidden, (queries, result, mass, keys, values) = part
        for own, rows, hide in _blocks(hidden, queries):
            weights = call.space.take("weights", *hide.shape)
            at = queries[own, rows].transpose(1, 2)
            multiply_(weights, keys[own], at, call.scale * LOG2_E, fresh=True)
            weights.masked_fill_(hide, -math.inf)
            old = mass[own, rows].transpose(1, 2)
            top = torch.maximum(weights.amax(dim=1, keepdim=True), old).clamp_min_(LOW)
            rest = torch.exp2(old - top)
            total = powers_(weights.sub_(top), call.deep).sum(dim=1, keepdim=True).add_(rest)
            old.copy_(total.log2().add_(top))
            total.masked_fill_(total == 0, 1.0)
            target = result[own, rows].mul_(rest.div_(total).transpose(1, 2))
            product(call, target, weights.div_(total).transpose(1, 2), values[own])


def columns_backward(call: Call, given: tuple[Tensor, ...], into: tuple[Tensor, Tensor, Tensor]) -> None:
    """Adds what passes through the shared keys to dq, dk and dv; the arguments of `band_backward`."""
    q, k, v, *rest = given
    dq, dk, dv = into
    keys_, values_ = gather(k, call.pattern.index), gather(v, call.pattern.index)
    dkeys_, dvalues_ = torch.zeros_like(keys_), torch.zeros_like(values_)
    for hidden, views in _shared(call.pattern, q, *rest, dq, keys_, values_, dkeys_, dvalues_):
        queries, grad, floor, delta, dqueries, keys, values, dkeys, dvalues = views
        for own, rows, hide in _blocks(hidden, queries):
            at, slope = queries[own, rows], grad[own, rows]
            weights, slopes = transposed(
                call, keys[own], values[own], at, slope, floor[own, rows], delta[own, rows], hidden=hide
            )
            product(call, dvalues[own], weights, slope)
            product(call, dkeys[own], slopes, at, call.scale)
            product(call, dqueries[own, rows], slopes.transpose(1, 2), keys[own], call.scale)
    scatter(dk, call.pattern.index, dkeys_)
    scatter(dv, call.pattern.index, dvalues_)


def rows(call: Call, queries: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of shared positions: queries `[B, H, G, D]` over all keys -> out, and lse `[B, H, G, 1]`."""
    out, lse = torch.empty_like(queries), queries.new_empty((*queries.shape[:3], 1))
    unseen = call.pattern.unseen(k.shape[2])
    for batch, (own, keys, values, result, mass) in lanes(queries, k, v, out, lse):
        bias = None
        if unseen is not None:
            hide = _of_lanes(unseen, batch, own.shape[0]).expand(-1, own.shape[1], -1)
            bias = torch.zeros_like(hide, dtype=own.dtype).masked_fill_(hide, -math.inf)
        found, found_lse = attend(own, keys, values, bias, call.scale)
        result.copy_(found)
        mass.copy_(found_lse[..., None] * LOG2_E)
    return out, lse


def rows_backward(call: Call, given: tuple[Tensor, ...], into: tuple[Tensor, Tensor], *, fresh: bool) -> Tensor:
    """dq `[B, H, G, D]` of the whole rows, from queries, k, v, grad, lse, delta of theirs.

    dk and dv `[B, H, N, D]` are filled if `fresh`, else added to.
    """
    queries, k, v, grad, lse, delta = given
    floor = lse.masked_fill(lse.isneginf(), 0.0).neg_()
    if call.pattern.used is not None:
        floor.masked_fill_(~call.pattern.used[:, None, :, None], -math.inf)
    dq = torch.zeros_like(queries)
    unseen = call.pattern.unseen(k.shape[2])
    for batch, views in lanes(queries, grad, floor, delta, dq, k, v, *into):
        own, slope, own_floor, own_delta, downs, keys, values, dkeys, dvalues = views
        hidden = None if unseen is None else _of_lanes(unseen, batch, own.shape[0])
        for low, high in groups(keys.shape[1], 2 * own.shape[1], own.device):
            for a, z in groups(own.shape[0], 2 * own.shape[1] * (high - low), own.device):
                hide = None if hidden is None else hidden[a:z] if hidden.shape[0] > 1 else hidden
                weights, slopes = transposed(
                    call,
                    keys[a:z, low:high],
                    values[a:z, low:high],
                    own[a:z],
                    slope[a:z],
                    own_floor[a:z],
                    own_delta[a:z],
                    hidden=None if hide is None else hide[..., low:high].transpose(1, 2),
                )
                product(call, dvalues[a:z, low:high], weights, slope[a:z], fresh=fresh)
                product(call, dkeys[a:z, low:high], slopes, own[a:z], call.scale, fresh=fresh)
                product(call, downs[a:z], slopes.transpose(1, 2), keys[a:z, low:high], call.scale)
    return dq


def transposed(
    call: Call,
    keys: Tensor,
    values: Tensor,
    queries: Tensor,
    grad: Tensor,
    floor: Tensor,
    delta: Tensor,
    *,
    bias: Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The weights of keys `[T, m, D]` for queries `[T, n, D]`, and the gradient of their logits: `[T, m, n]`.

    Floor and delta `[T, n, 1]` are those of the whole softmax, of which these keys may be a part; a floor of
    -inf marks a query without weights here. bias `[m, n]` is added; `hidden` broadcasts, True where no weight.
    """
    shape = (*keys.shape[:2], queries.shape[1])
    weights, slopes = call.space.take("weights", *shape), call.space.take("slopes", *shape)
    if bias is None:
        weights.copy_(floor.transpose(1, 2).expand(shape))
    else:
        torch.add(bias, floor.transpose(1, 2), out=weights)
    multiply_(weights, keys, queries.transpose(1, 2), call.scale * LOG2_E)
    if hidden is not None:
        weights.masked_fill_(hidden, -math.inf)
    powers_(weights, call.deep)
    torch.bmm(values, grad.transpose(1, 2), out=slopes)
    return weights, slopes.sub_(delta.transpose(1, 2)).mul_(weights)


def product(call: Call, into: Tensor, a: Tensor, b: Tensor, scale: float = 1.0, *, fresh: bool = False) -> None:
    """into = scale a b if `fresh`, else += that; torch is fast only into contiguous memory."""
    if into.is_contiguous():
        multiply_(into, a, b, scale, fresh=fresh)
        return
    part = multiply_(call.space.take("part", *into.shape), a, b, scale, fresh=True)
    if fresh:
        into.copy_(part)
    else:
        into.add_(part)


def multiply_(into: Tensor, a: Tensor, b: Tensor, scale: float, *, fresh: bool = False) -> Tensor:
    """Contiguous into = scale a b if `fresh`, else += that."""
    return torch.baddbmm(into, a, b, beta=0 if fresh else 1, alpha=scale, out=into)


def powers_(x: Tensor, deep: bool) -> Tensor:
    """2^x in place, with the guard against denormals where exponents may be `deep`."""
    return exp2_(x) if deep else x.exp2_()


def dots(call: Call, grad: Tensor, out: Tensor) -> Tensor:
    """(grad . out) of every row, `[B, H, N, 1]`."""
    delta = out.new_empty((*out.shape[:3], 1))
    for _, (slope, result, dot) in lanes(grad, out, delta):
        for a, z in groups(result.shape[0], result[0].numel(), out.device):
            both = torch.mul(slope[a:z], result[a:z], out=call.space.take("weights", *result[a:z].shape))
            torch.sum(both, dim=-1, keepdim=True, out=dot[a:z])
    return delta


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
    """(lanes, rows, bool `[lanes, G, rows]`) of stretches that fit the cache with their scores."""
    keys, dim = hidden.shape[1], queries.shape[2]
    for low, high in groups(queries.shape[1], 2 * keys, queries.device):
        for a, z in groups(queries.shape[0], (keys + dim) * (high - low) // 2, queries.device):
            hide = hidden[a:z] if hidden.shape[0] > 1 else hidden
            yield slice(a, z), slice(low, high), hide[..., low:high].expand(z - a, -1, -1)
