"""Reversible residual layers (Kitaev, Kaiser, Levskaya 2020, arXiv 2001.04451, section 3, equations 8 and 9).

    y1 = x1 + Attention(x2)    y2 = x2 + FeedForward(y1)
    x2 = y2 - FeedForward(y1)  x1 = y1 - Attention(x2)

The backward rebuilds each layer's inputs from its outputs, so that only the last outputs of the whole stack are
kept, whatever its depth. Half layers are run again for their gradients exactly as they ran: with the random
numbers of dropout, the draws of random methods (`Attention.draw_index`), and the dtypes of autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import get_device_states, set_device_states

from methods.base import Attention


class Halves(Protocol):
    """A layer as two residual branches: `mix` looks along N, `feed` at each position alone."""

    def mix(self, hidden: Tensor, padding: Tensor | None, global_mask: Tensor | None) -> Tensor:
        """`[B, N, E]` -> what the attention adds."""

    def feed(self, hidden: Tensor) -> Tensor:
        """`[B, n, E]` -> what the feed-forward layer adds."""


def parts(x: Tensor, chunks: int) -> tuple[Tensor, ...]:
    """Views of `[B, N, E]` along N: `chunks` of them, fewer where N is smaller."""
    pieces: tuple[Tensor, ...] = torch.split(x, -(-x.shape[1] // chunks), dim=1)
    return pieces


def run_reversible(
    layers: Sequence[nn.Module],
    hidden: Tensor,
    padding: Tensor | None = None,
    global_mask: Tensor | None = None,
    *,
    ff_chunks: int = 1,
) -> tuple[Tensor, Tensor]:
    """Both streams after all `layers` (each a `Halves`), from `hidden` `[B, N, E]` in both: two `[B, N, E]`.

    The streams are held in float32 at least, since what half precision rounds off could not be rebuilt.
    """
    stack = _Stack(layers, padding, global_mask, ff_chunks, hidden)
    if not torch.is_grad_enabled():
        return stack.forward(hidden)
    parameters = list(dict.fromkeys(p for layer in layers for p in layer.parameters() if p.requires_grad))
    outputs: tuple[Tensor, Tensor] = _Reversible.apply(hidden, stack, *parameters)  # type: ignore[no-untyped-call]
    return outputs


class _Stack:
    """The layers with all that a second run needs to know of the first."""

    def __init__(
        self,
        layers: Sequence[Any],
        padding: Tensor | None,
        global_mask: Tensor | None,
        ff_chunks: int,
        hidden: Tensor,
    ) -> None:
        self.layers, self.padding, self.global_mask, self.ff_chunks = layers, padding, global_mask, ff_chunks
        self.dtype = hidden.dtype
        self.moments: list[tuple[_Moment, _Moment]] = []
        self.kind = hidden.device.type
        self.half = torch.get_autocast_dtype(self.kind) if torch.is_autocast_enabled(self.kind) else None

    def autocast(self) -> torch.autocast:
        """As it was around the forward; the cast weights it would keep from there know no gradient."""
        return torch.autocast(self.kind, self.half, enabled=self.half is not None, cache_enabled=False)

    def mix(self, layer: Halves, x2: Tensor) -> Tensor:
        return layer.mix(x2.to(self.dtype), self.padding, self.global_mask)

    def feed(self, layer: Halves, y1: Tensor) -> Tensor:
        return layer.feed(y1.to(self.dtype))

    def forward(self, hidden: Tensor, keep: bool = False) -> tuple[Tensor, Tensor]:
        """Run all layers without gradient; `keep` notes what it takes to run them again."""
        wide = torch.promote_types(hidden.dtype, torch.float32)
        one, two = (hidden.to(wide, copy=True) for _ in range(2))
        with torch.no_grad(), self.autocast():
            for layer in self.layers:
                before_mix = _Moment.now(layer, hidden) if keep else None
                one += self.mix(layer, two)
                before_feed = _Moment.now(layer, hidden) if keep else None
                for out, part in zip(parts(two, self.ff_chunks), parts(one, self.ff_chunks), strict=True):
                    out += self.feed(layer, part)
                if before_mix and before_feed:
                    self.moments.append((before_mix, before_feed))
        return one, two

    def backward(self, one: Tensor, two: Tensor, d_one: Tensor, d_two: Tensor, sums: _Sums) -> None:
        """From the outputs and their gradients to the inputs and theirs, in place; parameters' go to `sums`."""
        for layer, (before_mix, before_feed) in zip(reversed(self.layers), reversed(self.moments), strict=True):
            with before_feed.again(layer), self.autocast():
                pieces = (parts(x, self.ff_chunks) for x in (one, two, d_one, d_two))
                for y1, y2, d_y1, d_y2 in zip(*pieces, strict=True):
                    _undo(partial(self.feed, layer), y1, y2, d_y1, d_y2, sums.of(layer))
            with before_mix.again(layer), self.autocast():
                _undo(partial(self.mix, layer), two, one, d_two, d_one, sums.of(layer))


