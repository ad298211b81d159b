"""Longformer (Beltagy, Peters, Cohan 2020, arXiv 2004.05150): a sliding window and a few global tokens.

Token i attends the tokens within `window / 2` on each side (section 3.1), in dilated heads every `dilation`-th
of a window that much wider, and the global tokens; a global token attends every token and is attended by every
token ("Global Attention"). A local row has one softmax over window and global keys, in which no key counts
twice; its scores use the local projections for global keys too, as both public codes do. A global row's softmax
uses projections of its own where it is given them, those of all tokens otherwise.

The paper leaves globals undefined under causality: here the causal form keeps the pairs with j <= i.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.base import Attention, Capabilities, Mode, PerLayer, Shape
from methods.ops.bands import Band, Heads, Pattern, pairs
from methods.ops.dense import dense_attention
from methods.ops.window_backends import BACKENDS, Backend, GlobalQKV, choose, mostly_dense, run


class Longformer(Attention):
    """Window attention without N x N scores and without a copied window.

    `window` is the total width, half on each side. `dilation` is the step between the keys of a window (1: none)
    in the last `dilated_heads` heads (the paper's 2, or all of fewer); both may be lists by layer. Globals are
    the first `global_tokens` positions, or what `global_mask` names in each row of the batch. With
    `global_projections` a mixer learns separate projections for global rows. A NaN or infinity in q spoils its
    row, in k or v the rows of its head that attend it or share a tile with one that does.
    """

    capabilities = Capabilities(token_globals=True)
    budget = "window"

    def __init__(
        self,
        shape: Shape,
        *,
        window: PerLayer = 256,
        global_tokens: int = 1,
        dilation: PerLayer = 1,
        dilated_heads: int = 2,
        global_projections: bool = True,
        backend: Backend = "auto",
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        if window < 2 or window % 2:
            raise ValueError(f"window={window}: expected an even number >= 2 (the total width)")
        if global_tokens < 0:
            raise ValueError(f"global_tokens={global_tokens}: expected an integer >= 0")
        if dilation < 1:
            raise ValueError(f"dilation={dilation}: expected an integer >= 1 (1: no gaps)")
        if dilated_heads < 0:
            raise ValueError(f"dilated_heads={dilated_heads}: expected an integer >= 0")
        if backend not in BACKENDS:
            raise ValueError(f"backend={backend}: expected one of {', '.join(BACKENDS)}")
        self.window = window
        self.global_tokens = global_tokens
        self.dilation = dilation
        self.dilated_heads = dilated_heads
        self.global_projections = global_projections
        self.pinned: Backend = backend

    def global_places(self, n: int, global_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None] | None:
        """The positions of global tokens, int64 `[B or 1, G]` ascending, and which of them count (None: all).

        Rows of the batch with fewer globals than others are filled up. None if there is no global token.
        ValueError for a mask that is not bool `[B, n]`.
        """
        if global_mask is None:
            count = min(self.global_tokens, n)
            return (torch.arange(count)[None], None) if count else None
        if global_mask.dtype != torch.bool or global_mask.dim() != 2 or global_mask.shape[1] != n:
            found = f"{str(global_mask.dtype).removeprefix('torch.')} {list(global_mask.shape)}"
            raise ValueError(f"global_mask={found}: expected bool [batch, {n}]")
        counts = global_mask.sum(dim=1)
        most = int(counts.max())
        if most == 0:
            return None
        index = (~global_mask).byte().argsort(dim=1, stable=True)[:, :most]
        return index, torch.arange(most, device=index.device) < counts[:, None]

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        global_mask: Tensor | None = None,
        global_qkv: GlobalQKV | None = None,
    ) -> Tensor:
        """See `Attention.forward`. `global_mask`: bool `[B, N]`, the global tokens of each row of the batch,
        in place of the first `global_tokens`. `global_qkv`: queries `[B, H, G, D]` of `global_places`, and the
        keys and values `[B, H, N, D]` that they attend. Raises Unsupported where a pinned backend cannot run.
        """
        self.backend = choose(self.pinned, q, k, v, self._bands())
        if self.backend == "dense":
            masks = {"key_padding_mask": key_padding_mask, "global_mask": global_mask}
            return self.dense_reference(q, k, v, **masks, global_qkv=global_qkv)
        pattern = self._pattern(q, key_padding_mask, global_mask)
        return run(self.backend, q, k, v, pattern, global_qkv=global_qkv)

    def _bands(self) -> tuple[Heads, ...]:
        """The heads by what they see."""
        radius, heads = self.window // 2, self.shape.heads
        right = 0 if self.shape.causal else radius
        plain = heads - min(self.dilated_heads, heads) if self.dilation > 1 else heads
        parts = (Heads(0, plain, Band(radius, right)), Heads(plain, heads, Band(radius, right, self.dilation)))
        return tuple(part for part in parts if part.last > part.first)

    def _pattern(self, q: Tensor, padding: Tensor | None, global_mask: Tensor | None) -> Pattern:
        places = self.global_places(q.shape[-2], global_mask)
        if places is None:
            return Pattern(self._bands(), self.shape.causal, padding)
        index, used = places
        return Pattern(self._bands(), self.shape.causal, padding, index.to(q.device), used, rows=True)

    def pattern(self, n: int, device: torch.device | None = None, global_mask: Tensor | None = None) -> Tensor:
        """bool `[B or 1, H, n, n]`: True where query i attends key j, straight from the definition."""
        position = torch.arange(n, device=device)
        ahead = position - position[:, None]
        reach = self.window // 2
        near = (ahead.abs() <= reach).repeat(self.shape.heads, 1, 1)
        for head in range(max(0, self.shape.heads - self.dilated_heads), self.shape.heads):
            near[head] = (ahead.abs() <= reach * self.dilation) & (ahead % self.dilation == 0)
        is_global = (position < self.global_tokens)[None] if global_mask is None else global_mask
        mask = near | is_global[:, None, None, :] | is_global[:, None, :, None]
        return mask.tril() if self.shape.causal else mask

    def dense_reference(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        global_mask: Tensor | None = None,
        global_qkv: GlobalQKV | None = None,
    ) -> Tensor:
        """Softmax over N x N scores under the boolean pattern; the arguments of `forward`."""
        n = q.shape[-2]
        allowed = self.pattern(n, q.device, global_mask)
        if key_padding_mask is not None:
            allowed = allowed & ~key_padding_mask[:, None, None, :]
        out = dense_attention(q, k, v, allowed)
        if global_qkv is None:
            return out
        queries, keys, values = global_qkv
        first = torch.arange(n, device=q.device) < self.global_tokens
        is_global = first.expand(q.shape[0], n) if global_mask is None else global_mask
        spread = torch.zeros_like(q)
        for row, mask in enumerate(is_global):
            spread[row, :, mask] = queries[row, :, : int(mask.sum())]
        return torch.where(is_global[:, None, :, None], dense_attention(spread, keys, values, allowed), out)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 D a pair: on CPU the tiles of the bands, N a global column and row; N^2 where all are computed."""
        shared = min(self.global_tokens, seq_len)
        bands = self._bands()
        count = sum((part.last - part.first) * pairs(seq_len, part.band) for part in bands)
        count += self.shape.heads * 2 * shared * seq_len
        if self.pinned in ("dense", "masked") or (self.pinned == "auto" and mostly_dense(seq_len, bands)):
            count = self.shape.heads * seq_len**2
        return 4 * batch_size * count * self.shape.head_dim

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """3.5 times the forward: the backward recomputes the scores, 5 products against 2; 3 times when dense."""
        return self.flops(batch_size, seq_len) * (6 if self.pinned == "dense" else 7) // 2

    def footprint_bytes(self, batch_size: int, seq_len: int, mode: Mode, itemsize: int) -> int:
        """The output, and in training the gradients; the scores where a backend holds them."""
        output = super().footprint_bytes(batch_size, seq_len, mode, itemsize)
        scores = {"dense": seq_len, "diagonals": min(seq_len, self.window + 1)}.get(self.pinned, 0)
        held = batch_size * self.shape.heads * seq_len * scores * itemsize
        return output * (4 if mode == "train" else 1) + held

    def degenerate(self, seq_len: int) -> bool:
        """The window covers the sequence: from `window >= seq_len` on nothing is saved."""
        return self.window >= seq_len
