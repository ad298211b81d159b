"""Ways into third-party modules: q, k, v in place of their projections, and randomness kept to themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import Attention, Shape, Unsupported


class Given(nn.Module):
    """Stands where a projection stood: one call returns what was given last, and lets go of it."""

    def __init__(self) -> None:
        super().__init__()
        self.given: Any = None

    def give(self, given: Any) -> None:
        """Keep `given` for the next call."""
        self.given = given

    def forward(self, hidden: Tensor) -> Any:
        """Whatever was given; `hidden` only carries the shape that the module around looks at."""
        given, self.given = self.given, None
        return given


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """torch's and numpy's global generators seeded inside, and put back to where they were afterwards."""
    cuda = [device] if device is not None and device.type == "cuda" else []
    state = np.random.get_state()
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)


@contextmanager
def construction(seed: int) -> Iterator[None]:
    """Where a third-party module is built: seeded, and on the CPU even while a plan builds on meta."""
    with seeded(seed), torch.device("cpu"):
        yield


def draw_seed(generator: torch.Generator | None, layer: int) -> int:
    """A seed below 2^31 from `generator`, or from the layer's number without one."""
    generator = generator if generator is not None else torch.Generator().manual_seed(layer)
    return int(torch.randint(2**31, (), generator=generator, device="cpu"))


def placeholder(q: Tensor, tokens: int) -> Tensor:
    """`[B, tokens, H * D]` without memory: what a module sees as its hidden states."""
    return q.new_zeros(()).expand(q.shape[0], tokens, q.shape[1] * q.shape[3])


class ThirdParty(Attention):
    """Base of the adapters: core attention as computed by the code of `package`, projections left out.

    Tensors reach that code as views wherever it can take them; where it wants the heads merged into one axis
    they are copied once, which its own projections would have written in that layout. NaN and infinite
    inputs go through as the package lets them.
    """

    def __init__(self, shape: Shape, package: str) -> None:
        super().__init__(shape)
        self.backend = f"{package}:{version(package)}"

    def refuse_padding(self, key_padding_mask: Tensor | None, why: str) -> None:
        """Unsupported if there is a mask at all."""
        if key_padding_mask is not None:
            raise Unsupported(f"{type(self).__name__} takes no key_padding_mask: {why}")

    def next_seed(self, seed: int) -> int:
        """The seed of this forward: counts up while training, stands still in evaluation."""
        found = (seed + self.draw_index) % 2**32
        if self.training:
            self.draw_index += 1
        return found


def split_heads(merged: Tensor, heads: int, n: int) -> Tensor:
    """`[B, M, H * D]` -> the first n rows as `[B, H, n, D]`, a view."""
    return merged.view(*merged.shape[:2], heads, -1).transpose(1, 2)[:, :, :n]


def merge_heads(x: Tensor) -> Tensor:
    """`[B, H, N, D]` -> `[B, N, H * D]`, a copy."""
    return x.transpose(1, 2).flatten(2)
