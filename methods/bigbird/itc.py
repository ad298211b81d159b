"""BigBird-ITC (Zaheer et al. 2020, arXiv 2007.14062): blocks that attend a window, global and random blocks.

Tokens form blocks (appendix D). The first half of the global blocks lies at the start, the rest at the end; of
an odd number the start has one more. They attend and are attended by all. Every other block attends the global
blocks, the window of blocks around it, and random blocks (section 2). One softmax runs over that union, in
which no key counts twice. The last block may be short; a row of a padded batch ends with its last real token,
and its blocks are those of a sequence of that length, so that the amount of padding changes nothing.

Random blocks are drawn for each layer and head, and are the same in training and evaluation: a pure function
of (a seed drawn at construction, layer, head, number of blocks). An input with fewer blocks than the pattern
needs gives each row as many random blocks as there are; the constructor refuses a `seq_len` of that kind.

There is no dropout of attention weights, as in the reference's block path, and no causal form: the paper keeps
full attention in decoders (section 4.1). Positions are the encoder's; relative ones belong to ETC.
"""

from __future__ import annotations

import torch

from methods.base import PerLayer, Shape
from methods.bigbird.plan import Pattern, RandomRange
from methods.bigbird.sparse import Backend, BlockSparse

BACKENDS = ("auto", "tiles", "dense")


class BigBird(BlockSparse):
    """`auto` is `tiles`: no N x N scores, forward or backward. `dense` masks torch's fused attention.

    A NaN or infinity in q spoils its own row, one in k or v the rows whose pattern holds its block.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        block: PerLayer = 64,
        window_blocks: int = 3,
        global_blocks: int = 2,
        random_blocks: PerLayer = 3,
        random_range: RandomRange = "all",
        allow_short: bool = False,
        backend: Backend = "auto",
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        check(block, window_blocks, random_blocks, random_range)
        if global_blocks < 0:
            raise ValueError(f"global_blocks={global_blocks}: expected an integer >= 0")
        if backend not in BACKENDS:
            raise ValueError(f"backend={backend}: expected one of {', '.join(BACKENDS)}")
        front = -(-global_blocks // 2)
        super().__init__(
            shape,
            Pattern(block, window_blocks, front, global_blocks - front, random_blocks, random_range),
            front_tokens=0,
            allow_short=allow_short,
            layer=layer,
            generator=generator if generator is not None else torch.Generator().manual_seed(layer),
            backend=backend,
        )


def check(block: int, window_blocks: int, random_blocks: int, random_range: str) -> None:
    """ValueError for a parameter outside its range."""
    if block < 1:
        raise ValueError(f"block={block}: expected an integer >= 1")
    if window_blocks < 1 or window_blocks % 2 == 0:
        raise ValueError(f"window_blocks={window_blocks}: expected an odd number >= 1")
    if random_blocks < 0:
        raise ValueError(f"random_blocks={random_blocks}: expected an integer >= 0")
    if random_range not in ("all", "prefix"):
        raise ValueError(f"random_range={random_range}: expected one of all, prefix")
