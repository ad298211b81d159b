"""Longformer as in Hugging Face transformers: `LongformerSelfAttention`, sliding chunks that overlap.

What it computes is the paper's pattern, bidirectional, with `window` the total width; no dilation, no causal
form. The global rows get the q, k, v that all rows have (the global projections start as copies, section 3.1).
Its softmax is always in float32, so that float64 input gives float32 accuracy; rows of padding come out as 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.adapters.optional import require
from methods.adapters.seams import Given, ThirdParty, construction, placeholder, split_heads
from methods.base import Capabilities, PerLayer, Shape
from methods.ops.dense import dense_attention

PROJECTIONS = ("query", "key", "value", "query_global", "key_global", "value_global")


class HFLongformer(ThirdParty):
    """Inputs are padded to a multiple of the window, as `LongformerModel` does."""

    capabilities = Capabilities(causal=False, dtypes=("float32", "bfloat16", "float16"))
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
        if window < 4 or window % 2:  # its chunks of one token on each side overlap in none, and it fails
            raise ValueError(f"window={window}: expected an even number >= 4 (the total width)")
        if global_tokens < 0:
            raise ValueError(f"global_tokens={global_tokens}: expected an integer >= 0")
        longformer = require("transformers.models.longformer.modeling_longformer", "transformers")
        super().__init__(shape, "transformers")
        self.window = window
        self.global_tokens = global_tokens
        config = longformer.LongformerConfig(
            hidden_size=shape.heads * shape.head_dim,
            num_attention_heads=shape.heads,
            attention_window=[window],
            attention_probs_dropout_prob=0.0,
        )
        with construction(0):
            self.attention = longformer.LongformerSelfAttention(config, layer_id=0)
        for name in PROJECTIONS:
            setattr(self.attention, name, Given())

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`."""
        n, inner = q.shape[-2], self.attention
        tail = -n % self.window
        q, k, v = (F.pad(x, (0, 0, 0, tail)) if tail else x for x in (q, k, v))
        role = self._roles(q, n, key_padding_mask)
        is_global = role > 0
        any_global = bool(is_global.any())
        tokens_first = [x.permute(2, 0, 1, 3) for x in (q, k, v)]
        # it scales the queries in place, as a projection's fresh output may be
        inner.query.give(tokens_first[0].clone())
        inner.key.give(tokens_first[1])
        inner.value.give(tokens_first[2])
        if any_global:
            inner.query_global.give(self._global_rows(tokens_first[0], is_global))
            inner.key_global.give(tokens_first[1])
            inner.value_global.give(tokens_first[2])
        out = inner(
            placeholder(q, n + tail),
            attention_mask=role,
            is_index_masked=role < 0,
            is_index_global_attn=is_global,
            is_global_attn=any_global,
        )[0]
        return split_heads(out, q.shape[1], n)

    def _roles(self, q: Tensor, n: int, padding: Tensor | None) -> Tensor:
        """`[B, M]`: 1 at global tokens, 0 at local ones, -1 at padding; M is the padded length."""
        role = torch.zeros(q.shape[0], q.shape[-2], device=q.device)
        role[:, : self.global_tokens] = 1
        if padding is not None:
            role[:, :n].masked_fill_(padding, -1)
        role[:, n:] = -1
        return role

    def _global_rows(self, q: Tensor, is_global: Tensor) -> Tensor:
        """`[g, B, H, D]`: the queries of the global tokens in the order in which the module asks for them."""
        count, tokens, slots, _ = self.attention._get_global_attn_indices(is_global)
        rows = q.new_zeros(int(count), *q.shape[1:])
        rows[slots[::-1]] = q[tokens[::-1]]
        return rows

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Softmax under the paper's boolean pattern; rows of padding are 0."""
        position = torch.arange(q.shape[-2], device=q.device)
        is_global = position < self.global_tokens
        pattern = (position[:, None] - position).abs() <= self.window // 2
        pattern = pattern | is_global | is_global[:, None]
        if key_padding_mask is None:
            return dense_attention(q, k, v, pattern)
        out = dense_attention(q, k, v, pattern & ~key_padding_mask[:, None, None, :])
        return out.masked_fill(key_padding_mask[:, None, :, None], 0.0)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """Scores of chunks of w by w at every w / 2, values of w / 2 by 3 w / 2, the same for a mask, globals."""
        heads, dim, side = self.shape.heads, self.shape.head_dim, self.window // 2
        n = seq_len + -seq_len % self.window
        scores = (n // side - 1) * self.window**2
        pairs = scores + 3 * n * side + 4 * n * min(self.global_tokens, seq_len)
        return 2 * batch_size * (heads * dim * pairs + scores)

    def degenerate(self, seq_len: int) -> bool:
        """The window covers the sequence: from `window >= seq_len` on nothing is saved."""
        return self.window >= seq_len
