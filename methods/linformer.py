"""Linformer (Wang et al. 2020, arXiv 2006.04768): keys and values projected along the sequence to `rank` slots.

head = softmax(Q (E K)^T / sqrt(D)) (F V) with learned E, F of shape [rank, seq_len] (equation 7). E mixes all
positions, so there is no causal form: masking the [N, rank] matrix would still leak the future.

Shorter inputs use the first columns of E and F. Padded positions are zeroed before the projection, which is the
same thing. Pooling (section 4, "General projections") has no matrix to slice, and the paper is silent: here the
blocks are those of seq_len tokens, a block pools its real tokens, and one without any is no slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from methods.base import Attention, Capabilities, PerLayer, Shape, Unsupported
from methods.ops.dense import masked_softmax
from methods.ops.fused import fused_attention
from methods.ops.projection import block_filters, block_maxima, block_means, empty_blocks, project
from methods.ops.segments import runs

Sharing = Literal["none", "headwise", "key_value", "layerwise"]
Projection = Literal["linear", "mean", "max", "conv"]
Init = Literal["jl", "uniform", "small"]


class Linformer(Attention):
    """`sharing` follows section 4: `none` (a matrix a head, E and F apart), `headwise` (E and F for all heads
    of a layer), `key_value` (E = F), `layerwise` (one E = F for all layers).

    With `layerwise` and a list of ranks the matrix has the largest rank, and a layer uses its first rows.
    `projection`: `linear`; `mean` and `max` over blocks of seq_len / rank tokens, without parameters; `conv`, a
    filter a channel over the same blocks. Blocks differ by one token where rank does not divide seq_len.
    `init` of linear projections: `jl` N(0, 1/rank), the scale of the Johnson-Lindenstrauss proof; `uniform`
    within 1/sqrt(rank) (lucidrains); `small` N(0, 0.02^2) (the authors of Nystromformer). Filters start as means.
    `dropout` drops weights of the [N, rank] matrix while training, from draws of its own (`draw_index`).

    NaN or infinite entries spoil their own head and batch row; what padded positions hold does not matter.
    """

    capabilities = Capabilities(causal=False, fixed_length=True, learned=True, normalised=False)
    budget = "rank"

    def __init__(
        self,
        shape: Shape,
        *,
        rank: PerLayer = 256,
        sharing: Sharing = "layerwise",
        projection: Projection = "linear",
        init: Init = "jl",
        dropout: float = 0.0,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        if rank < 1:
            raise ValueError(f"rank={rank}: expected an integer >= 1")
        for name, value, known in (
            ("sharing", sharing, Sharing),
            ("projection", projection, Projection),
            ("init", init, Init),
        ):
            if value not in get_args(known):
                raise ValueError(f"{name}={value}: expected one of {', '.join(get_args(known))}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: expected a number in [0, 1)")
        if init != "jl" and projection != "linear":
            raise Unsupported(f"init={init}: only projection=linear draws its parameters")
        self.rank = rank
        self.sharing: Sharing = sharing
        self.projection: Projection = projection
        self.init: Init = init
        self.dropout = dropout
        #: Blocks of the projections without a matrix: no more than there are tokens.
        self.blocks = min(rank, shape.seq_len)
        self.E = self._draw(generator)
        self.F = self.E if sharing in ("key_value", "layerwise") else self._draw(generator)
        self.dropout_seed = int(torch.randint(2**62, (), generator=generator, device="cpu")) if dropout else 0
        own = replace(
            self.capabilities,
            learned=projection in ("linear", "conv"),
            linear_in_v=projection != "max",
            deterministic=dropout == 0,
        )
        object.__setattr__(self, "capabilities", own)  # this instance's, in place of the class's

    def _draw(self, generator: torch.Generator | None) -> nn.Parameter | None:
        """A fresh E or F: `[1 or H, rank, seq_len]`, of filters `[1 or H, longest block, D]`, else None."""
        heads, n = self.shape.heads if self.sharing == "none" else 1, self.shape.seq_len
        if self.projection == "conv":
            width = -(-n // self.blocks)
            return nn.Parameter(torch.full((heads, width, self.shape.head_dim), 1 / width))
        if self.projection != "linear":
            return None
        matrix = torch.empty(heads, self.rank, n)
        if self.init == "uniform":
            return nn.Parameter(matrix.uniform_(-(self.rank**-0.5), self.rank**-0.5, generator=generator))
        return nn.Parameter(matrix.normal_(0, self.rank**-0.5 if self.init == "jl" else 0.02, generator=generator))

    @classmethod
    def layers(cls, shape: Shape, count: int, generator: torch.Generator, **params: Any) -> Sequence[Self]:
        """One a layer; under `layerwise` sharing they hold the very same parameter, of the largest rank.

        Unsupported for `layerwise` filters of several ranks, whose lengths differ.
        """
        built = super().layers(shape, count, generator, **params)
        if built and built[0].sharing == "layerwise":
            widest = max(built, key=lambda layer: layer.rank)
            if widest.projection == "conv" and any(layer.rank != widest.rank for layer in built):
                raise Unsupported("sharing=layerwise: with projection=conv all layers need the same rank")
            for layer in built:
                layer.E = layer.F = widest.E
        return built

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`. Raises ValueError for inputs longer than `seq_len`."""
        if k.shape[-2] > self.shape.seq_len:
            raise ValueError(f"seq_len={k.shape[-2]}: linformer was built for at most {self.shape.seq_len} tokens")
        slots, values = self._project(k, v, key_padding_mask)
        allowed = None
        if key_padding_mask is not None and self.projection in ("mean", "max"):
            allowed = ~empty_blocks(key_padding_mask, self.shape.seq_len, self.blocks)[:, None, None]
        if self.dropout and self.training:
            weights = masked_softmax(q @ slots.transpose(-1, -2) * q.shape[-1] ** -0.5, allowed)
            self.backend = "eager"
            return (weights * self._kept(weights)) @ values
        out, self.backend = fused_attention(q, slots, values, mask=allowed)
        return out

    def _project(self, k: Tensor, v: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """The slots that stand for keys and for values, `[B, H, slots, D]` each."""
        n, built, blocks = k.shape[-2], self.shape.seq_len, self.blocks
        if self.E is None or self.F is None:
            pool = block_means if self.projection == "mean" else block_maxima
            return pool(k, built, blocks, padding), pool(v, built, blocks, padding)
        E = self.E.to(k.dtype)
        F = E if self.F is self.E else self.F.to(v.dtype)
        if self.projection == "conv":
            return block_filters(k, E, built, blocks, padding), block_filters(v, F, built, blocks, padding)
        if (self.rank, n) != E.shape[1:]:  # a slice of everything would cost a copy in the backward
            E, F = (E[:, : self.rank, :n],) * 2 if F is E else (E[:, : self.rank, :n], F[:, : self.rank, :n])
        return project(E, F, k, v, padding)

    def _kept(self, weights: Tensor) -> Tensor:
        """0 where the present draw drops a weight, 1 / (1 - dropout) elsewhere; counts the draw up."""
        generator = torch.Generator(weights.device).manual_seed(self.dropout_seed + self.draw_index)
        self.draw_index += 1
        kept = torch.rand(weights.shape, generator=generator, device=weights.device) >= self.dropout
        return kept.to(weights.dtype) / (1 - self.dropout)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Equation 7 as written, as an N x N matrix: softmax(Q (E K)^T / sqrt(D)) F, then times V.

        Without dropout. Pooling and filters as a matrix a row of the batch and a channel; maxima block by block.
        """
        n = k.shape[-2]
        real = torch.ones(len(k), n, dtype=torch.bool, device=k.device)
        if key_padding_mask is not None:
            real = ~key_padding_mask
        if self.projection == "linear" and self.E is not None and self.F is not None:
            E, F = (x[:, : self.rank, :n].to(q.dtype) * real[:, None, None] for x in (self.E, self.F))
            slots = (q @ (E @ k).transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
            attended: Tensor = (slots @ F) @ v
            return attended
        positions = torch.arange(self.shape.seq_len, device=k.device)
        sizes = sorted(len(part) for part in positions.tensor_split(self.blocks))
        blocks = [part[part < n] for part in torch.split(positions, sizes)]
        rows = [self._pooled_row(q[b], k[b], v[b], real[b], blocks) for b in range(len(q))]
        return torch.stack(rows)

    def _pooled_row(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor, blocks: list[Tensor]) -> Tensor:
        """Reference of one batch row, `[H, N, D]`: the slots of its blocks one by one, then softmax over them."""

        def slots(x: Tensor, taps: Tensor | None) -> Tensor:
            found = []
            for block in blocks:
                own = block[real[block]]
                if taps is not None:
                    weights = taps[:, own - (block[0] if len(block) else 0)].to(x.dtype)
                    found.append((x[:, own] * weights).sum(1))
                elif len(own):
                    found.append(x[:, own].amax(1) if self.projection == "max" else x[:, own].mean(1))
            return torch.stack(found, dim=1) if found else x[:, :0]

        keys, values = slots(k, self.E), slots(v, self.F)
        attended: Tensor = (q @ keys.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1) @ values
        return attended

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 N slots D a head to attend, and as much to project keys and values by matrices."""
        heads, dim = batch_size * self.shape.heads, self.shape.head_dim
        if self.projection == "linear":
            return 8 * heads * seq_len * self.rank * dim
        reached = sum(run.count for run in runs(self.shape.seq_len, self.blocks, upto=seq_len))
        return 4 * heads * seq_len * (self.blocks if self.projection == "conv" else reached) * dim

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """3 times the projections and 3.5 times the fused attention."""
        return self.flops(batch_size, seq_len) * (13 if self.projection == "linear" else 14) // 4

    def degenerate(self, seq_len: int) -> bool:
        """No fewer slots than tokens: from `rank >= seq_len` on nothing is saved."""
        return self.rank >= seq_len
