"""The causal form of kernelised attention: chunks with a running state, and one token at a time.

Row i sees keys j <= i: pairs inside its chunk as a small masked product, all earlier chunks through the sums
[v, 1]^T phi(k) that they left (the prefix sums of Choromanski et al. 2021, section 2.5.1, in blocks). The
backward walks the chunks twice: forward with the sums for the queries, back with the sums' gradient for keys and
values; nothing of size N x m, nor a state a chunk, is kept.

Keys are stabilised by the largest feature of the keys so far, and sums are rescaled as it grows: a maximum over
all keys would let the future in through the floor. The floor of a key counts in the scale of its own time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from methods.ops.features import FeatureMap
from methods.ops.kernelised import (
    LOW,
    before_division,
    pieces,
    query_features,
    real_rows,
    room,
    slabs,
    spread,
    with_ones,
)
from methods.ops.tiles import Workspace

CHUNK = 128
"""Tokens of a chunk: its pairs cost CHUNK / D of what its features do, its steps 1 / CHUNK of their number."""


class Scales(NamedTuple):
    """What the running stabiliser makes of a chunk; all None where it does not change in it."""

    pairs: Tensor | None
    """`[g, c, c]`: key j's scale in row i."""
    before: Tensor | None
    """`[g, c, 1]`: the earlier state's scale in row i."""
    after: Tensor | None
    """`[g, c, 1]`: key j's scale in the later state."""
    decay: Tensor | None
    """`[g, 1, 1]`: the earlier state's scale in the later one."""


def _scales(run: Tensor | None, top: Tensor) -> Scales:
    """From the stabilisers of the chunk's keys `[g, c]` and the one before them `[g, 1]`."""
    if run is None or (run.device.type == "cpu" and not bool((run[:, -1:] > top).any())):
        return Scales(None, None, None, None)
    last = run[:, -1:]
    return Scales(
        (run[:, None] - run[..., None]).exp_(),
        (top - run).exp_()[..., None],
        (run - last).exp_()[..., None],
        (top - last).exp_()[..., None],
    )


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x.mul_(scale)


