"""One optimiser step: forward and backward of a batch's pieces, gradients clipped, AdamW."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.case import loss_of
from bench.cell import Train, derive_seed
from bench.training.batches import Batches
from bench.training.distributed import Group
from bench.training.precision import Precision
from bench.training.schedule import SCHEDULES


class Learner:
    """A model with its optimiser, for `steps` steps.

    AdamW decays every parameter, biases and norms included, as Long Range Arena's optimiser does.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Train,
        steps: int,
        precision: Precision,
        group: Group,
        compiled: bool = False,
    ) -> None:
        self.model, self.settings, self.steps = model, settings, steps
        self.precision, self.group = precision, group
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters, settings.lr, settings.betas, settings.eps, settings.weight_decay
        )
        self.scaler = precision.scaler()
        self._forward = torch.compile(model) if compiled else model

    def step(self, batches: Batches, step: int) -> Tensor:
        """Learn from batch `step` (from 0) and return this process's share of its mean loss, on the device.

        The mean is over the targets of the whole batch, however many pieces and processes it is cut into.
        """
        pieces, count = batches.pieces_of(step)
        self.optimiser.zero_grad(set_to_none=True)
        scaler, losses = self.scaler, []
        for piece in pieces:
            with self.precision.autocast():
                logits = self._forward(*piece.inputs)
            part = loss_of(logits, piece.targets, "sum") / max(count, 1)
            scaler.scale(part).backward()  # type: ignore[no-untyped-call]
            losses.append(part.detach())
        self.group.sum_gradients(self.parameters)
        scaler.unscale_(self.optimiser)
        if self.settings.grad_clip_value:
            nn.utils.clip_grad_value_(self.parameters, self.settings.grad_clip_value)
        if self.settings.grad_clip:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.grad_clip)
        factor = SCHEDULES[self.settings.schedule](step, self.settings.warmup_steps, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.lr * factor
        scaler.step(self.optimiser)
        scaler.update()
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, besides the batches: model, optimiser, scale, random draws."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "draws": draws(self.model),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        set_draws(self.model, state["draws"])


def seed_step(seed: int, step: int, group: Group) -> None:
    """Seed every global generator for one step, so that no generator's state has to outlive it.

    Processes draw differently, since each has its own rows to drop from.
    """
    drawn = derive_seed(seed, f"step/{step}/{group.rank}")
    torch.default_generator.manual_seed(drawn)  # torch.manual_seed takes 0.3 ms where CUDA is not in use
    kind = torch.device(group.device).type
    if kind != "cpu":
        torch.get_device_module(kind).manual_seed(drawn)
    np.random.seed(drawn % 2**32)
    random.seed(drawn)


def draws(model: nn.Module) -> dict[str, Any]:
    """Where the random draws of modules stand: their `draw_index`, and the states of generators they hold."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, torch.Generator):
                found[f"{name}.{key}"] = value.get_state()
            elif key == "draw_index":
                found[f"{name}.{key}"] = value
    return found


def set_draws(model: nn.Module, found: dict[str, Any]) -> None:
    """Put back what `draws` found."""
    for path, value in found.items():
        name, _, key = path.rpartition(".")
        module = model.get_submodule(name)
        if isinstance(value, torch.Tensor):
            getattr(module, key).set_state(value)
        else:
            setattr(module, key, value)
