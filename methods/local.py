"""Local attention: a sliding window, with attention sinks (Xiao et al. 2023, StreamingLLM, arXiv 2309.17453).

Causal: token i attends the last `window` tokens, itself among them (i - j < window), and the first `sinks`
tokens (j < sinks): the mask that StreamingLLM's cache of sinks and recent tokens amounts to in a prefill.
Bidirectional: the `window` tokens on each side of it, itself, and the sinks.

A learned sink (gpt-oss) is one logit a head that joins every row's softmax and is dropped after it, so that
rows sum to less than one. No position enters here: positions in the cache are the model's affair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.base import Attention, Capabilities, PerLayer, Shape, Unsupported
from methods.ops.bands import Band, Heads, Pattern, pairs
from methods.ops.dense import masked_softmax
from methods.ops.window_backends import BACKENDS, Backend, choose, mostly_dense, run


@dataclass
class RollingCache:
    """The first `sinks` tokens and after them, in a ring, the most recent others: `[B, H, sinks + window, D]`."""

    keys: Tensor
    values: Tensor
    sinks: int
    length: int = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add one token `[B, H, 1, D]` in place; returns all that it may attend, in no particular order."""
        size = self.keys.shape[2]
        slot = self.length if self.length < size else self.sinks + (self.length - self.sinks) % (size - self.sinks)
        self.keys[:, :, slot] = k[:, :, 0].detach()
        self.values[:, :, slot] = v[:, :, 0].detach()
        self.length += 1
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def extend(self, k: Tensor, v: Tensor) -> None:
        """Add tokens `[B, H, n, D]` in place, those that would be overwritten left out."""
        count, size = k.shape[2], self.keys.shape[2]
        numbers = torch.arange(self.length, self.length + count)
        slots = torch.where(numbers < size, numbers, self.sinks + (numbers - self.sinks) % (size - self.sinks))
        lasting = (numbers < self.sinks) | (numbers >= self.length + count - (size - self.sinks))
        for cache, new in ((self.keys, k), (self.values, v)):
            cache[:, :, slots[lasting].to(cache.device)] = new[:, :, lasting.to(new.device)].detach()
        self.length += count


class Local(Attention):
    """`window`: tokens on each side, or when causal the last that many with the token itself.

    A NaN or infinity in q spoils its row, in k or v the rows of its head that attend it or share a tile with one
    that does.
    """

    capabilities = Capabilities(decode=True)
    budget = "window"

    def __init__(
        self,
        shape: Shape,
        *,
        window: PerLayer = 128,
        sinks: int = 4,
        learned_sink: bool = False,
        backend: Backend = "auto",
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        if window < 1:
            raise ValueError(f"window={window}: expected an integer >= 1")
        if sinks < 0:
            raise ValueError(f"sinks={sinks}: expected an integer >= 0")
        if backend not in BACKENDS:
            raise ValueError(f"backend={backend}: expected one of {', '.join(BACKENDS)}")
        self.window = window
        self.sinks = sinks
        self.sink_logits = nn.Parameter(torch.zeros(shape.heads)) if learned_sink else None
        self.pinned: Backend = backend
        self.band = Band(window - 1, 0) if shape.causal else Band(window, window)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`. Raises Unsupported where a pinned backend cannot run."""
        heads = (Heads(0, self.shape.heads, self.band),)
        self.backend = choose(self.pinned, q, k, v, heads, self.sink_logits)
        if self.backend == "dense":
            return self.dense_reference(q, k, v, key_padding_mask=key_padding_mask)
        sinks = torch.arange(min(self.sinks, q.shape[-2]), device=q.device)[None] if self.sinks else None
        pattern = Pattern(heads, self.shape.causal, key_padding_mask, sinks)
        return run(self.backend, q, k, v, pattern, sink=self.sink_logits)

    def pattern(self, n: int, device: torch.device | None = None) -> Tensor:
        """bool `[n, n]`: True where query i attends key j, straight from the definition."""
        position = torch.arange(n, device=device)
        back = position[:, None] - position
        if self.shape.causal:
            return (back >= 0) & ((back < self.window) | (position < self.sinks))
        return (back.abs() <= self.window) | (position < self.sinks)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Softmax over N x N scores, and the sink's logit, under the boolean pattern."""
        allowed = self.pattern(q.shape[-2], q.device)
        if key_padding_mask is not None:
            allowed = allowed & ~key_padding_mask[:, None, None, :]
        return self._weights((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), allowed) @ v

    def _weights(self, logits: Tensor, allowed: Tensor | None = None) -> Tensor:
        """The softmax of logits `[B, H, m, n]`, with the sink if there is one."""
        if self.sink_logits is None:
            return masked_softmax(logits, allowed)
        sink = self.sink_logits.to(logits.dtype)[:, None, None].expand(*logits.shape[:3], 1)
        if allowed is not None:
            logits = logits.masked_fill(~allowed, float("-inf"))
        both = torch.cat([logits, sink], dim=-1)
        return masked_softmax(both, ~both.isneginf())[..., :-1]

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 D a pair: the tiles of the band, and N a sink; N^2 where all are computed."""
        count = pairs(seq_len, self.band) + min(self.sinks, seq_len) * seq_len
        short = mostly_dense(seq_len, (Heads(0, 1, self.band),)) and self.sink_logits is None
        if self.pinned in ("dense", "masked") or (self.pinned == "auto" and short):
            count = seq_len**2
        return 4 * batch_size * self.shape.heads * count * self.shape.head_dim

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """3.5 times the forward: the backward recomputes the scores, 5 products against 2; 3 times when dense."""
        return self.flops(batch_size, seq_len) * (6 if self.pinned == "dense" else 7) // 2

    def degenerate(self, seq_len: int) -> bool:
        """The window covers the sequence, so that nothing is saved."""
        return self.window >= seq_len

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> RollingCache:
        """An empty cache. Unsupported for a shape that is not causal: a token would need those to come."""
        if not self.shape.causal:
            raise Unsupported("decoding token by token needs the causal form (causal=true)")
        size = (batch_size, self.shape.heads, self.sinks + self.window, self.shape.head_dim)
        keys, values = (torch.empty(size, device=device, dtype=dtype) for _ in range(2))
        return RollingCache(keys, values, self.sinks)

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: RollingCache) -> tuple[Tensor, RollingCache]:
        """See `Attention.step`. The given state is used up; keys and values of the past get no gradient."""
        keys, values = state.append(k, v)
        wide = torch.promote_types(q.dtype, torch.float32)
        logits = (q.to(wide) * q.shape[-1] ** -0.5) @ keys.to(wide).transpose(-1, -2)
        return (self._weights(logits) @ values.to(wide)).to(q.dtype), state

    def prefill(self, k: Tensor, v: Tensor, state: RollingCache) -> RollingCache:
        """See `Attention.prefill`."""
        state.extend(k, v)
        return state

    def state_size(self, seq_len: int) -> int:
        """A key and a value of each sink and of the last `window` others."""
        return 2 * self.shape.heads * self.shape.head_dim * min(seq_len, self.sinks + self.window)
