"""Longer position embeddings from those of a pretrained model."""

from __future__ import annotations

import torch
from torch import Tensor


def tile_positions(positions: Tensor, length: int) -> Tensor:
    """Learned position embeddings `[n, E]` -> `[length, E]`, the given ones again and again, as a new tensor.

    Section 5 of the paper ("copy initialization"): what attention learned of local order holds everywhere but
    at the seams. ValueError for a length below 1.
    """
    if length < 1:
        raise ValueError(f"length={length}: expected an integer >= 1")
    return positions.detach()[torch.arange(length, device=positions.device) % positions.shape[0]]
