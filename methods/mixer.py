"""The sequence-mixing layer around a core: projections to q, k, v, the attention, and the projection back."""

from __future__ import annotations

from torch import Tensor, nn

from methods.base import Attention


class Mixer(nn.Module):
    """Hidden states `[B, N, E]` to `[B, N, E]` with E = heads x head_dim; the same for every method.

    For a method with `shared_qk` only q and v are projected, and q is handed over as k.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        self.heads = attention.shape.heads
        width = attention.shape.heads * attention.shape.head_dim
        self.qkv = nn.Linear(width, (2 if attention.capabilities.shared_qk else 3) * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, hidden: Tensor, padding: Tensor | None = None) -> Tensor:
        """Mix `[B, N, E]` along N; padding bool `[B, N]`, True at pads."""
        width = self.qkv.in_features
        q, *k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(hidden).split(width, dim=-1)
        )
        mixed = self.attention(q, k[0] if k else q, v, key_padding_mask=padding)
        projected: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return projected

    def flops(self, batch_size: int, seq_len: int) -> int:
        """The projections and the attention between them."""
        projections = 2 * batch_size * seq_len * (self.qkv.weight.numel() + self.out.weight.numel())
        return projections + self.attention.flops(batch_size, seq_len)

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """Three times the projections, and the attention's own count."""
        projections = self.flops(batch_size, seq_len) - self.attention.flops(batch_size, seq_len)
        return 3 * projections + self.attention.train_flops(batch_size, seq_len)
