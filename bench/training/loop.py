"""Training a cell: pretraining where asked for, then the task; the best dev step is tested once.

Test data is read for nothing else. Whatever is random in a step is a function of the cell's seed and the step, so
that a run goes on from a checkpoint exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bench.breakdown import Breakdown
from bench.cell import Cell, derive_seed
from bench.device import clock
from bench.measure.usage import Meter, add
from bench.model import backends, build_model, build_task
from bench.training.batches import Batches, Objective
from bench.training.checkpoint import Checkpoints
from bench.training.distributed import Group
from bench.training.evaluate import evaluate
from bench.training.history import History, result
from bench.training.learner import Learner, seed_step
from bench.training.precision import Precision
from bench.training.pretrain import objective_of, pretraining_model
from tasks.registry import Examples, data_digest

Progress = Callable[[int, int, str], None]


class Diverged(RuntimeError):
    """The loss is no number any more."""


def train(
    cell: Cell, progress: Progress, checkpoints: Checkpoints | None = None, group: Group | None = None
) -> dict[str, Any]:
    """Train, test the best dev step, and return scores, the curve and the time a step took.

    Raises Diverged when the loss stops being finite. Every process of `group` calls it and gets the same scores.
    """
    return _Run(cell, progress, checkpoints or Checkpoints(), group or Group(cell.hardware.device)).run()


def trained_model(cell: Cell, progress: Progress) -> tuple[_Run, dict[str, Any]]:
    """A finished run, its model at the best dev step, and what `train` returns; in one process, from the start."""
    run = _Run(cell, progress, Checkpoints(), Group(cell.hardware.device))
    return run, run.run()


class _Run:
    """One training run, in one of the processes of its group."""

    def __init__(self, cell: Cell, progress: Progress, checkpoints: Checkpoints, group: Group) -> None:
        assert cell.train is not None
        task = build_task(cell)
        assert task is not None
        self.cell, self.settings, self.task = cell, cell.train, task
        self.progress, self.checkpoints, self.group = progress, checkpoints, group
        self.train_set, self.dev_set = task.examples("train"), task.examples("dev")
        self.precision, self.now = Precision(group.device, cell.hardware.dtype), clock(group.device)
        self.model = build_model(cell, cell.method, task).to(group.device, self.precision.weights)
        self.pretraining, self.training, self.resumed = History(), History(), 0

    def run(self) -> dict[str, Any]:
        """Both phases, from the start or from where the checkpoint stands."""
        saved = self.checkpoints.load() or {}
        if saved:
            self.pretraining, self.training = History(**saved["pretraining"]), History(**saved["training"])
            self.resumed = saved["resumed"] + 1
            self.checkpoints.note(
                f"going on after step {saved['step']} of {saved['phase']}: {self.cell.describe()}"
            )
        if self.settings.pretrain != "none" and saved.get("phase") != "training":
            self._pretrain(saved.get("learner"))
        size = self._train(saved["learner"] if saved.get("phase") == "training" else None)
        self.model.load_state_dict(self.training.best)
        breakdown = Breakdown()
        test = self._evaluate(self.task.examples("test"), breakdown)
        found = result(self.cell, self.task, size, len(self.train_set), self.pretraining, self.training, test)
        return {
            **found,
            "resumed": self.resumed,
            "backend": backends(self.model),
            "data_digest": data_digest(self.task),
            "breakdown": breakdown.groups(),
        }

    def _pretrain(self, state: dict[str, Any] | None) -> None:
        """Train the encoder on the inputs alone."""
        settings = self.settings
        model = pretraining_model(self.cell, self.task, self.model)
        learner = self._learner(model, settings.pretrain_steps, state)
        batches = self._batches("pretrain_batches", objective_of(self.cell, self.task))
        for _ in self._stretches("pretraining", learner, batches, self.pretraining):
            self._report(learner, self.pretraining, "pretraining")

    def _train(self, state: dict[str, Any] | None) -> int:
        """Train on the task, until the steps or the patience are used up; returns the rows of a batch."""
        learner, history = self._learner(self.model, self.settings.steps, state), self.training
        batches = self._batches("batches")
        if not history.exhausted(self.settings.patience):
            for _ in self._stretches("training", learner, batches, history):
                dev = self._evaluate(self.dev_set)
                self._lap(history)
                history.record(dev, self.model)
                self._report(learner, history, f"dev {dev['accuracy']:.3f}")
                if history.exhausted(self.settings.patience):
                    break
        return batches.size

    def _stretches(self, phase: str, learner: Learner, batches: Batches, history: History) -> Iterator[None]:
        """Train, and stop after every `eval_every` steps and at the end, with the history up to date.

        The device is waited for at the stops only.
        """
        losses: list[Tensor] = []
        seed, every = derive_seed(self.cell.seed, phase), self.settings.eval_every
        self.mark, meter = self.now(), Meter()
        for step in range(history.step, learner.steps):
            seed_step(seed, step, self.group)
            losses.append(learner.step(batches, step))
            if (step + 1) % every and step + 1 != learner.steps:
                continue
            history.train_loss = self.group.sums([float(torch.stack(losses).mean())])[0]
            history.step = step + 1
            history.step_s.append(self._lap(history) / len(losses))
            history.usage = add(history.usage, meter.lap())
            losses.clear()
            if not math.isfinite(history.train_loss):
                lr = f"task.train.lr={self.settings.lr:g}"
                raise Diverged(f"the {phase} loss was {history.train_loss} by step {step + 1} ({lr})")
            yield
            if self.checkpoints.due():
                self._lap(history)
                self.checkpoints.save(self._state(phase, learner, history))
            self._lap(history)
            meter.lap()

    def _lap(self, history: History) -> float:
        """Add the seconds since the last call to the history, and return them."""
        before, self.mark = self.mark, self.now()
        history.elapsed_s += self.mark - before
        return self.mark - before

    def _state(self, phase: str, learner: Learner, history: History) -> dict[str, Any]:
        """The content of a checkpoint."""
        return {
            "phase": phase,
            "step": history.step,
            "learner": learner.state(),
            "pretraining": vars(self.pretraining),
            "training": vars(self.training),
            "resumed": self.resumed,
        }

    def _learner(self, model: torch.nn.Module, steps: int, state: dict[str, Any] | None) -> Learner:
        compiled = self.cell.hardware.compile
        learner = Learner(model, self.settings, steps, self.precision, self.group, compiled)
        if state is not None:
            learner.restore(state)
        model.train()
        return learner

    def _batches(self, axis: str, objective: Objective | None = None) -> Batches:
        seed, size = derive_seed(self.cell.seed, axis), self.cell.batch_size
        pieces = self.settings.accumulate
        # another question about the inputs has no classes
        stratify = self.settings.stratify and objective is None
        return Batches(self.train_set, size, seed, self.group, pieces, objective, stratify=stratify)

    def _evaluate(self, examples: Examples, breakdown: Breakdown | None = None) -> dict[str, float]:
        size = self.settings.eval_batch_size
        return evaluate(self.model, examples, size, self.precision, self.group, breakdown)

    def _report(self, learner: Learner, history: History, note: str) -> None:
        self.progress(history.step, learner.steps, f"loss {history.train_loss:.3f} {note}")
