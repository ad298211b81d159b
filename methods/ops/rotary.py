"""Rotary positions (Su et al. 2021, RoFormer, arXiv 2104.09864, section 3.2): q and k turned by their places.

Dimensions i and i + D/2 of a head form a pair (the halves of GPT-NeoX, where the paper pairs neighbours: the
same up to the order of the dimensions, which the projections learn). At place m the pair turns by the angle
m base^(-2i/D), so that q_m . k_n depends on m and n through m - n only (equation 16).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Table = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Rotary:
    """Places of a sequence whose first `front_tokens` rows stand before it and are not turned.

    ValueError for an odd `head_dim`, which has no pairs.
    """

    head_dim: int
    front_tokens: int = 0
    base: float = 10000.0

    def __post_init__(self) -> None:
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim}: expected an even number for rotary positions")

    def table(self, rows: Tensor, dtype: torch.dtype) -> Table:
        """Cosines and sines `[B or 1, 1, n, D/2]` for row numbers int64 `[B or 1, n]`, in float32 at least."""
        wide = torch.promote_types(dtype, torch.float32)
        places = (rows - self.front_tokens).clamp_min(0)
        pairs = torch.arange(0, self.head_dim, 2, device=rows.device, dtype=wide)
        angles = places[:, None, :, None] * self.base ** (-pairs / self.head_dim)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, table: Table) -> Tensor:
    """x `[B, H, n, D]` turned by `Rotary.table`'s angles, in the table's dtype -> the same shape and dtype."""
    cos, sin = table
    one, two = x.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat([one * cos - two * sin, two * cos + one * sin], dim=-1).to(x.dtype)
