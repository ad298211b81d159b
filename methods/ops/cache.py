"""Keys and values of the tokens so far: the decoding state of every method that looks back at all of them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.base import Attention, Shape, Unsupported


@dataclass
class KVCache:
    """Buffers `[B, H, capacity, D]` of which the first `length` rows hold tokens; they double when full."""

    keys: Tensor
    values: Tensor
    length: int = 0

    @classmethod
    def empty(cls, shape: Shape, batch_size: int, device: torch.device, dtype: torch.dtype) -> KVCache:
        """No token yet. Unsupported for a shape that is not causal: a token would need those to come."""
        if not shape.causal:
            raise Unsupported("decoding token by token needs the causal form (causal=true)")
        size = (batch_size, shape.heads, 16, shape.head_dim)
        keys, values = (torch.empty(size, device=device, dtype=dtype) for _ in range(2))
        return cls(keys, values)

    @staticmethod
    def size(shape: Shape, length: int) -> int:
        """Numbers held for `length` tokens of one sequence, not counting spare capacity."""
        return 2 * shape.heads * shape.head_dim * length

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add tokens k, v `[B, H, m, D]` in place; returns all so far, `[B, H, length, D]`, without gradient."""
        end = self.length + k.shape[2]
        if end > self.keys.shape[2]:
            self.keys, self.values = (_grown(x, max(end, 2 * x.shape[2])) for x in (self.keys, self.values))
        self.keys[:, :, self.length : end] = k.detach()
        self.values[:, :, self.length : end] = v.detach()
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


def _grown(x: Tensor, capacity: int) -> Tensor:
    larger = x.new_empty(*x.shape[:2], capacity, x.shape[3])
    larger[:, :, : x.shape[2]] = x
    return larger


class CachedAttention(Attention):
    """Decodes by letting the newest query look at the keys of all tokens so far."""

    @abstractmethod
    def look_back(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """q `[B, H, R, D]` attends all of keys and values `[B, H, n, D]` -> `[B, H, R, D]`."""

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> KVCache:
        """An empty cache."""
        return KVCache.empty(self.shape, batch_size, device, dtype)

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: KVCache) -> tuple[Tensor, KVCache]:
        """See `Attention.step`. The given state is used up; keys and values of the past get no gradient."""
        return self.look_back(q, *state.append(k, v)), state

    def prefill(self, k: Tensor, v: Tensor, state: KVCache) -> KVCache:
        """See `Attention.prefill`."""
        state.append(k, v)
        return state

    def state_size(self, seq_len: int) -> int:
        """A key and a value of every token."""
        return KVCache.size(self.shape, seq_len)
