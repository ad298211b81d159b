"""Output heads: for a class a sequence, a class a pair of sequences, and a class a token."""

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
    if pooling == "mean":
        return (hidden * real[..., None]).sum(dim=1) / real.sum(dim=1).clamp_min(1)[:, None]
    last = hidden.shape[1] - 1 - real.flip(1).argmax(dim=1)  # there may be padding in the middle
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


class PairHead(nn.Module):
    """Pool both documents, then [a, b, a b, a - b] -> width -> classes with a ReLU between.

    Long Range Arena's "NLI" interaction, which Nystromformer's and Skyformer's experiments use; LRA's own
    default leaves the last two out (google-research/long-range-arena, matching).
    """

    def __init__(self, width: int, classes: int, pooling: str, interaction: bool = True) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r}: expected one of {', '.join(POOLINGS)}")
        self.pooling, self.interaction = pooling, interaction
        self.hidden = nn.Linear((4 if interaction else 2) * width, width)
        self.classes = nn.Linear(width, classes)

    def forward(self, hidden: Tensor, padding: Tensor | None = None) -> Tensor:
        """Hidden states `[B, 2, N, E]`, padding bool `[B, 2, N]` or None -> logits `[B, classes]`."""
        first, second = (
            pool(hidden.flatten(0, 1), None if padding is None else padding.flatten(0, 1), self.pooling)
            .unflatten(0, (-1, 2))
            .unbind(1)
        )
        parts = [first, second]
        if self.interaction:
            parts += [first * second, first - second]
        logits: Tensor = self.classes(torch.relu(self.hidden(torch.cat(parts, dim=-1))))
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
