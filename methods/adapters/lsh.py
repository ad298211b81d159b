"""What chunked LSH attention computes, as an N x N matrix: the oracle of the Reformer adapters.

Tokens are sorted by bucket in each round, the rounds laid end to end and cut into chunks; each chunk attends to
itself and to the one before it, the first to the very last. Rounds weighted by their normalisers amount to
one softmax over the multiset of pairs (Kitaev et al. 2020, eq. 14).
"""

from __future__ import annotations

import torch
from torch import Tensor


def pair_counts(buckets: Tensor, chunk: int, *, same_bucket: bool = False, same_round: bool = False) -> Tensor:
    """int `[B, H, N, N]`: how often query i meets key j; `buckets` is int `[B, H, R, N]`.

    `same_bucket` leaves out pairs of different buckets, `same_round` those met across the seam of two rounds.
    """
    batch, heads, rounds, n = buckets.shape
    labels = buckets + (torch.arange(rounds, device=buckets.device) * (int(buckets.max()) + 1))[:, None]
    counts = torch.zeros(batch, heads, n, n, dtype=torch.long, device=buckets.device)
    for b in range(batch):
        for h in range(heads):
            flat = labels[b, h].flatten()
            order = torch.argsort(flat, stable=True).view(-1, chunk)
            neighbours = torch.cat([order, order.roll(1, dims=0)], dim=1)
            met = torch.ones(*order.shape, 2 * chunk, dtype=torch.bool, device=buckets.device)
            if same_bucket:
                met = flat[order][:, :, None] == flat[neighbours][:, None, :]
            if same_round:
                met = met & (order[:, :, None] // n == neighbours[:, None, :] // n)
            where = (order[:, :, None] % n).expand_as(met), (neighbours[:, None, :] % n).expand_as(met)
            counts[b, h].index_put_(where, met.long(), accumulate=True)
    return counts


def multiset_softmax(logits: Tensor, times: Tensor) -> Tensor:
    """Softmax over keys counted `times` each, both `[..., N, N]`; every row must count at least one."""
    return (logits + times.to(logits.dtype).log()).softmax(dim=-1)
