"""Angular hashing by random rotations (Reformer, section 2, "Locality sensitive hashing"; Andoni et al. 2015).

h(x) = argmax([xR; -xR]) with Gaussian R. The argmax is taken of values rounded down to 2^-17 of their size in
float32 (2^-46 in float64): their last bits carry the column, so that one vectorised maximum finds value and place.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from methods.ops.tiles import Workspace, scores_at_once

FACTORISED_ABOVE = 128
"""Buckets from which on a hash is a pair of smaller hashes, as in trax: b columns become about 2 sqrt(b)."""


def bucket_factors(buckets: int) -> tuple[int, ...]:
    """Even factors whose product is `buckets`, or the next larger one that has two even factors.

    `buckets` itself up to FACTORISED_ABOVE, else two of similar size, the first a power of two.
    """
    if buckets <= FACTORISED_ABOVE:
        return (buckets,)
    first = 1 << (math.isqrt(buckets).bit_length() - 1)
    return (first, 2 * math.ceil(buckets / (2 * first)))


def columns(factors: tuple[int, ...]) -> int:
    """Columns of R in one round: half of every factor, the other half being their negatives."""
    return sum(factor // 2 for factor in factors)


def draw_rotations(
    heads: int, rounds: int, dim: int, factors: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Gaussian R `[heads, rounds, dim, columns]`, an own one for every head and round."""
    return torch.empty(heads, rounds, dim, columns(factors)).normal_(generator=generator)


def hash_buckets(x: Tensor, rotations: Tensor, factors: tuple[int, ...], space: Workspace) -> Tensor:
    """Vectors `[B, H, N, D]` and R `[H, R, D, columns]` -> buckets int32 `[B, H, R, N]`.

    A bucket is below the product of factors. Works in the workspace's dtype, float32 or float64. A vector of
    zeros has some fixed bucket, one that is not finite any.
    """
    batch, heads, n, dim = x.shape
    rounds, width = rotations.shape[1], rotations.shape[3]
    flat = rotations.to(space.dtype).transpose(1, 2).flatten(2)
    integer = torch.int32 if space.dtype == torch.float32 else torch.int64
    low = (1 << (max(factors) // 2 - 1).bit_length()) - 1
    # a column's number within its factor, for the bits that the mask clears
    place = torch.cat([torch.arange(factor // 2, dtype=integer, device=x.device) for factor in factors])
    rows = x.transpose(0, 1).reshape(heads, batch * n, dim).to(space.dtype)
    buckets = torch.empty(heads, batch * n, rounds, dtype=torch.int32, device=x.device)
    room = scores_at_once(x.device)
    step = max(1, room // (heads * rounds * width))
    for start in range(0, batch * n, step):
        part = rows[:, start : start + step]
        rotated = torch.bmm(part, flat, out=space.take("scores", heads, part.shape[1], rounds * width))
        split = rotated.view(heads, -1, rounds, width)
        split.view(integer).bitwise_and_(~low).bitwise_or_(place)
        halves = torch.split(split, [factor // 2 for factor in factors], dim=-1)
        found = [_argmax(half, low, integer) for half in halves]
        buckets[:, start : start + step] = found[0] if len(found) == 1 else found[0] * factors[1] + found[1]
    return buckets.view(heads, batch, n, rounds).permute(1, 0, 3, 2).contiguous()


def _argmax(packed: Tensor, low: int, integer: torch.dtype) -> Tensor:
    """argmax([y; -y]) over the last axis of y whose last bits are the place."""
    half = packed.shape[-1]
    top, bottom = packed.amax(dim=-1), packed.amin(dim=-1)
    positive = top >= -bottom
    place = torch.where(positive, top, bottom).view(integer).bitwise_and_(low).clamp_(max=half - 1)
    return torch.where(positive, place, place + half)


def sort_by_bucket(buckets: Tensor, many: int, padding: Tensor | None) -> Tensor:
    """Positions int64 `[B, H, R, N]` in the order of (bucket below `many`, position); padding bool `[B, N]` last.

    Padding has a bucket of its own behind all others, as in trax and Hugging Face.
    """
    if padding is not None:
        last = torch.iinfo(torch.int16 if many < 1 << 15 else buckets.dtype).max
        buckets = buckets.masked_fill(padding[:, None, None], last)
    if buckets.device.type == "cpu" and many < 1 << 15:  # numpy sorts 16-bit numbers by radix, five times as fast
        return torch.from_numpy(np.argsort(buckets.to(torch.int16).numpy(), axis=-1, kind="stable"))
    return torch.sort(buckets, dim=-1, stable=True).indices
