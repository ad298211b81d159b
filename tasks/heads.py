"""Output heads: for a class a sequence, a class a pair of sequences, and a class a token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: How a sequence becomes one vector: the output of a learned token that the model puts before it (LRA's CLS),
#: the mean over real tokens, or the output at the first or the last real token. Then what others call the mean:
#: over all positions, padding included (LRA), and the real tokens' sum over the padded length (Nystromformer).
POOLINGS = ("cls", "mean", "first", "last", "mean_with_padding", "sum_over_length")
#: What is done to the vectors before the classifier.
POOLED_NORMS = ("none", "batch")


def pool(hidden: Tensor, padding: Tensor | None, pooling: str) -> Tensor:
    """Reduce hidden states `[B, N, E]` to `[B, E]`; `padding` is True at pads, seen by `mean_with_padding` alone.

    `cls` is the first row, as `first` is: a model with a CLS gives its head that row alone.
    """
    if pooling in ("cls", "first"):
        return hidden[:, 0]
    if padding is None or pooling == "mean_with_padding":
        return hidden[:, -1] if pooling == "last" else hidden.mean(dim=1)
    real = (~padding).to(hidden.dtype)
    if pooling != "last":
        total = (hidden * real[..., None]).sum(dim=1)
        return total / (hidden.shape[1] if pooling == "sum_over_length" else real.sum(dim=1).clamp_min(1)[:, None])
    last = hidden.shape[1] - 1 - real.flip(1).argmax(dim=1)  # there may be padding in the middle
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]


class PooledNorm(nn.BatchNorm1d):
    """`batch`: each feature of pooled vectors `[B, E]` standardised over the batch, or by running means (eval).

    Pooled sequences of one kind differ little from their mean, which hides from a gradient what tells them
    apart. No parameters; a batch of one row has no spread and takes the running means.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """`[B, E]` -> `[B, E]`."""
        if len(pooled) > 1 or not self.training:
            return super().forward(pooled)
        return nn.functional.batch_norm(pooled, self.running_mean, self.running_var, eps=self.eps)


def pooled_norm(kind: str, width: int) -> nn.Module:
    """The module for `kind`, one of `POOLED_NORMS`; ValueError for another."""
    if kind not in POOLED_NORMS:
        raise ValueError(f"pooled_norm={kind!r}: expected one of {', '.join(POOLED_NORMS)}")
    return PooledNorm(width) if kind == "batch" else nn.Identity()


def check_pooling(pooling: str) -> None:
    """ValueError unless `pooling` is one of `POOLINGS`."""
    if pooling not in POOLINGS:
        raise ValueError(f"pooling={pooling!r}: expected one of {', '.join(POOLINGS)}")


class SequenceHead(nn.Module):
    """Pool, then width -> hidden_dim (null: width) -> classes with a ReLU between, as in Long Range Arena."""

    def __init__(
        self, width: int, classes: int, pooling: str, hidden_dim: int | None = None, norm: str = "none"
    ) -> None:
        super().__init__()
        check_pooling(pooling)
        self.pooling, self.norm = pooling, pooled_norm(norm, width)
        hidden_dim = width if hidden_dim is None else hidden_dim
        self.hidden = nn.Linear(width, hidden_dim)
        self.classes = nn.Linear(hidden_dim, classes)

    def forward(self, hidden: Tensor, padding: Tensor | None = None) -> Tensor:
        """Hidden states `[B, N, E]`, padding bool `[B, N]` or None -> logits `[B, classes]`."""
        pooled = self.norm(pool(hidden, padding, self.pooling))
        logits: Tensor = self.classes(torch.relu(self.hidden(pooled)))
        return logits


class PairHead(nn.Module):
    """Pool both documents a and b, and classify what they are together, with ReLUs between.

    With `interaction` as in Nystromformer's and Skyformer's experiments: [a, b, a b, a - b] -> hidden_dim ->
    classes. Without it as in Long Range Arena (matching): [a, b] -> hidden_dim -> hidden_dim / 2 -> classes.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        pooling: str,
        interaction: bool = True,
        hidden_dim: int | None = None,
        norm: str = "none",
    ) -> None:
        super().__init__()
        check_pooling(pooling)
        self.pooling, self.interaction, self.norm = pooling, interaction, pooled_norm(norm, width)
        hidden_dim = width if hidden_dim is None else hidden_dim
        last_dim = hidden_dim if interaction else max(hidden_dim // 2, 1)
        self.hidden = nn.Linear((4 if interaction else 2) * width, hidden_dim)
        self.narrow = nn.Identity() if interaction else nn.Sequential(nn.Linear(hidden_dim, last_dim), nn.ReLU())
        self.classes = nn.Linear(last_dim, classes)

    def forward(self, hidden: Tensor, padding: Tensor | None = None) -> Tensor:
        """Hidden states `[B, 2, N, E]`, padding bool `[B, 2, N]` or None -> logits `[B, classes]`."""
        mask = None if padding is None else padding.flatten(0, 1)
        pooled = self.norm(pool(hidden.flatten(0, 1), mask, self.pooling))
        first, second = pooled[0::2], pooled[1::2]
        parts = [first, second]
        if self.interaction:
            parts += [first * second, first - second]
        combined = torch.relu(self.hidden(torch.cat(parts, dim=-1)))
        logits: Tensor = self.classes(self.narrow(combined))
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
