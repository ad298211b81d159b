"""Batches of a split: which rows a step takes is a function of the seed and the step, and of nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from bench.cell import derive_seed
from bench.training.distributed import Group
from tasks.registry import IGNORE, Examples

#: A split up to this size is put on the accelerator whole.
RESIDENT_BYTES = 2**30


@dataclass(frozen=True)
class Batch:
    """Rows on their device. Masks are bool like `tokens`: True at padding, True at global tokens, or None."""

    tokens: Tensor
    padding: Tensor | None
    global_mask: Tensor | None
    targets: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What a model takes."""
        return self.tokens, self.padding, self.global_mask


class Objective(Protocol):
    """Another question about the same inputs."""

    def __call__(self, examples: Examples, step: int) -> Examples:
        """Rows of a split, and the number of the step -> the rows to train on."""


class Batches:
    """Endless batches of `size` rows; every epoch in a new order, its last short batch left out.

    With `stratify` every batch holds the classes in their shares of the split, to within one row.
    A batch comes in `pieces`, whose gradients are accumulated, and of each its process's share.
    ValueError when there are fewer rows than pieces, or classes to stratify by that a row has several of.
    """

    def __init__(
        self,
        examples: Examples,
        size: int,
        seed: int,
        group: Group,
        pieces: int = 1,
        objective: Objective | None = None,
        *,
        stratify: bool = False,
    ) -> None:
        self.size = min(size, len(examples))
        if self.size < pieces * group.size:
            raise ValueError(
                f"task.train.accumulate={pieces}: too many pieces for batches of {self.size} training examples "
                f"over {group.size} processes"
            )
        self.count, self.seed, self.group, self.pieces = len(examples), seed, group, pieces
        if stratify and examples.targets.dim() > 1:
            raise ValueError("task.train.stratify=true: this task has a target a token, not one class a sequence")
        self.classes = examples.targets if stratify else None
        self.objective = objective
        self.examples = examples if objective else _resident(examples, group.device)
        self.targets_by_row = _targets_by_row(examples)
        self._order = (-1, torch.empty(0))

    def rows(self, step: int) -> Tensor:
        """The rows int64 `[size]` of step number `step`, from 0."""
        epoch, place = divmod(step, self.count // self.size)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, f"epoch/{epoch}"))
            order = torch.randperm(self.count, generator=generator)
            if self.classes is not None:
                order = order[_interleaved(self.classes[order], generator)]
            self._order = (epoch, order)
        return self._order[1][place * self.size : (place + 1) * self.size]

    def pieces_of(self, step: int) -> tuple[list[Batch], int]:
        """This process's pieces of a batch, and how many targets count in the whole batch."""
        rows, source, targets = self.rows(step), self.examples, self.targets_by_row
        if self.objective is not None:
            source = self.objective(source.rows(rows), step)
            rows, targets = torch.arange(len(source)), _targets_by_row(source)
        own = self.group.share(rows).tensor_split(self.pieces)
        return [load(source, piece, self.group.device) for piece in own], int(targets[rows].sum())


def load(examples: Examples, rows: Tensor, device: str) -> Batch:
    """Rows int64 `[m]` of a split, on the device. The split may lie there already, but for its lengths."""
    where = rows.to(examples.tokens.device)

    def there(tensor: Tensor) -> Tensor:
        chosen = tensor[where]
        if chosen.device.type == "cpu" and device.startswith("cuda"):
            return chosen.pin_memory().to(device, non_blocking=True)
        return chosen.to(device)

    n, lengths = examples.tokens.shape[-1], examples.lengths[rows]
    padding = None
    if examples.padding is not None:
        padding = there(examples.padding)
    elif bool((lengths < n).any()):
        padding = torch.arange(n, device=device) >= lengths.to(device)[..., None]
    globals_ = None if examples.global_mask is None else there(examples.global_mask)
    return Batch(there(examples.tokens), padding, globals_, there(examples.targets).long())


def _interleaved(classes: Tensor, generator: torch.Generator) -> Tensor:
    """Places int64 `[n]` in which the rows of every class, kept in their order, lie evenly spread."""
    spread = torch.empty(len(classes), dtype=torch.float64)
    for value in classes.unique().tolist():  # type: ignore[no-untyped-call]
        rows = (classes == value).nonzero()[:, 0]
        first = torch.rand((), generator=generator, dtype=torch.float64)
        spread[rows] = (torch.arange(len(rows), dtype=torch.float64) + first) / len(rows)
    return spread.argsort(stable=True)


def _targets_by_row(examples: Examples) -> Tensor:
    """How many targets of each row count, int64 `[n]`, on the CPU."""
    return (examples.targets != IGNORE).reshape(len(examples), -1).sum(dim=1)


def _resident(examples: Examples, device: str) -> Examples:
    """The split on the device, where that is another memory and it fits; lengths are always needed here."""
    names = ("tokens", "targets", "global_mask", "padding")
    held = {name: getattr(examples, name) for name in names if getattr(examples, name) is not None}
    if device == "cpu" or sum(tensor.nbytes for tensor in held.values()) > RESIDENT_BYTES:
        return examples
    return replace(examples, **{name: tensor.to(device) for name, tensor in held.items()})
