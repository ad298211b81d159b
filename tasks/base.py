"""The contract of a task: examples in three disjoint splits, a head, and what chance would score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from tasks.heads import PairHead, SequenceHead, TokenHead

SplitName = Literal["train", "dev", "test"]

#: Targets that do not count, in loss and metric alike (torch's cross-entropy default).
IGNORE = -100


class MissingData(Exception):
    """Data that cannot be had here; one line says how to get them, and begins with `task.data_dir`."""


@dataclass(frozen=True)
class Examples:
    """One split, whole, in memory; `n` rows of one document each, or of `documents`.

    tokens: integers `[n, seq_len]` or `[n, documents, seq_len]`, padded on the right with the task's `pad_id`.
    Any integer dtype: a task keeps the narrowest that holds its ids, and a batch is widened on its device.
    targets: int64 `[n]` (one class a row) or integers `[n, seq_len]` (one a token, `IGNORE` elsewhere).
    lengths: integers `[n]` or `[n, documents]`, the number of real tokens of a document. What is padding
    follows from them alone: `pad_id` may also be the id of a real token.
    global_mask: bool like `tokens`, True at tokens (a question's, say) that every token may attend and that
    attend every token, for methods that have such; None leaves the choice to the method.
    padding: bool like `tokens`, True at tokens no one attends, where they are not just those from `lengths` on.
    tags: name -> numbers `[n]`: by what to break the test's accuracy down (a needle's depth, say), or None.
    """

    tokens: Tensor
    targets: Tensor
    lengths: Tensor
    global_mask: Tensor | None = None
    padding: Tensor | None = None
    tags: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        shape = self.tokens.shape
        if len(shape) not in (2, 3) or self.targets.shape[:1] != shape[:1] or self.lengths.shape != shape[:-1]:
            raise ValueError(
                f"examples disagree: tokens {tuple(self.tokens.shape)}, targets {tuple(self.targets.shape)}, "
                f"lengths {tuple(self.lengths.shape)}"
            )
        for name in ("global_mask", "padding"):
            mask: Tensor | None = getattr(self, name)
            if mask is not None and mask.shape != shape:
                raise ValueError(f"examples disagree: tokens {tuple(shape)}, {name} {tuple(mask.shape)}")
        for name, tag in (self.tags or {}).items():
            if tag.shape != shape[:1]:
                raise ValueError(f"examples disagree: tokens {tuple(shape)}, tag {name} {tuple(tag.shape)}")

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def rows(self, index: Tensor) -> Examples:
        """The examples at `index` (int64 `[m]`), in that order."""
        global_mask = None if self.global_mask is None else self.global_mask[index]
        padding = None if self.padding is None else self.padding[index]
        tags = None if self.tags is None else {name: tag[index] for name, tag in self.tags.items()}
        return Examples(self.tokens[index], self.targets[index], self.lengths[index], global_mask, padding, tags)

    def padding_mask(self) -> Tensor | None:
        """bool like `tokens`, True at padding; None when no document is padded.

        It is `padding` where a task gives one, else what `lengths` leave over.
        """
        if self.padding is not None:
            return self.padding
        n = self.tokens.shape[-1]
        if bool((self.lengths == n).all()):
            return None
        return torch.arange(n) >= self.lengths[..., None]


class Task(ABC):
    """A data set with a metric and a head.

    The constructor's keyword-only arguments are the task's parameters: one YAML in `conf/task/`
    sets them, and a value outside its range raises ValueError naming the parameter and what is allowed.
    The harness gives `seq_len`, `seed` and, to a class that takes it, `data_dir`, a folder with files (str or
    None): where the data are, and no part of what they are.
    """

    #: Whether the usual form of this task is causal; the `causal` axis overrides it.
    causal: ClassVar[bool] = False
    #: One target a token (True) or one a sequence (False).
    per_token: ClassVar[bool] = False
    #: Documents a row, all of them encoded alike; the head takes their hidden states together.
    documents: ClassVar[int] = 1
    metric: ClassVar[str] = "accuracy"
    pad_id: ClassVar[int] = 0

    def __init__(self, *, seq_len: int, seed: int) -> None:
        self.seq_len = seq_len
        self.seed = seed

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of distinct token ids, padding included."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Size of the output distribution."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """Accuracy in [0, 1] of the best answer that ignores the input."""

    @abstractmethod
    def examples(self, split: SplitName) -> Examples:
        """The whole split. Same parameters and seed, same bits; the three splits share no example."""

    def why_missing(self) -> str | None:
        """One line on why the data cannot be had and how to get them, before reading; None if nothing is known.

        `examples` raises MissingData with such a line.
        """
        return None

    def head(self, width: int, pooling: str, hidden_dim: int | None = None, norm: str = "none") -> nn.Module:
        """The module from hidden states `[B, N, width]` (and padding mask) to logits.

        Of a task of two documents they are `[B, 2, N, width]`. `hidden_dim` is the width of the classifier's
        hidden layer, None for `width`, and `norm` what is done to pooled vectors (`heads.POOLED_NORMS`); a task
        of one target a token pools nothing and has neither.
        """
        if self.per_token:
            return TokenHead(width, self.num_classes)
        if self.documents == 2:
            return PairHead(width, self.num_classes, pooling, hidden_dim=hidden_dim, norm=norm)
        return SequenceHead(width, self.num_classes, pooling, hidden_dim, norm)


def joined(parts: Sequence[Examples]) -> Examples:
    """The rows of all `parts`, at least one, in their order; all have the same shapes, masks and tags, or none."""
    masks = [part.global_mask for part in parts if part.global_mask is not None]
    padding = [part.padding for part in parts if part.padding is not None]
    tags = [part.tags for part in parts if part.tags is not None]
    return Examples(
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.targets for part in parts]),
        torch.cat([part.lengths for part in parts]),
        torch.cat(masks) if masks else None,
        torch.cat(padding) if padding else None,
        {name: torch.cat([tag[name] for tag in tags]) for name in tags[0]} if tags else None,
    )


def majority_share(labels: Tensor) -> float:
    """Share of the most frequent of the labels, whole numbers `[n]`: what no constant answer passes."""
    return float(torch.bincount(labels).max()) / len(labels)


def score(logits: Tensor, targets: Tensor) -> tuple[int, int]:
    """(correct, counted) over the targets that are not `IGNORE`; logits `[..., classes]`, targets `[...]`."""
    counted = targets != IGNORE
    correct = (logits.argmax(dim=-1) == targets) & counted
    return int(correct.sum()), int(counted.sum())
