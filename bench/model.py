"""From a cell to torch modules: the layers of its method, the mixer, or the whole model with its head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.cell import Cell, Plugin, derive_seed
from bench.plugin import naming
from bench.resolve import PREFIX, method_class, task_class
from methods.registry import BASELINE, METHODS, Attention, Encoder, Shape
from tasks.registry import SequenceHead, Task

#: The interface of a model without a task: byte-sized vocabulary, ten classes.
VOCAB, CLASSES = 256, 10

BASELINE_METHOD = Plugin(BASELINE, METHODS[BASELINE])


class Model(nn.Module):
    """Tokens to logits: the encoder, then the head."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, tokens: Tensor, padding: Tensor | None = None, global_mask: Tensor | None = None) -> Tensor:
        """Tokens `[B, N]` of any integer dtype, bool alike True at pads and at global tokens -> logits.

        All three may be `[B, documents, N]`: the encoder sees each document alone, the head all of them.
        """
        flat = [None if x is None else x.flatten(0, -2) for x in (padding, global_mask)]
        hidden = self.encoder(tokens.flatten(0, -2).long(), *flat)
        logits: Tensor = self.head(hidden.unflatten(0, tokens.shape[:-1]), padding)
        return logits


@contextmanager
def seeded(seed: int) -> Iterator[torch.Generator]:
    """Module initialisers draw from the global generator: seed it for them, and put it back after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


def attention_layers(cell: Cell, method: Plugin, count: int) -> Sequence[Attention]:
    """The method's layers, drawn from the cell's seed."""
    shape = Shape(cell.heads, cell.head_dim, cell.seq_len, cell.causal)
    cls = cast(Any, method_class(method.target))
    with naming(PREFIX["method"], method.params), seeded(derive_seed(cell.seed, "method")) as generator:
        layers: Sequence[Attention] = cls.layers(shape, count, generator, **method.params)
    return layers


def build_task(cell: Cell) -> Task | None:
    """The cell's task, with data drawn from the cell's seed."""
    if cell.task is None:
        return None
    with naming(PREFIX["task"], cell.task.params):
        task: Task = task_class(cell.task.target)(seq_len=cell.seq_len, seed=cell.seed, **cell.task.params)
    return task


def build_model(cell: Cell, method: Plugin, task: Task | None) -> Model:
    """The whole model; encoder and head start from the same weights for every method."""
    assert cell.model is not None
    layers = attention_layers(cell, method, cell.model.layers)
    width = cell.heads * cell.head_dim
    masks = 1 if cell.train and cell.train.pretrain == "masked" else 0  # an id that stands for a hidden token
    with seeded(derive_seed(cell.seed, "model")):
        encoder = Encoder(
            layers,
            vocab_size=(task.vocab_size if task else VOCAB) + masks,
            ff_dim=cell.model.ff_dim,
            dropout=cell.model.dropout,
            positions=cell.model.positions,  # type: ignore[arg-type]
            reversible=cell.model.reversible,
            ff_chunks=cell.model.ff_chunks,
        )
        pooling = cell.model.pooling
        head = task.head(width, pooling) if task else SequenceHead(width, CLASSES, pooling)
    return Model(encoder, head)


def backends(module: nn.Module) -> str:
    """What computed the last forward of the attention inside, `+` between different ones."""
    names = {part.backend for part in module.modules() if isinstance(part, Attention)}
    return "+".join(sorted(names))


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())
