"""The one training loop, for every task and method.

AdamW, linear warm-up and cosine to zero. The model with the best dev accuracy is tested once; test data is
read for nothing else.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bench.breakdown import Breakdown
from bench.case import loss_of
from bench.cell import Cell, Train, derive_seed
from bench.device import clock
from bench.model import Model, backends, build_model, build_task
from tasks.registry import Examples, Task, data_digest, score

EVAL_BATCH = 256

Progress = Callable[[int, int, str], None]


class Diverged(RuntimeError):
    """The loss is no number any more."""


def learning_rate(step: int, train: Train) -> float:
    """The factor on `lr` at `step` (from 0): linear to 1 over the warm-up, then a cosine to 0."""
    if step < train.warmup_steps:
        return (step + 1) / train.warmup_steps
    span = max(train.steps - train.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * (step - train.warmup_steps) / span))


def batches(examples: Examples, size: int, seed: int) -> Iterator[Examples]:
    """Endless batches: every epoch in a new order, the last short batch left out."""
    generator = torch.Generator().manual_seed(seed)
    size = min(size, len(examples))
    while True:
        order = torch.randperm(len(examples), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            yield examples.rows(order[start : start + size])


def evaluate(
    model: nn.Module, examples: Examples, device: str, breakdown: Breakdown | None = None
) -> dict[str, float]:
    """Mean loss, accuracy and the number of targets over a split; `breakdown` is told of each batch."""
    model.eval()
    total, correct, counted = 0.0, 0, 0
    with torch.no_grad():
        for start in range(0, len(examples), EVAL_BATCH):
            batch = examples.rows(torch.arange(start, min(start + EVAL_BATCH, len(examples))))
            logits, targets = _logits(model, batch, device)
            right, all_ = score(logits, targets)
            total += float(loss_of(logits, targets)) * all_
            correct, counted = correct + right, counted + all_
            if breakdown is not None:
                breakdown.add(batch, logits)
    model.train()
    return {
        "loss": total / max(counted, 1),
        "accuracy": correct / max(counted, 1),
        "correct": correct,
        "count": counted,
    }


def _logits(model: nn.Module, batch: Examples, device: str) -> tuple[Tensor, Tensor]:
    masks = [mask if mask is None else mask.to(device) for mask in (batch.padding_mask(), batch.global_mask)]
    return model(batch.tokens.to(device), *masks), batch.targets.to(device)


def train(cell: Cell, progress: Progress) -> dict[str, Any]:
    """Train, test the best dev step, and return scores, the curve and the time a step took.

    Raises Diverged when the loss stops being finite.
    """
    assert cell.train is not None
    settings, device = cell.train, cell.hardware.device
    task = build_task(cell)
    assert task is not None
    model = build_model(cell, cell.method, task).to(device)
    return _fit(cell, settings, task, model, progress)


def _fit(cell: Cell, settings: Train, task: Task, model: Model, progress: Progress) -> dict[str, Any]:
    device, now = cell.hardware.device, clock(cell.hardware.device)
    train_set, dev_set = task.examples("train"), task.examples("dev")
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate(step, settings))
    dtype = getattr(torch, cell.hardware.dtype)
    half = dtype in (torch.bfloat16, torch.float16)
    stream = batches(train_set, cell.batch_size, derive_seed(cell.seed, "batches"))
    curve: list[dict[str, float]] = []
    best: dict[str, Any] = {"accuracy": -1.0}
    recent: list[Tensor] = []
    stepping = 0.0
    started = mark = now()
    torch.manual_seed(derive_seed(cell.seed, "dropout"))
    model.train()
    for step in range(1, settings.steps + 1):
        batch = next(stream)
        with torch.autocast(torch.device(device).type, dtype, enabled=half):
            loss = loss_of(*_logits(model, batch, device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if settings.grad_clip:
            nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        optimiser.step()
        schedule.step()
        recent.append(loss.detach())
        if step % settings.eval_every and step != settings.steps:
            continue
        train_loss = float(torch.stack(recent).mean())  # the one wait for the device between evaluations
        stepping += now() - mark
        recent.clear()
        if not math.isfinite(train_loss):
            raise Diverged(f"the training loss was {train_loss} by step {step} (task.train.lr={settings.lr:g})")
        dev = evaluate(model, dev_set, device)
        curve.append(
            {
                "step": step,
                "train_loss": train_loss,
                "dev_loss": dev["loss"],
                "dev_accuracy": dev["accuracy"],
                "elapsed_s": now() - started,
            }
        )
        if dev["accuracy"] > best["accuracy"]:
            best = {"accuracy": dev["accuracy"], "step": step, "state": copy.deepcopy(model.state_dict())}
        progress(step, settings.steps, f"loss {train_loss:.3f} dev {dev['accuracy']:.3f}")
        mark = now()
    model.load_state_dict(best["state"])
    breakdown = Breakdown()
    test = evaluate(model, task.examples("test"), device, breakdown)
    return {
        "metric": task.metric,
        "correct": test["correct"],
        "test_targets": test["count"],
        "accuracy": test["accuracy"],
        "chance": task.chance,
        "dev_accuracy": best["accuracy"],
        "best_step": best["step"],
        "steps": settings.steps,
        "train_examples": len(train_set),
        "train_loss": curve[-1]["train_loss"],
        "train_s": now() - started,
        "step_ms": 1000 * stepping / settings.steps,
        "train_tokens_per_s": cell.batch_size * cell.seq_len * settings.steps / stepping,
        "backend": backends(model),
        "data_digest": data_digest(task),  # after the times
        "curve": curve,
        "breakdown": breakdown.groups(),
    }
