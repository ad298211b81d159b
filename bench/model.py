"""From a cell to torch modules: the layers of its method, the mixer, or the whole model with its head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.cell import Cell, Plugin, derive_seed
from bench.plugin import naming, parameters
from bench.resolve import PREFIX, method_class, task_class
from methods.registry import BASELINE, METHODS, Attention, Encoder, Shape
from tasks.registry import SequenceHead, Task

#: The interface of a model without a task: byte-sized vocabulary, ten classes.
VOCAB, CLASSES = 256, 10

BASELINE_METHOD = Plugin(BASELINE, METHODS[BASELINE])


class Model(nn.Module):
    """Tokens to logits: the encoder, then the head, which sees the tokens, or with `cls` the first front token."""

    def __init__(self, encoder: Encoder, head: nn.Module, *, cls: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.cls = cls

    def forward(self, tokens: Tensor, padding: Tensor | None = None, global_mask: Tensor | None = None) -> Tensor:
        """Tokens `[B, N]` of any integer dtype, bool alike True at pads and at global tokens -> logits.

        All three may be `[B, documents, N]`: the encoder sees each document alone, the head all of them.
        """
        flat = [None if x is None else x.flatten(0, -2) for x in (padding, global_mask)]
        hidden = self.encoder(tokens.flatten(0, -2).long(), *flat, keep_front=self.cls)
        if self.cls:
            hidden, padding = hidden[:, :1], None
        logits: Tensor = self.head(hidden.unflatten(0, tokens.shape[:-1]), padding)
        return logits


@contextmanager
def seeded(seed: int) -> Iterator[torch.Generator]:
    """Module initialisers draw from the global generator: seed it for them, and put it back after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


def attention_layers(cell: Cell, method: Plugin, count: int, front_tokens: int = 0) -> Sequence[Attention]:
    """The method's layers for seq_len + front_tokens rows, drawn from the cell's seed.

    Grouped queries see layers of as many heads as there are keys' (methods/grouped.py).
    """
    shape = Shape(cell.query_groups, cell.head_dim, cell.seq_len + front_tokens, cell.causal)
    cls = cast(Any, method_class(method.target))
    with naming(PREFIX["method"], method.params), seeded(derive_seed(cell.seed, "method")) as generator:
        layers: Sequence[Attention] = cls.layers(shape, count, generator, **method.params)
    return layers


def build_task(cell: Cell) -> Task | None:
    """The cell's task, with data drawn from the cell's seed; a task that reads files is told where they are."""
    if cell.task is None:
        return None
    with naming(PREFIX["task"], cell.task.params):
        cls = task_class(cell.task.target)
        folder = {"data_dir": cell.data_dir} if "data_dir" in parameters(cls) else {}
        task: Task = cls(seq_len=cell.seq_len, seed=cell.seed, **folder, **cell.task.params)
    return task


def build_model(cell: Cell, method: Plugin, task: Task | None) -> Model:
    """The whole model; encoder and head start from the same weights for every method."""
    assert cell.model is not None
    cls = cell.model.pooling == "cls" and not (task and task.per_token)
    # a CLS is the first of those that the method has anyway
    front = max(int(cls), method_class(method.target).prepended(**method.params))
    layers = attention_layers(cell, method, cell.model.layers, front)
    masks = 1 if cell.train and cell.train.pretrain == "masked" else 0  # an id that stands for a hidden token
    with seeded(derive_seed(cell.seed, "model")):
        encoder = Encoder(
            layers,
            vocab_size=(task.vocab_size if task else VOCAB) + masks,
            ff_dim=cell.model.ff_dim,
            width=cell.model.width,
            dropout=cell.model.dropout,
            positions=cell.model.positions,  # type: ignore[arg-type]
            embedding_std=cell.model.embedding_std,
            front_tokens=front,
            reversible=cell.model.reversible,
            ff_chunks=cell.model.ff_chunks,
        )
        width, how = cell.model.width, (cell.model.pooling, cell.model.classifier_dim, cell.model.pooled_norm)
        head = task.head(width, *how) if task else SequenceHead(width, CLASSES, *how)
    return Model(encoder, head, cls=cls)


def backends(module: nn.Module) -> str:
    """What computed the last forward of the attention inside, `+` between different ones."""
    names = {part.backend for part in module.modules() if isinstance(part, Attention)}
    return "+".join(sorted(names))


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())
