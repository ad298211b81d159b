"""Scores of a model on a split."""

from __future__ import annotations

import torch
from torch import nn

from bench.breakdown import Breakdown
from bench.case import loss_of
from bench.training.batches import load
from bench.training.distributed import Group
from bench.training.precision import Precision
from tasks.registry import Examples, score


def evaluate(
    model: nn.Module,
    examples: Examples,
    batch_size: int,
    precision: Precision,
    group: Group,
    breakdown: Breakdown | None = None,
) -> dict[str, float]:
    """Mean loss, accuracy, and the number of targets over a split, each process on its share of the rows.

    `breakdown` counts the same answers by the tags of the examples. In the precision of training, since that is
    the model whose cost is measured. All processes get the same bits.
    """
    model.eval()
    total, correct, counted = 0.0, 0, 0
    with torch.no_grad():
        own = group.share(torch.arange(len(examples)))
        for rows in torch.split(own, batch_size) if len(own) else ():
            batch = load(examples, rows, group.device)
            with precision.autocast():
                logits = model(*batch.inputs)
            right, all_ = score(logits, batch.targets)
            total += float(loss_of(logits, batch.targets, "sum"))
            correct, counted = correct + right, counted + all_
            if breakdown is not None and examples.tags:
                breakdown.add({name: tag[rows] for name, tag in examples.tags.items()}, batch.targets, logits)
    model.train()
    if breakdown is not None:
        breakdown.gather(group)
    total, correct_, counted_ = group.sums([total, correct, counted])
    return {
        "loss": total / max(counted_, 1),
        "accuracy": correct_ / max(counted_, 1),
        "correct": int(correct_),
        "count": int(counted_),
    }
