"""Dense softmax attention under a boolean mask: the definition that references are written in."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(n: int, device: torch.device | None = None) -> Tensor:
    """bool `[n, n]`, True where query i may attend key j <= i."""
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


def later_keys(q: Tensor, k: Tensor, first: int) -> Tensor:
    """bool `[M, N]`, True where key j of N comes after query i of the M from position `first` on."""
    query = first + torch.arange(q.shape[-2], device=q.device)
    return torch.arange(k.shape[-2], device=q.device) > query[:, None]


def allowed_keys(key_padding_mask: Tensor | None) -> Tensor | None:
    """bool `[B, N]`, True at padding -> bool `[B, 1, 1, N]`, True at keys that may be attended."""
    return None if key_padding_mask is None else ~key_padding_mask[:, None, None, :]


def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The conjunction of two optional masks that broadcast against each other."""
    if a is None or b is None:
        return b if a is None else a
    return a & b


def allowed_pairs(
    n: int, causal: bool, key_padding_mask: Tensor | None, device: torch.device | None = None
) -> Tensor | None:
    """What exact attention may attend, broadcast to `[B, 1, n, n]`; None where that is every pair."""
    return both(allowed_keys(key_padding_mask), causal_mask(n, device) if causal else None)


def masked_softmax(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """Softmax over the last axis where `allowed`; a row with nothing allowed is all zeros."""
    if allowed is None:
        return logits.softmax(dim=-1)
    weights = logits.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
    return weights.masked_fill(~allowed, 0.0)


def dense_attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v with N x N scores; `allowed` is bool, broadcast to `[B, H, Nq, Nk]`."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # scaling q spares a pass over the scores
    return masked_softmax(logits, allowed) @ v
