"""Sequences of different lengths end to end in one tensor, and keys split among workers: two uses of the tiles."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from methods.ops.online import Tiling, tiled_attention
from methods.ops.scoring import Scoring, spans
from methods.ops.tiles import merge
from methods.ops.traffic import Traffic


def pack(x: Tensor, key_padding_mask: Tensor) -> tuple[Tensor, Tensor]:
    """`[B, H, N, D]` without its padding -> `[1, H, T, D]` with the rows of all real tokens, and cu_seqlens.

    The mask is bool `[B, N]`, True at padding; cu_seqlens is int64 `[B + 1]`: 0 and where each row ends.
    """
    real = ~key_padding_mask
    ends = torch.nn.functional.pad(real.sum(dim=1).cumsum(dim=0), (1, 0))
    return x.transpose(1, 2)[real].transpose(0, 1)[None], ends


def unpack(packed: Tensor, key_padding_mask: Tensor) -> Tensor:
    """The inverse of `pack`: `[1, H, T, D]` -> `[B, H, N, D]`, 0 at padding."""
    out = packed.new_zeros(*key_padding_mask.shape, packed.shape[1], packed.shape[3])
    out[~key_padding_mask] = packed[0].transpose(0, 1)
    return out.transpose(1, 2)


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    scoring: Scoring | None = None,
    *,
    tiling: Tiling | None = None,
    traffic: Traffic | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention within each of the sequences packed into `[1, H, T, D]`; out and its logsumexp `[1, H, T]`.

    cu_seqlens `[B + 1]` runs from 0 to T, as in flash-attn's varlen interface. Tiles of two sequences that
    do not meet are skipped. ValueError for boundaries that do not rise from 0 to T.
    """
    ends = [int(end) for end in cu_seqlens.tolist()]
    if not ends or ends[0] != 0 or ends[-1] != q.shape[2] or sorted(ends) != ends:
        raise ValueError(f"cu_seqlens={ends}: expected numbers that rise from 0 to {q.shape[2]}")
    within = replace(scoring or Scoring(), boundaries=ends)
    return tiled_attention(q, k, v, within, tiling=tiling, traffic=traffic)


def split_attention(q: Tensor, k: Tensor, v: Tensor, parts: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Attention with the keys cut into `parts` that know nothing of each other, merged by their logsumexp.

    How a few queries keep many workers busy (Flash-Decoding). q `[B, H, Nq, D]`, k, v `[B, H, Nk, D]`; no
    gradient. Blocks and packed sequences are not split.
    """
    if scoring.blocks is not None or scoring.boundaries is not None:
        raise ValueError("scoring: expected neither blocks nor boundaries where the keys are split")
    found: tuple[Tensor, Tensor] | None = None
    for keys in spans(k.shape[2], -(-k.shape[2] // parts)):
        padding = scoring.padding
        own = replace(
            scoring,
            offset=scoring.offset - keys.first,
            padding=None if padding is None else padding[:, keys.first : keys.last],
        )
        part = tiled_attention(q, k[:, :, keys.first : keys.last], v[:, :, keys.first : keys.last], own)
        found = part if found is None else merge(*found, *part)
    assert found is not None
    return found
