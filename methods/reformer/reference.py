"""Reformer's attention by N x N matrices, written from the paper: the oracle of the tests and of the recall."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.ops.dense import masked_softmax
from methods.reformer.chunks import Rules


def multiplicity(buckets: Tensor, order: Tensor, padding: Tensor | None, rules: Rules) -> Tensor:
    """N_ij `[B, H, N, N]` (eq. 15): in how many rounds key j is a candidate of query i, itself not counted.

    buckets by position and order by rank, int64 `[B, H, R, N]`; padding bool `[B, N]`.
    """
    batch, heads, rounds, n = order.shape
    counts = order.new_zeros(batch, heads, n, n)
    chunk = [order[:, :, r].argsort(dim=-1) // rules.chunk for r in range(rounds)]
    last = -(-n // rules.chunk)
    for r in range(rounds):
        query = chunk[r][..., :, None]
        for step in range(-rules.back, rules.ahead + 1):
            found = chunk[r][..., None, :] == query + step
            if rules.bucket_mask:
                found &= buckets[:, :, r, :, None] == buckets[:, :, r, None, :]
            counts += found
            if rules.wrap:  # the rounds form a ring of chunks
                ring = (query + step + r * last) % (rounds * last)
                beyond = (query + step < 0) | (query + step >= last)
                for other in range(rounds):
                    counts += beyond & (chunk[other][..., None, :] + other * last == ring)
    position = torch.arange(n, device=order.device)
    seen = position[:, None] > position if rules.causal else position[:, None] != position
    counts = counts * seen
    if padding is not None:
        counts = counts * (~padding[:, None, None, :] & ~padding[:, None, :, None])
    return counts


def logits(q: Tensor, every: Tensor, scale: float) -> Tensor:
    """scale q_i . q_j / |q_j|, `[..., M, N]` of M queries and all N; a zero vector is the key zero."""
    norm = torch.linalg.vector_norm(every, dim=-1, keepdim=True)
    keys = every / torch.where(norm > 0, norm, torch.ones_like(norm))
    return scale * q @ keys.transpose(-1, -2)


def target_logits(q: Tensor, every: Tensor, first: int, scale: float, causal: bool) -> Tensor:
    """`logits` with all pairs as candidates: what hashing approximates. A token sees itself if nothing else."""
    found = logits(q, every, scale)
    i = first + torch.arange(q.shape[-2], device=q.device)[:, None]
    j = torch.arange(every.shape[-2], device=q.device)
    others = j < i if causal else j != i
    allowed = others | ((j == i) & ~others.any(dim=-1, keepdim=True))
    return found.masked_fill(~allowed, float("-inf"))


def attention(q: Tensor, v: Tensor, counts: Tensor, padding: Tensor | None, rules: Rules) -> Tensor:
    """One softmax over the multiset of candidates, weights N_ij exp(logit), or over their set (eq. 16).

    A token without any attends itself; padding gives 0. q, v `[B, H, N, D]`, counts of `multiplicity`.
    """
    n = q.shape[-2]
    alone = (counts == 0).all(dim=-1, keepdim=True)
    itself = torch.eye(n, dtype=torch.bool, device=q.device)
    allowed = (counts > 0) | (alone & itself)
    if padding is not None:
        allowed = allowed & ~padding[:, None, :, None]
    scores = logits(q, q, rules.scale)
    if not rules.deduplicate:
        scores = scores + counts.clamp_min(1).to(scores.dtype).log()
    return masked_softmax(scores, allowed) @ v