def _add_product(x: Tensor, scale: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """x times scale, plus a b, in place of x."""
    return torch.baddbmm(_scaled(x, scale), a, b, out=x)


def _floored(phi: Tensor, floor: float, space: Workspace, name: str) -> Tensor:
    return torch.add(phi, floor, out=space.take(name, *phi.shape)) if floor else phi


def _masked(pairs: Tensor, scales: Scales) -> Tensor:
    """Pairs `[g, c, c]` at their scale, 0 in the future."""
    return _scaled(pairs, scales.pairs).tril_()


class _Keys(NamedTuple):
    """The keys of a chunk: rows, powers, features with the floor, [v, 1], and their scales."""

    x: Tensor
    powers: Tensor
    phi: Tensor
    values: Tensor
    run: Tensor | None
    scales: Scales


def _keys(
    x: Tensor,
    v: Tensor,
    padding: Tensor | None,
    run: Tensor | None,
    top: Tensor,
    keys: FeatureMap,
    space: Workspace,
) -> _Keys:
    """A chunk of keys `[g, c, D]`; run: their stabilisers `[g, c]`, None to find them from the one before."""
    projected = keys.project(real_rows(x.to(space.dtype), padding), space, "phi_k")
    if run is None and keys.levelled:
        level = keys.level(projected)
        assert level is not None
        level = level if padding is None else level.masked_fill_(padding, LOW)
        run = torch.cat([top, level], dim=1).cummax(dim=1).values[:, 1:]
    shift = run if run is None or padding is None else run.masked_fill(padding, float("inf"))
    powers = keys.evaluate(projected, shift, space)
    phi = _floored(powers, keys.floor, space, "floored_k")
    values = with_ones(v.to(space.dtype), padding, space)
    return _Keys(projected.x, powers, phi, values, run, _scales(run, top))


def _advance(state: Tensor, own: _Keys) -> None:
    """state `[g, D + 1, m]` after a chunk; scales the chunk's [v, 1]."""
    _add_product(state, own.scales.decay, _scaled(own.values, own.scales.after).transpose(1, 2), own.phi)


def _last(own: _Keys, top: Tensor) -> Tensor:
    return top if own.run is None else own.run[:, -1:]


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, queries: FeatureMap, keys: FeatureMap, padding: Tensor | None
    ) -> Tensor:
        space = Workspace(q.device, torch.promote_types(q.dtype, torch.float32))
        batch, heads, n, dim = v.shape
        out = torch.empty(v.shape, device=v.device, dtype=v.dtype)
        mass, runs = torch.empty(2, batch, heads, n, device=v.device, dtype=space.dtype)
        rows = room(keys.width, q.shape[-1], q.device)
        for absent, parts in slabs(padding, rows, q, k, v, mass, runs, out):
            for hs in spread(parts[0].shape[0], _together(rows, q.shape[2])):
                own = [None if x is None else x[hs] for x in (absent, *parts)]
                state = space.take("state", hs.stop - hs.start, dim + 1, keys.width).zero_()
                top = state.new_full((state.shape[0], 1), LOW)
                for absent_, x, k_, v_, mass_, run_, out_ in pieces(CHUNK, *own):
                    chunk = _keys(k_, v_, absent_, None, top, keys, space)
                    phi = query_features(x.to(space.dtype), queries, space)
                    phi = phi.add_(queries.floor) if queries.floor else phi
                    both = torch.bmm(phi, state.transpose(1, 2), out=space.take("rows", *x.shape[:2], dim + 1))
                    pairs = torch.bmm(phi, chunk.phi.transpose(1, 2), out=_square(space, x, "pairs"))
                    _add_product(both, chunk.scales.before, _masked(pairs, chunk.scales), chunk.values)
                    total = both[..., -1]
                    mass_.copy_(total.masked_fill_(total == 0, 1.0))
                    torch.div(both[..., :-1], both[..., -1:], out=out_)
                    _advance(state, chunk)
                    top = _last(chunk, top)
                    if chunk.run is not None:
                        run_.copy_(chunk.run)
        ctx.maps = queries, keys
        ctx.save_for_backward(q, k, v, out, mass, runs if keys.levelled else None, padding)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, out, mass, runs, padding = ctx.saved_tensors
        queries, keys = ctx.maps
        space = Workspace(q.device, mass.dtype)
        grads = [torch.empty(x.shape, device=x.device, dtype=x.dtype) for x in (q, k, v)]
        rows = room(keys.width, q.shape[-1], q.device)
        runs = mass if runs is None else runs  # of no use then, but as long
        for absent, parts in slabs(padding, rows, q, k, v, grad, out, mass, runs, *grads):
            for hs in spread(parts[0].shape[0], _together(rows, q.shape[2])):
                own = [x[hs] for x in parts]
                tops = _tops(own[6], CHUNK)
                cut = pieces(CHUNK, None if absent is None else absent[hs], *own)
                chunks = [(*piece, top) for piece, top in zip(cut, tops, strict=True)]
                state = space.take("state", hs.stop - hs.start, v.shape[-1] + 1, keys.width)
                _pull_queries(chunks, state.zero_(), queries, keys, space)
                _pull_keys(chunks, state.zero_(), queries, keys, space)
        return *grads, None, None, None


