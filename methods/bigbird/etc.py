"""BigBird-ETC (Zaheer et al. 2020, section 2 and appendix E): extra global tokens and relative positions.

`global_tokens` tokens stand before the others; they attend and are attended by all (section 2, the adjacency
matrix B over g + N tokens). The others form blocks that attend the global tokens, their window and random blocks,
in one softmax. The first `global_tokens` rows of q, k, v are the global ones; a model prepends that many learned
tokens (`prepended`), which so have queries, keys and values of their own and go through every layer. With
`global_tokens=0` and `max_distance=0` this is window and random blocks alone.

Relative positions are a learned vector for each label, added to the keys: see relative.py. The defaults are
the paper's base model for question answering (Table 8): blocks of 84, 256 global tokens, no random blocks;
relative labels clipped at 12.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.base import PerLayer, Shape
from methods.bigbird.itc import check
from methods.bigbird.plan import Pattern, RandomRange
from methods.bigbird.relative import label_count
from methods.bigbird.sparse import BlockSparse
from methods.ops.dense import masked_softmax

GLOBAL_TOKENS = 256


class BigBirdETC(BlockSparse):
    """`max_distance` clips the relative labels; 0 does without relative positions.

    A NaN or infinity in q spoils its own row, one in k or v the rows whose pattern holds its block.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        block: PerLayer = 84,
        window_blocks: int = 3,
        global_tokens: int = GLOBAL_TOKENS,
        random_blocks: PerLayer = 0,
        random_range: RandomRange = "all",
        max_distance: int = 12,
        allow_short: bool = False,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        check(block, window_blocks, random_blocks, random_range)
        for name, value in (("global_tokens", global_tokens), ("max_distance", max_distance)):
            if value < 0:
                raise ValueError(f"{name}={value}: expected an integer >= 0")
        generator = generator if generator is not None else torch.Generator().manual_seed(layer)
        super().__init__(
            shape,
            Pattern(block, window_blocks, -(-global_tokens // block), 0, random_blocks, random_range),
            front_tokens=global_tokens,
            allow_short=allow_short,
            layer=layer,
            generator=generator,
            reach=max_distance,
        )
        if max_distance:
            table = torch.randn(shape.heads, label_count(max_distance), shape.head_dim, generator=generator)
            self.table = nn.Parameter(0.02 * table)

    @classmethod
    def prepended(cls, **params: Any) -> int:
        """All global tokens: a model keeps the tokens of its input besides them."""
        return int(params.get("global_tokens", GLOBAL_TOKENS))

    def labels(self, n: int, device: torch.device | None = None) -> Tensor:
        """int64 `[n, n]`: the row of the table for query i and key j."""
        at = torch.arange(n, device=device)
        distance = (at - at[:, None]).clamp(-self.reach, self.reach) + self.reach
        shared = at < self.front_tokens
        distance[shared[:, None] & ~shared] = 2 * self.reach + 1
        distance[~shared[:, None] & shared] = 2 * self.reach + 2
        return distance

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Softmax over N x N scores with each pair's relative logit, under the boolean pattern."""
        n = q.shape[2]
        scores = q @ k.transpose(-1, -2)
        if self.table is not None:
            scores = scores + (q @ self.table.transpose(-1, -2)).gather(
                3, self.labels(n, q.device).expand_as(scores)
            )
        return masked_softmax(scores * q.shape[3] ** -0.5, self.mask(n, key_padding_mask, q.device)) @ v

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 D a pair of the blocks that attend, and 2 D for each label of each query."""
        return super().flops(batch_size, seq_len) + self._label_flops(batch_size, seq_len)

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """3.5 times the pairs, 4 times the labels: both are recomputed in the backward."""
        return super().flops(batch_size, seq_len) * 7 // 2 + 4 * self._label_flops(batch_size, seq_len)

    def _label_flops(self, batch_size: int, seq_len: int) -> int:
        labels = 0 if self.table is None else self.table.shape[1]
        rows = self.layout(seq_len).rows
        return 2 * batch_size * self.shape.heads * rows * labels * self.shape.head_dim