class _Sums:
    """Gradients of parameters, added up over the layers and chunks that share them."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.total: dict[Tensor, Tensor | None] = dict.fromkeys(parameters)

    def of(self, layer: nn.Module) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """A function (output, input, output's gradient) -> the input's gradient, which adds up the rest."""
        own = [parameter for parameter in layer.parameters() if parameter in self.total]

        def differentiate(out: Tensor, leaf: Tensor, d_out: Tensor) -> Tensor:
            found = torch.autograd.grad(out, [leaf, *own], d_out, allow_unused=True)
            for parameter, grad in zip(own, found[1:], strict=True):
                if grad is not None:
                    so_far = self.total[parameter]
                    self.total[parameter] = grad if so_far is None else so_far + grad
            return found[0]

        return differentiate


def _undo(
    branch: Callable[[Tensor], Tensor],
    source: Tensor,
    target: Tensor,
    d_source: Tensor,
    d_target: Tensor,
    differentiate: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> None:
    """target -= branch(source), and d_source += its gradient."""
    leaf = source.detach().requires_grad_()
    with torch.enable_grad():
        out = branch(leaf)
    target -= out.detach()
    d_source += differentiate(out, leaf, d_target.to(out.dtype))


class _Reversible(torch.autograd.Function):
    """All layers in one node, which saves its two outputs and nothing else."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, stack: _Stack, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        one, two = stack.forward(hidden, keep=True)
        ctx.save_for_backward(one, two)
        ctx.stack, ctx.parameters = stack, parameters
        ctx.versions = [parameter._version for parameter in parameters]
        return one, two

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_one: Tensor, d_two: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.versions != [parameter._version for parameter in ctx.parameters]:
            raise RuntimeError("a parameter of a reversible stack was changed in place before its backward")
        one, two = (saved.clone() for saved in ctx.saved_tensors)
        d_one, d_two = d_one.clone(), d_two.clone()
        sums = _Sums(ctx.parameters)
        ctx.stack.backward(one, two, d_one, d_two, sums)
        return d_one.add_(d_two).to(ctx.stack.dtype), None, *sums.total.values()


@dataclass(frozen=True)
class _Moment:
    """What half a layer's output depends on besides its input and its parameters."""

    training: bool
    draws: list[tuple[Attention, int]]
    cpu: Tensor
    device_type: str
    devices: list[int]
    states: list[Tensor]

    @classmethod
    def now(cls, layer: nn.Module, hidden: Tensor) -> _Moment:
        draws = [(part, part.draw_index) for part in layer.modules() if isinstance(part, Attention)]
        devices, states = get_device_states(hidden)
        return cls(layer.training, draws, torch.get_rng_state(), hidden.device.type, devices, states)

    @contextmanager
    def again(self, layer: nn.Module) -> Iterator[None]:
        """The moment restored; what is now comes back after."""
        present = [part.draw_index for part, _ in self.draws]
        training = layer.training
        kind = self.device_type if self.devices else "cuda"
        with torch.random.fork_rng(self.devices, device_type=kind):
            torch.set_rng_state(self.cpu)
            set_device_states(self.devices, self.states, device_type=kind)
            for part, index in self.draws:
                part.draw_index = index
            if training != self.training:
                layer.train(self.training)
            try:
                yield
            finally:
                for (part, _), index in zip(self.draws, present, strict=True):
                    part.draw_index = index
                if training != self.training:
                    layer.train(training)
