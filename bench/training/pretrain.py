"""Self-pretraining on a task's own training inputs, before their labels are seen.

Amos, Berant and Gupta 2023, "Never Train from Scratch", arXiv:2310.02980: from scratch, methods mostly differ in
how easily they are optimised. Every method gets the same steps, batches and masks, and keeps its encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.cell import Cell, derive_seed
from bench.model import Model, seeded
from bench.training.batches import Objective
from tasks.registry import IGNORE, Examples, Task, TokenHead


@dataclass(frozen=True)
class Masked:
    """Predict hidden tokens, a share of the real ones (Devlin et al. 2019); `mask_id` stands for each of them."""

    share: float
    mask_id: int
    seed: int

    def __call__(self, examples: Examples, step: int) -> Examples:
        """The rows with tokens hidden, and the hidden ones as targets int64 like `tokens`."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, f"mask/{step}"))
        hidden = (torch.rand(examples.tokens.shape, generator=generator) < self.share) & _real(examples)
        tokens = examples.tokens.long()
        return replace(
            examples,
            tokens=tokens.masked_fill(hidden, self.mask_id),
            targets=tokens.masked_fill(~hidden, IGNORE),
        )


class Causal:
    """Predict the next token of a document, at each of its tokens but the last."""

    def __call__(self, examples: Examples, step: int) -> Examples:
        """The rows with what follows each token as targets int64 like `tokens`."""
        targets = torch.full(examples.tokens.shape, IGNORE)
        following = examples.tokens[..., 1:].long()
        targets[..., :-1] = following.masked_fill(~_real(examples)[..., 1:], IGNORE)
        return replace(examples, targets=targets)


def objective_of(cell: Cell, task: Task) -> Objective:
    """The question that a cell's pretraining asks."""
    assert cell.train is not None
    if cell.train.pretrain == "causal":
        return Causal()
    return Masked(cell.train.pretrain_mask, task.vocab_size, derive_seed(cell.seed, "pretrain"))


def pretraining_model(cell: Cell, task: Task, model: Model) -> Model:
    """The encoder of `model` under a head that predicts the task's token ids, the same for every method."""
    assert cell.model is not None
    with seeded(derive_seed(cell.seed, "pretrain")):
        head = TokenHead(cell.model.width, task.vocab_size)
    return Model(model.encoder, head.to(next(model.parameters())))


def _real(examples: Examples) -> Tensor:
    padding = examples.padding_mask()
    return torch.ones(examples.tokens.shape, dtype=torch.bool) if padding is None else ~padding
