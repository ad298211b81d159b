"""Longformer (Beltagy, Peters, Cohan 2020, arXiv 2004.05150): a sliding window and a few global tokens.

Token i attends the tokens within `window / 2` on each side (section 3.1) and the global tokens; a global token
attends every token and is attended by every token (section 3.1, "Global Attention"). One softmax runs over
the union of window and global keys, in which no key counts twice. Globals are the first `global_tokens`
positions, as [CLS] is for classification.

The paper leaves globals undefined under causality: here the causal form keeps the pairs with j <= i.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base import Attention, Capabilities, PerLayer, Shape
from methods.ops.dense import allowed_keys, both, causal_mask, dense_attention
from methods.ops.fused import fused_attention

MIN_BLOCK = 64
"""Queries that share one stretch of keys; fewer would leave the matrix units idle."""


class Longformer(Attention):
    """Window attention on overlapping views of k and v: no N x N scores, no copied windows without globals."""

    capabilities = Capabilities()
    budget = "window"

    def __init__(
        self,
        shape: Shape,
        *,
        window: PerLayer = 256,
        global_tokens: int = 1,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        if window < 2 or window % 2:
            raise ValueError(f"window={window}: expected an even number >= 2 (the total width)")
        if global_tokens < 0:
            raise ValueError(f"global_tokens={global_tokens}: expected an integer >= 0")
        self.window = window
        self.global_tokens = global_tokens

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`."""
        n = q.shape[-2]
        globals_ = min(self.global_tokens, n)
        local = self._local(q, k, v, globals_, key_padding_mask)
        if globals_ == 0:
            return local
        mask = allowed_keys(key_padding_mask)
        if self.shape.causal:
            mask = both(mask, causal_mask(n, q.device)[:globals_])
        top, _ = fused_attention(q[:, :, :globals_], k, v, mask=mask)
        return torch.cat([top, local[:, :, globals_:]], dim=2)

    def _local(self, q: Tensor, k: Tensor, v: Tensor, globals_: int, padding: Tensor | None) -> Tensor:
        """Every row as a local row: blocks of queries against the keys around them and the global keys."""
        batch, heads, n, dim = q.shape
        block, left, right = self._geometry(n)
        blocks = -(-n // block)
        tail = blocks * block - n
        span = left + block + right

        def around(x: Tensor) -> Tensor:
            """`[B, H, N, D]` -> `[B*H, blocks, span, D]`: a view in which neighbouring blocks overlap."""
            padded = F.pad(x, (0, 0, left, right + tail))
            return padded.unfold(2, span, block).transpose(-1, -2).flatten(0, 1)

        keys, values = around(k), around(v)
        if globals_:
            keys = torch.cat([_repeat(k[:, :, :globals_], blocks), keys], dim=2)
            values = torch.cat([_repeat(v[:, :, :globals_], blocks), values], dim=2)
        queries = F.pad(q, (0, 0, 0, tail)).reshape(batch * heads, blocks, block, dim)
        mask = self._block_mask(n, globals_, q.device)
        if padding is not None:
            mask = (mask & self._real_keys(padding, globals_)).repeat_interleave(heads, dim=0)
        out, self.backend = fused_attention(queries, keys, values, mask=mask)
        return out.reshape(batch, heads, blocks * block, dim)[:, :, :n]

    def _geometry(self, n: int) -> tuple[int, int, int]:
        """(queries a block, keys to its left, keys to its right) for inputs of n tokens."""
        radius = min(self.window // 2, n)
        return min(max(radius, MIN_BLOCK), n), radius, 0 if self.shape.causal else radius

    def _block_mask(self, n: int, globals_: int, device: torch.device) -> Tensor:
        """bool `[1, blocks, block, globals + span]`: the pattern, laid out as the blocks see it."""
        block, left, right = self._geometry(n)
        blocks = -(-n // block)
        rows = torch.arange(blocks * block, device=device).view(blocks, block, 1)
        first = torch.arange(blocks, device=device).view(blocks, 1, 1) * block - left
        columns = first + torch.arange(left + block + right, device=device)
        near = (columns >= rows - left) & (columns <= rows + right)
        near &= (columns >= globals_) & (columns < n)  # globals have columns of their own
        shared = torch.arange(globals_, device=device).expand(blocks, block, globals_)
        seen = shared <= rows if self.shape.causal else torch.ones_like(shared, dtype=torch.bool)
        return torch.cat([seen, near], dim=-1)[None]

    def _real_keys(self, padding: Tensor, globals_: int) -> Tensor:
        """bool `[B, blocks, 1, globals + span]`: which of the keys a block sees are not padding."""
        block, left, right = self._geometry(padding.shape[1])
        tail = -padding.shape[1] % block
        padded = F.pad(~padding, (left, right + tail), value=False)
        near = padded.unfold(1, left + block + right, block)
        shared = ~padding[:, None, :globals_].expand(-1, near.shape[1], -1)
        return torch.cat([shared, near], dim=-1)[:, :, None]

    def pattern(self, n: int, device: torch.device | None = None) -> Tensor:
        """bool `[n, n]`: True where query i attends key j, straight from the definition."""
        position = torch.arange(n, device=device)
        mask = (position[:, None] - position[None, :]).abs() <= self.window // 2
        mask |= (position < self.global_tokens)[:, None] | (position < self.global_tokens)[None, :]
        return mask.tril() if self.shape.causal else mask

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Softmax over N x N scores under the boolean pattern."""
        return dense_attention(q, k, v, both(allowed_keys(key_padding_mask), self.pattern(q.shape[-2], q.device)))

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 D a pair the blocks compute: N (block + both sides + globals), and the global rows' N each."""
        block, left, right = self._geometry(seq_len)
        globals_ = min(self.global_tokens, seq_len)
        padded = -(-seq_len // block) * block
        pairs = padded * (left + block + right + globals_) + globals_ * seq_len
        return 4 * batch_size * self.shape.heads * pairs * self.shape.head_dim

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """As the fused kernel it runs on: 3.5 times the forward."""
        return self.flops(batch_size, seq_len) * 7 // 2

    def degenerate(self, seq_len: int) -> bool:
        """The window covers the sequence: from `window >= seq_len` on nothing is saved."""
        return self.window >= seq_len


def _repeat(x: Tensor, blocks: int) -> Tensor:
    """`[B, H, g, D]` -> `[B*H, blocks, g, D]` without a copy."""
    return x.flatten(0, 1)[:, None].expand(-1, blocks, -1, -1)
