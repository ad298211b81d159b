"""What a training run has come to so far, and the result that its row is made of."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch import nn

from bench.cell import Cell
from bench.measure.usage import Usage, shares
from tasks.registry import Task


@dataclass
class History:
    """One phase of a run, pretraining or training. Plain values, for the checkpoint.

    step: steps done. elapsed_s: wall time, evaluations included, without what a kill lost.
    step_s: for each stretch between two evaluations, the mean seconds a step.
    usage: what these steps had of the cores.
    best: the state dict of the best dev step.
    """

    step: int = 0
    elapsed_s: float = 0.0
    train_loss: float = math.nan
    step_s: list[float] = field(default_factory=list)
    usage: Usage = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    best_accuracy: float = -1.0
    best_step: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    since_best: int = 0

    def record(self, dev: dict[str, float], model: nn.Module) -> None:
        """Take an evaluation on dev; of equal accuracies the first is the best."""
        self.curve.append(
            {
                "step": self.step,
                "train_loss": self.train_loss,
                "dev_loss": dev["loss"],
                "dev_accuracy": dev["accuracy"],
                "elapsed_s": self.elapsed_s,
            }
        )
        self.since_best += 1
        if dev["accuracy"] > self.best_accuracy:
            self.best_accuracy, self.best_step, self.since_best = dev["accuracy"], self.step, 0
            self.best = copy.deepcopy(model.state_dict())

    def exhausted(self, patience: int | None) -> bool:
        """Whether the last `patience` evaluations have brought nothing better."""
        return patience is not None and self.since_best >= patience


def result(
    cell: Cell,
    task: Task,
    rows: int,
    train_examples: int,
    pretrained: History,
    trained: History,
    test: dict[str, float],
) -> dict[str, Any]:
    """The values of a run's row in accuracy.csv, and its curve; `rows` is the batch size that was had."""
    assert cell.train is not None
    step_s = median(trained.step_s)
    with_pretraining = cell.train.pretrain != "none"
    return {
        "metric": task.metric,
        "correct": test["correct"],
        "test_targets": test["count"],
        "accuracy": test["accuracy"],
        "chance": task.chance,
        "dev_accuracy": trained.best_accuracy,
        "best_step": trained.best_step,
        "steps": trained.step,
        "train_examples": train_examples,
        "train_loss": trained.train_loss,
        "train_s": trained.elapsed_s,
        "step_ms": 1000 * step_s,
        "train_tokens_per_s": rows * task.documents * cell.seq_len / step_s,
        "pretrain_steps": pretrained.step,
        "pretrain_loss": pretrained.train_loss if with_pretraining else None,
        "pretrain_s": pretrained.elapsed_s if with_pretraining else None,
        **shares(trained.usage, cell.hardware.threads),
        "curve": trained.curve,
    }
