"""The one Transformer encoder around any method: only the attention differs between two models compared.

Pre-LN blocks as in Long Range Arena: x + attention(LN(x)), x + MLP(LN(x)), one LN at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from methods.base import Attention
from methods.mixer import Mixer

Positions = Literal["learned", "sinusoidal", "none"]


def sinusoids(length: int, width: int) -> Tensor:
    """Fixed positions `[length, width]` (Vaswani et al. 2017, section 3.5): sines, then cosines."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


class Block(nn.Module):
    """One layer: attention and MLP, each behind a LayerNorm and around a residual."""

    def __init__(self, attention: Attention, ff_dim: int, dropout: float) -> None:
        super().__init__()
        width = attention.shape.heads * attention.shape.head_dim
        self.ff_dim = ff_dim
        self.norm_mixer = nn.LayerNorm(width)
        self.mixer = Mixer(attention)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, ff_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(ff_dim, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, padding: Tensor | None) -> Tensor:
        """`[B, N, E]` -> `[B, N, E]`."""
        hidden = hidden + self.dropout(self.mixer(self.norm_mixer(hidden), padding))
        out: Tensor = hidden + self.dropout(self.mlp(self.norm_mlp(hidden)))
        return out


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
    ) -> None:
        super().__init__()
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
        self.blocks = nn.ModuleList(Block(layer, ff_dim, dropout) for layer in attention)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        """Encode; padding bool `[B, N]`, True at pads, whose hidden states are meaningless."""
        hidden = self.embed(tokens)
        if self.positions is not None:
            hidden = hidden + self.positions[: tokens.shape[1]]
        hidden = self.dropout(hidden)
        for block in self.blocks:
            hidden = block(hidden, padding)
        normed: Tensor = self.norm(hidden)
        return normed

    def layers(self) -> list[Block]:
        """The blocks, first to last."""
        return [cast(Block, block) for block in self.blocks]

    def flops(self, batch_size: int, seq_len: int, *, train: bool) -> int:
        """Matrix products of all blocks in one forward, or in forward and backward; embeddings cost none."""
        total = 0
        for block in self.layers():
            mlp = 4 * batch_size * seq_len * self.norm.normalized_shape[0] * block.ff_dim
            mix = block.mixer.train_flops if train else block.mixer.flops
            total += mix(batch_size, seq_len) + (3 * mlp if train else mlp)
        return total
