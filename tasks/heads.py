"""Output heads: one for a class a sequence, one for a class a token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

POOLINGS = ("mean", "first", "last")


def pool(hidden: Tensor, padding: Tensor | None, pooling: str) -> Tensor:
    """Reduce hidden states `[B, N, E]` to `[B, E]` over real tokens only; `padding` is True at pads."""
    if pooling == "first":
        return hidden[:, 0]
    if padding is None:
        return hidden.mean(dim=1) if pooling == "mean" else hidden[:, -1]
    real = (~padding).to(hidden.dtype)
    lengths = real.sum(dim=1)
    if pooling == "mean":
        return (hidden * real[..., None]).sum(dim=1) / lengths.clamp_min(1)[:, None]
    last = (lengths.long() - 1).clamp_min(0)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]


class SequenceHead(nn.Module):
    """Pool, then width -> width -> classes with a ReLU between, as in Long Range Arena's classifiers."""

    def __init__(self, width: int, classes: int, pooling: str) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r}: expected one of {', '.join(POOLINGS)}")
        self.pooling = pooling
        self.hidden = nn.Linear(width, width)
        self.classes = nn.Linear(width, classes)

    def forward(self, hidden: Tensor, padding: Tensor | None = None) -> Tensor:
        """Hidden states `[B, N, E]`, padding bool `[B, N]` or None -> logits `[B, classes]`."""
        pooled = pool(hidden, padding, self.pooling)
        logits: Tensor = self.classes(torch.relu(self.hidden(pooled)))
        return logits


class TokenHead(nn.Module):
    """One linear layer at every position."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classes = nn.Linear(width, classes)

    def forward(self, hidden: Tensor, padding: Tensor | None = None) -> Tensor:
        """Hidden states `[B, N, E]` -> logits `[B, N, classes]`; the targets at padding are ignored."""
        logits: Tensor = self.classes(hidden)
        return logits
