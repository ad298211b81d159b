"""The one Transformer encoder around any method: only the attention differs between two models compared.

Pre-LN blocks as in Long Range Arena: x + attention(LN(x)), x + MLP(LN(x)), one LN at the end. The same blocks,
with the same parameters, run reversibly on two streams (methods/reversible.py); the encoder then goes on with
the mean of both, which keeps the width that heads expect.

Learned tokens may stand in front of the input: LRA's CLS, BigBird-ETC's global tokens. They are real, and
global for methods with `token_globals`. What their place says is in their vectors, so that they get no position.
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
from methods.ops.rotary import Rotary
from methods.reversible import parts, run_reversible

Positions = Literal["learned", "sinusoidal", "rotary", "none"]


def sinusoids(length: int, width: int) -> Tensor:
    """Fixed positions `[length, width]` (Vaswani et al. 2017, section 3.5): sines, then cosines."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


def drawn_in_front(count: int, width: int, std: float) -> Tensor:
    """Initial front tokens `[count, width]`: 0 for the first, as LRA's CLS; N(0, std^2) for the others.

    Rows that start alike would stay alike. The global generator is left as it was, so that all that is drawn
    after it is the same with and without front tokens.
    """
    front = torch.zeros(count, width)
    if count > 1:
        with torch.random.fork_rng(devices=[]):
            seed = int(torch.randint(2**62, (), device="cpu"))
        front[1:].normal_(0, std, generator=torch.Generator().manual_seed(seed))
    return front


def own_globals(attention: Attention) -> float:
    """How many first tokens the method makes global by itself; no limit where it takes no `global_mask`."""
    return int(getattr(attention, "global_tokens", 0)) if attention.capabilities.token_globals else math.inf


class Block(nn.Module):
    """One layer: attention and MLP, each behind a LayerNorm and around a residual.

    The MLP works on `ff_chunks` pieces of the sequence in turn (section 3 of the Reformer paper), so that only
    one piece's `ff_dim` activations are there at a time; in training they are computed again for the gradient.
    """

    def __init__(
        self,
        attention: Attention,
        ff_dim: int,
        dropout: float,
        ff_chunks: int = 1,
        *,
        width: int | None = None,
        rotary: Rotary | None = None,
    ) -> None:
        super().__init__()
        width = attention.shape.heads * attention.shape.head_dim if width is None else width
        self.ff_dim = ff_dim
        self.ff_chunks = ff_chunks
        self.norm_mixer = nn.LayerNorm(width)
        self.mixer = Mixer(attention, width=width, rotary=rotary)
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
    """Tokens int64 `[B, N]` to hidden states `[B, N, E]`, one `attention` a layer.

    E is `width`, or heads x head_dim. `front_tokens` learned vectors stand before the tokens: the layers see
    N + front_tokens rows, the longest of which they are built for (`Shape.seq_len`). Embeddings start as
    N(0, embedding_std^2), learned positions as N(0, 0.02^2).
    """

    def __init__(
        self,
        attention: Sequence[Attention],
        *,
        vocab_size: int,
        ff_dim: int,
        width: int | None = None,
        dropout: float = 0.0,
        positions: Positions = "learned",
        embedding_std: float = 0.02,
        front_tokens: int = 0,
        reversible: bool = False,
        ff_chunks: int = 1,
    ) -> None:
        super().__init__()
        shape = attention[0].shape
        if ff_chunks < 1:
            raise ValueError(f"ff_chunks={ff_chunks}: expected an integer >= 1")
        if not 0 <= front_tokens < shape.seq_len:
            raise ValueError(f"front_tokens={front_tokens}: expected an integer from 0 to {shape.seq_len - 1}")
        self.reversible, self.ff_chunks, self.front_tokens = reversible, ff_chunks, front_tokens
        width = shape.heads * shape.head_dim if width is None else width
        self.embed = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embed.weight, std=embedding_std)
        self.positions: Tensor | None
        longest = shape.seq_len - front_tokens
        if positions == "learned":
            self.register_parameter("positions", nn.Parameter(torch.empty(longest, width).normal_(std=0.02)))
        else:
            self.register_buffer("positions", sinusoids(longest, width) if positions == "sinusoidal" else None)
        rotary = Rotary(shape.head_dim, front_tokens) if positions == "rotary" else None
        self.front: nn.Parameter | None = None
        if front_tokens:
            self.front = nn.Parameter(drawn_in_front(front_tokens, width, embedding_std))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(layer, ff_dim, dropout, ff_chunks, width=width, rotary=rotary) for layer in attention
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        tokens: Tensor,
        padding: Tensor | None = None,
        global_mask: Tensor | None = None,
        *,
        keep_front: bool = False,
    ) -> Tensor:
        """Encode. Masks are bool `[B, N]`: `padding` True at pads, whose hidden states are meaningless,
        `global_mask` True at tokens that see and are seen by all (None: what the method itself makes global).
        With `keep_front` the result is `[B, front_tokens + N, E]`.
        """
        hidden = self.embed(tokens)
        if self.positions is not None:
            hidden = hidden + self.positions[: tokens.shape[1]]
        if self.front is not None:
            hidden = torch.cat([self.front.to(hidden.dtype).expand(len(hidden), -1, -1), hidden], dim=1)
            padding, global_mask = self._masks_with_front(hidden, padding, global_mask)
        hidden = self.dropout(hidden)
        if self.reversible:
            one, two = run_reversible(self.layers(), hidden, padding, global_mask, ff_chunks=self.ff_chunks)
            hidden = ((one + two) / 2).to(hidden.dtype)
        else:
            for block in self.blocks:
                hidden = block(hidden, padding, global_mask)
        normed: Tensor = self.norm(hidden if keep_front else hidden[:, self.front_tokens :])
        return normed

    def _masks_with_front(
        self, hidden: Tensor, padding: Tensor | None, global_mask: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Both masks for `hidden` `[B, front_tokens + N, E]`: its front is no padding, and global.

        A method's own globals count from the front, so that none need be named where they cover it.
        """
        batch, count = len(hidden), self.front_tokens
        if padding is not None:
            padding = torch.cat([padding.new_zeros(batch, count), padding], dim=1)
        if global_mask is not None:
            global_mask = torch.cat([global_mask.new_ones(batch, count), global_mask], dim=1)
        elif any(own_globals(block.mixer.attention) < count for block in self.layers()):
            global_mask = (torch.arange(hidden.shape[1], device=hidden.device) < count).expand(batch, -1)
        return padding, global_mask

    def layers(self) -> list[Block]:
        """The blocks, first to last."""
        return [cast(Block, block) for block in self.blocks]

    def flops(self, batch_size: int, seq_len: int, *, train: bool) -> int:
        """Matrix products of all blocks in one forward, or in forward and backward; embeddings cost none.

        The front tokens come on top of `seq_len`. What the backward computes again counts: every forward of
        reversible layers, that of a chunked MLP.
        """
        total = 0
        seq_len += self.front_tokens
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
