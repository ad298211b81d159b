"""Independent random streams from one seed. Nothing in the tasks draws from global random state."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, axis: str) -> int:
    """A 64-bit seed for one named purpose; streams of different `axis` or `seed` are independent."""
    digest = hashlib.sha256(f"{seed}/{axis}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def generator(seed: int, axis: str) -> np.random.Generator:
    """A numpy generator of its own for one named purpose."""
    return np.random.default_rng(derive_seed(seed, axis))
