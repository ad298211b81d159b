"""q, k, v as a trained model has them: exact attention is trained on the task, and looked into on dev examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bench.cell import Cell
from bench.model import BASELINE_METHOD
from bench.training.batches import load
from bench.training.loop import Progress, trained_model
from methods.registry import Attention

#: Dev examples that are looked at.
EXAMPLES = 8


@dataclass(frozen=True)
class Captured:
    """What one layer was given: q, k, v `[B, H, N, D]`, padding bool `[B, N]` (True at pads) or None."""

    q: Tensor
    k: Tensor
    v: Tensor
    padding: Tensor | None

    @property
    def scale(self) -> float:
        """The `qk_norm` at which Gaussian q and k are as large: the geometric mean of their root mean squares."""
        real = slice(None) if self.padding is None else ~self.padding
        sizes = [x.transpose(1, 2)[real].double().square().mean() for x in (self.q, self.k)]
        return float((sizes[0] * sizes[1]) ** 0.25)


def capture(cell: Cell, progress: Progress) -> tuple[list[Captured], float]:
    """What each layer of exact attention, trained as the cell's task says, is given on dev; its test accuracy."""
    run, found = trained_model(replace(cell, method=BASELINE_METHOD, match=None), progress)
    layers: list[Captured] = []
    model = run.model.eval()
    parts = [part for part in model.modules() if isinstance(part, Attention)]
    hooks = [part.register_forward_pre_hook(_keeping(layers), with_kwargs=True) for part in parts]
    rows = torch.arange(min(EXAMPLES, len(run.dev_set)))
    with torch.no_grad(), run.precision.autocast():
        model(*load(run.dev_set, rows, cell.hardware.device).inputs)
    for hook in hooks:
        hook.remove()
    return layers, float(found["accuracy"])


def _keeping(layers: list[Captured]) -> Callable[..., None]:
    def keep(_: Any, given: tuple[Tensor, ...], options: dict[str, Any]) -> None:
        q, k, v = (x.detach().clone() for x in given)
        layers.append(Captured(q, k, v, options.get("key_padding_mask")))

    return keep