def _together(rows: int, n: int) -> int:
    """Heads whose chunks are done at once; two a thread at least."""
    return max(2 * torch.get_num_threads(), rows // min(CHUNK, n))


def _square(space: Workspace, x: Tensor, name: str) -> Tensor:
    return space.take(name, x.shape[0], x.shape[1], x.shape[1])


def _tops(runs: Tensor, size: int) -> list[Tensor]:
    """The stabiliser before each chunk, `[g, 1]`, from that of every key `[g, N]`."""
    first = runs.new_full((runs.shape[0], 1), LOW)
    return [first if i == 0 else runs[:, i - 1 : i] for i in range(0, runs.shape[1], size)]


def _pull_queries(
    chunks: list[tuple[Any, ...]], state: Tensor, queries: FeatureMap, keys: FeatureMap, space: Workspace
) -> None:
    """Gradients of queries, from the first chunk to the last."""
    for absent, q, k, v, grad, out, mass, run, dq, _, _, top in chunks:
        own = _keys(k, v, absent, run if keys.levelled else None, top, keys, space)
        x = q.to(space.dtype)
        powers = query_features(x, queries, space)
        above = before_division(grad.to(space.dtype), out.to(space.dtype), mass, space)
        of_pairs = torch.bmm(above, own.values.transpose(1, 2), out=_square(space, x, "of_pairs"))
        of_phi = torch.bmm(above, state, out=space.take("slopes", *powers.shape))
        _add_product(of_phi, own.scales.before, _masked(of_pairs, own.scales), own.phi)
        queries.pull(x, powers, of_phi, space, dq)
        _advance(state, own)


def _pull_keys(
    chunks: list[tuple[Any, ...]], slope: Tensor, queries: FeatureMap, keys: FeatureMap, space: Workspace
) -> None:
    """Gradients of keys and values, from the last chunk to the first; slope: that of the state after a chunk."""
    for absent, q, k, v, grad, out, mass, run, _, dk, dv, top in reversed(chunks):
        own = _keys(k, v, absent, run if keys.levelled else None, top, keys, space)
        phi = _floored(query_features(q.to(space.dtype), queries, space), queries.floor, space, "floored_q")
        above = before_division(grad.to(space.dtype), out.to(space.dtype), mass, space)
        pairs = torch.bmm(phi, own.phi.transpose(1, 2), out=_square(space, q, "pairs"))
        of_pairs = torch.bmm(above, own.values.transpose(1, 2), out=_square(space, q, "of_pairs"))
        of_values = torch.bmm(own.phi, slope.transpose(1, 2), out=space.take("rows", *above.shape))
        _add_product(of_values, own.scales.after, _masked(pairs, own.scales).transpose(1, 2), above)
        of_phi = torch.bmm(_scaled(own.values, own.scales.after), slope, out=space.take("slopes", *phi.shape))
        _add_product(of_phi, None, _masked(of_pairs, own.scales).transpose(1, 2), phi)
        keys.pull(own.x, own.powers, of_phi, space, dk)
        if absent is not None:
            dk.masked_fill_(absent[..., None], 0.0)
        dv.copy_(real_rows(of_values[..., :-1], absent))
        _add_product(slope, own.scales.decay, _scaled(above, own.scales.before).transpose(1, 2), phi)


def causal_kernelised_attention(
    q: Tensor, k: Tensor, v: Tensor, queries: FeatureMap, keys: FeatureMap, padding: Tensor | None
) -> Tensor:
    """`kernelised_attention` under j <= i: q, k, v `[B, H, N, D]`, padding bool `[B, N]` -> `[B, H, N, D]`."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out: Tensor = _Causal.apply(q, k, v, queries, keys, padding)  # type: ignore[no-untyped-call]
    return out


class State(NamedTuple):
    """What the tokens so far leave: [v, 1]^T phi(k) `[B, H, D + 1, m]` and the stabiliser `[B, H, 1]`."""

    sums: Tensor
    top: Tensor


def empty_state(batch: int, heads: int, dim: int, width: int, device: torch.device, dtype: torch.dtype) -> State:
    """The state before the first token, in float32 at least."""
    sums = torch.zeros(
        batch, heads, dim + 1, width, device=device, dtype=torch.promote_types(dtype, torch.float32)
    )
    return State(sums, sums.new_full((batch, heads, 1), LOW))


def attend_next(
    q: Tensor, k: Tensor, v: Tensor, state: State, queries: FeatureMap, keys: FeatureMap
) -> tuple[Tensor, State]:
    """One token k, v `[B, H, 1, D]`, R queries `[B, H, R, D]`, O(R m D): output, next state; no gradient."""
    with torch.no_grad():
        space = Workspace(q.device, state.sums.dtype)
        sums, top = state.sums.flatten(0, 1).clone(), state.top.flatten(0, 1)
        own = _keys(k.flatten(0, 1), v.flatten(0, 1), None, None, top, keys, space)
        _advance(sums, own)
        phi = query_features(q.flatten(0, 1).to(space.dtype), queries, space).add_(queries.floor)
        both = torch.bmm(phi, sums.transpose(1, 2))
        total = both[..., -1:]
        out = (both[..., :-1] / total.masked_fill(total == 0, 1.0)).view(*q.shape[:-1], -1).to(v.dtype)
        return out, State(sums.view(state.sums.shape), _last(own, top).view(state.top.shape))


def absorb(k: Tensor, v: Tensor, state: State, keys: FeatureMap) -> State:
    """The state after tokens k, v `[B, H, n, D]`, a chunk at a time; no gradient."""
    with torch.no_grad():
        space = Workspace(k.device, state.sums.dtype)
        sums, top = state.sums.flatten(0, 1).clone(), state.top.flatten(0, 1)
        k, v = k.flatten(0, 1), v.flatten(0, 1)
        for start in range(0, k.shape[1], CHUNK):
            rows = slice(start, start + CHUNK)
            own = _keys(k[:, rows], v[:, rows], None, None, top, keys, space)
            _advance(sums, own)
            top = _last(own, top).clone()
        return State(sums.view(state.sums.shape), top.view(state.top.shape))
