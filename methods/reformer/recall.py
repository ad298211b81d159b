"""How much of full attention the hash rounds find; the paper has 8 rounds close to all of it (table 2, fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.reformer.attention import Reformer
from methods.reformer.hashing import draw_rotations
from methods.reformer.reference import logits


@dataclass(frozen=True)
class Recall:
    """Of what full attention with the same shared queries and keys does, the part within the candidates."""

    rounds: int
    mass: float
    """Mean share of a row's softmax weight, 0 to 1."""
    top: float
    """Mean share of a row's `top_k` heaviest keys, 0 to 1."""


def recall(
    method: Reformer, q: Tensor, rounds: Sequence[int], *, top_k: int = 16, padding: Tensor | None = None
) -> list[Recall]:
    """The recall after each number of rounds, all of one draw; by N x N matrices, for diagnosis.

    q `[B, H, N, D]`, padding bool `[B, N]`. Rows without another key to see are left out. Draws from the
    method's seed, not from its frozen rotations, as there may be more rounds than those.
    """
    shape, most = method.shape, max(rounds)
    generator = torch.Generator().manual_seed(method.seed)
    drawn = draw_rotations(shape.heads, most, shape.head_dim, method.factors, generator).to(q.device)
    n = q.shape[-2]
    position = torch.arange(n, device=q.device)
    seen = position[:, None] > position if shape.causal else position[:, None] != position
    if padding is not None:
        seen = seen & ~padding[:, None, None, :] & ~padding[:, None, :, None]
    seen = seen.expand(q.shape[0], q.shape[1], n, n)
    rows = seen.any(dim=-1)
    scores = logits(q, q, method.rules.scale).masked_fill(~seen, -torch.inf)
    weights = scores.softmax(dim=-1)
    heaviest = scores.topk(min(top_k, n), dim=-1).indices
    real = seen.gather(-1, heaviest)
    found = []
    for count in rounds:
        near = method.candidates(q, drawn[:, :count], padding) > 0
        mass = (weights * near).sum(dim=-1)[rows].mean()
        hits = (near.gather(-1, heaviest) & real).sum(dim=-1)[rows] / real.sum(dim=-1)[rows]
        found.append(Recall(count, float(mass), float(hits.double().mean())))
    return found
