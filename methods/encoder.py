"""The one Transformer encoder around any method: only the attention differs between two models compared.

Pre-LN blocks as in Long Range Arena: x + attention(LN(x)), x + MLP(LN(x)), one LN at the end. The same blocks,
with the same parameters, run reversibly on two streams (methods/reversible.py); the encoder then goes on with
the mean of both, which keeps the width that heads expect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods.base import Attention
from methods.mixer import Mixer
from methods.reversible import parts, run_reversible

Positions = Literal["learned", "sinusoidal", "none"]


def sinusoids(length: int, width: int) -> Tensor:
    """Fixed positions `[length, width]` (Vaswani et al. 2017, section 3.5): sines, then cosines."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


class Block(nn.Module):
    """One layer: attention and MLP, each behind a LayerNorm and around a residual.

    The MLP works on `ff_chunks` pieces of the sequence in turn (section 3 of the Reformer paper), so that only
    one piece's `ff_dim` activations are there at a time; in training they are computed again for the gradient.
    """

    def __init__(self, attention: Attention, ff_dim: int, dropout: float, ff_chunks: int = 1) -> None:
        super().__init__()
        width = attention.shape.heads * attention.shape.head_dim
        self.ff_dim = ff_dim
        self.ff_chunks = ff_chunks
        self.norm_mixer = nn.LayerNorm(width)
        self.mixer = Mixer(attention)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, ff_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(ff_dim, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, padding: Tensor | None, global_mask: Tensor | None = None) -> Tensor:
        """`[B, N, E]` -> `[B, N, E]`; masks bool `[B, N]`: True at padding, True at global tokens."""
        hidden = hidden + self.mix(hidden, padding, global_mask)
        if self.ff_chunks == 1:
            return hidden + self.feed(hidden)
        if torch.is_grad_enabled():
            fed = [checkpoint(self.feed, part, use_reentrant=False) for part in parts(hidden, self.ff_chunks)]
            return hidden + torch.cat(fed, dim=1)
        for part in parts(hidden, self.ff_chunks):  # `hidden` is this call's own
            part += self.feed(part)
        return hidden

    def mix(self, hidden: Tensor, padding: Tensor | None, global_mask: Tensor | None) -> Tensor:
        """What the attention adds; `global_mask` reaches methods that declare `token_globals`."""
        normed = self.norm_mixer(hidden)
        if global_mask is not None and self.mixer.attention.capabilities.token_globals:
            mixed = self.mixer(normed, padding, global_mask)
        else:
            mixed = self.mixer(normed, padding)
        added: Tensor = self.dropout(mixed)
        return added

    def feed(self, hidden: Tensor) -> Tensor:
        """What the MLP adds, position by position."""
        added: Tensor = self.dropout(self.mlp(self.norm_mlp(hidden)))
        return added


class Encoder(nn.Module):
    """Tokens int64 `[B, N]` to hidden states `[B, N, heads x head_dim]`, one `attention` a layer."""

    def __init__(
        self,
        attention: Sequence[Attention],
        *,
        vocab_size: int,
        ff_dim: int,
        dropout: float = 0.0,
        positions: Positions = "learned",
        reversible: bool = False,
        ff_chunks: int = 1,
    ) -> None:
        super().__init__()
        if ff_chunks < 1:
            raise ValueError(f"ff_chunks={ff_chunks}: expected an integer >= 1")
        self.reversible, self.ff_chunks = reversible, ff_chunks
        shape = attention[0].shape
        width = shape.heads * shape.head_dim
        self.embed = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.positions: Tensor | None
        if positions == "learned":
            self.register_parameter("positions", nn.Parameter(torch.empty(shape.seq_len, width).normal_(std=0.02)))
        else:
            fixed = sinusoids(shape.seq_len, width) if positions == "sinusoidal" else None
            self.register_buffer("positions", fixed)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(layer, ff_dim, dropout, ff_chunks) for layer in attention)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, padding: Tensor | None = None, global_mask: Tensor | None = None) -> Tensor:
        """Encode. Masks are bool `[B, N]`: `padding` True at pads, whose hidden states are meaningless,
        `global_mask` True at tokens that see and are seen by all (None: what the method itself makes global).
        """
        hidden = self.embed(tokens)
        if self.positions is not None:
            hidden = hidden + self.positions[: tokens.shape[1]]
        hidden = self.dropout(hidden)
        if self.reversible:
            one, two = run_reversible(self.layers(), hidden, padding, global_mask, ff_chunks=self.ff_chunks)
            hidden = ((one + two) / 2).to(hidden.dtype)
        else:
            for block in self.blocks:
                hidden = block(hidden, padding, global_mask)
        normed: Tensor = self.norm(hidden)
        return normed

    def layers(self) -> list[Block]:
        """The blocks, first to last."""
        return [cast(Block, block) for block in self.blocks]

    def flops(self, batch_size: int, seq_len: int, *, train: bool) -> int:
        """Matrix products of all blocks in one forward, or in forward and backward; embeddings cost none.

        What the backward computes again counts: every forward of reversible layers, that of a chunked MLP.
        """
        total = 0
        for block in self.layers():
            mlp = 4 * batch_size * seq_len * self.norm.normalized_shape[0] * block.ff_dim
            if not train:
                total += block.mixer.flops(batch_size, seq_len) + mlp
                continue
            total += block.mixer.train_flops(batch_size, seq_len) + 3 * mlp
            if self.reversible:
                total += block.mixer.flops(batch_size, seq_len) + mlp
            elif self.ff_chunks > 1:
                total += mlp
        return total
