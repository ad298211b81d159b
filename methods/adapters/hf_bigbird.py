"""BigBird (ITC) as in Hugging Face transformers: `BigBirdBlockSparseAttention`, block sparse at every length.

What differs from the paper: in evaluation every random block is block 0, which rows then count 1 + r times; in
training each forward reseeds numpy's global generator (the adapter puts it back) to draw the same plan again;
random blocks come from the first 1024 tokens at lengths 1024, 3072, 4096 and from the first 2 r + 5 blocks at
others; and every forward fills a matrix of all N x N probabilities, so that memory is quadratic whatever the
pattern. Its model switches to full attention for inputs of up to (2 r + 5) blocks, and stays there; the
adapter never does: it pads them to one block more.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from methods.adapters.optional import require
from methods.adapters.seams import Given, ThirdParty, construction, draw_seed, placeholder, seeded, split_heads
from methods.base import Capabilities, Mode, PerLayer, Shape

PENALTY = -10000.0
"""What its masks add to a score."""

PREFIX_LENGTHS = (1024, 3072, 4096)
"""Lengths whose random blocks all lie in the first 1024 tokens."""


class HFBigBird(ThirdParty):
    """Three blocks of window, the first and the last block global, `random_blocks` more a row of blocks.

    The plan is drawn for the head by a seed of the layer, as there; `training` decides whether it is used.
    """

    capabilities = Capabilities(causal=False, deterministic=False)

    def __init__(
        self,
        shape: Shape,
        *,
        block: PerLayer = 64,
        random_blocks: int = 3,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        if block < 1:
            raise ValueError(f"block={block}: expected an integer >= 1")
        if random_blocks < 1:
            raise ValueError(f"random_blocks={random_blocks}: expected an integer >= 1")
        bigbird = require("transformers.models.big_bird.modeling_big_bird", "transformers")
        super().__init__(shape, "transformers")
        self.block = block
        self.random_blocks = random_blocks
        self.seed = draw_seed(generator, layer)
        config = bigbird.BigBirdConfig(
            hidden_size=shape.heads * shape.head_dim,
            num_attention_heads=shape.heads,
            block_size=block,
            num_random_blocks=random_blocks,
            max_position_embeddings=max(4096, shape.seq_len),
        )
        with construction(0):
            self.attention = bigbird.BigBirdBlockSparseAttention(config, seed=self.seed)
        self._masks = bigbird.BigBirdModel.create_masks_for_block_sparse_attn
        for name in ("query", "key", "value"):
            setattr(self.attention, name, Given())

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`."""
        n, inner = q.shape[-2], self.attention
        length = self.padded_length(n)
        real = torch.zeros(q.shape[0], length, dtype=q.dtype, device=q.device)
        real[:, :n] = 1 if key_padding_mask is None else (~key_padding_mask).to(q.dtype)
        blocked, band, rows, columns = self._masks(real, self.block)
        for projection, x in ((inner.query, q), (inner.key, k), (inner.value, v)):
            x = F.pad(x, (0, 0, 0, length - n)) if length > n else x
            projection.give(x.transpose(1, 2))
        with seeded(self.seed):
            out, _ = inner(placeholder(q, length), band, rows, columns, blocked, blocked)
        return split_heads(out, q.shape[1], n)

    def padded_length(self, n: int) -> int:
        """The next multiple of the block, at least one block more than its model needs to go block sparse."""
        return max(-(-n // self.block), 2 * self.random_blocks + 6) * self.block

    def random_plan(self, n: int) -> Tensor:
        """int `[H, blocks - 2, r]`: the random blocks of a forward at n tokens, by its own functions."""
        inner, length = self.attention, self.padded_length(n)
        heads, block, count = self.shape.heads, self.block, self.random_blocks
        with seeded(self.seed):
            if length in PREFIX_LENGTHS:
                longest = inner.max_seqlen
                draws = [
                    inner._bigbird_block_rand_mask(longest, longest, block, block, count, last_idx=1024)
                    for _ in range(heads)
                ]
                plan = np.stack([draw[: length // block - 2] for draw in draws])
            else:
                lengths, counts = inner._get_rand_attn_plan(length, block, count)
                plan = np.stack(
                    inner._bigbird_block_rand_mask_with_head(length, length, block, block, heads, lengths, counts)
                )
        return torch.as_tensor(plan, dtype=torch.long)

    def counts(self, n: int) -> Tensor:
        """int `[H, blocks, blocks]`: how often each block of queries counts each block of keys."""
        plan, blocks = self.random_plan(n), self.padded_length(n) // self.block
        found = torch.zeros(self.shape.heads, blocks, blocks, dtype=torch.long)
        found[:, (0, -1)] = 1
        for row in range(1, blocks - 1):
            fixed = {0, row - 1, row, row + 1, blocks - 1}
            found[:, row, sorted(fixed)] = 1
            for head in range(self.shape.heads):
                for column in plan[head, row - 1].tolist():
                    found[head, row, column] += 1
        return found

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """One softmax over the multiset of keys that a row counts; rows of padding are 0."""
        n = q.shape[-2]
        times = self.counts(n).to(q.device, q.dtype)
        times = times.repeat_interleave(self.block, -1).repeat_interleave(self.block, -2)[:, :n, :n]
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if key_padding_mask is not None:
            times = times * (~key_padding_mask)[:, None, None, :]
        weights = times * (logits - logits.masked_fill(times == 0, PENALTY).amax(-1, keepdim=True)).exp()
        out = (weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(q.dtype).tiny)) @ v
        return out if key_padding_mask is None else out.masked_fill(key_padding_mask[:, None, :, None], 0.0)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 b^2 D a pair of blocks: all in two rows, 4 + r in two, 5 + r in the others; and outer masks."""
        block, count = self.block, self.random_blocks
        rows = self.padded_length(seq_len) // block
        pairs = 2 * rows + 2 * (4 + count) + (rows - 4) * (5 + count)
        products = 4 * block**2 * self.shape.heads * self.shape.head_dim * pairs
        masks = 2 * block**2 * (3 * (rows - 4) + self.shape.heads * count * (rows - 2))
        return batch_size * (products + masks)

    def footprint_bytes(self, batch_size: int, seq_len: int, mode: Mode, itemsize: int) -> int:
        """The N x N matrix of probabilities that every forward fills."""
        return batch_size * self.shape.heads * self.padded_length(seq_len) ** 2 * itemsize

    def degenerate(self, seq_len: int) -> bool:
        """Rows count as many blocks as there are."""
        return (5 + self.random_blocks) * self.block >= seq_len
