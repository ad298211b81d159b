"""How many numbers attention moves between slow and fast memory (Dao et al. 2022, section 3.2).

A `Traffic` counts what an algorithm loads and stores while it runs; the functions say what it must come to.
All counts are of numbers, not bytes, for one head.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Traffic:
    """Numbers `loaded` and `stored`, and tiles `computed` and `skipped`."""

    loaded: int = 0
    stored: int = 0
    computed: int = 0
    skipped: int = 0

    @property
    def total(self) -> int:
        """Accesses of slow memory."""
        return self.loaded + self.stored

    def load(self, *tensors: Tensor) -> None:
        """These were read from slow memory."""
        self.loaded += sum(tensor.numel() for tensor in tensors)

    def store(self, *tensors: Tensor) -> None:
        """These were written to slow memory."""
        self.stored += sum(tensor.numel() for tensor in tensors)


def tile_sizes(dim: int, sram: int) -> tuple[int, int]:
    """(block_q, block_k) whose tiles of q, out, k, v and scores fit `sram` numbers together.

    Block_q grows with sram / dim and block_k is at most dim, as in Algorithm 1, line 1, of the paper with
    queries and keys exchanged, since here the loop over queries is the outer one (Dao 2023, section 3.1).
    ValueError where not even one row fits.
    """
    rows = sram // (5 * dim)
    if rows < 1:
        raise ValueError(f"sram={sram}: expected at least {5 * dim} numbers for dim={dim}")
    return rows, min(rows, dim)


def standard_accesses(n: int, dim: int) -> int:
    """The three passes of Algorithm 0: read q, k, write S; read S, write P; read P, v, write out."""
    return 4 * n * dim + 4 * n * n


def tiled_accesses(n: int, dim: int, sram: int, tiles: int | None = None) -> int:
    """q is read, out and its logsumexp are written once; each computed tile reads its k and v.

    `tiles` of the grid are computed, by default all: Theta(n dim + n^2 dim^2 / sram) (Theorem 2), of which a
    block-sparse mask scales the second term by its density (Proposition 4). Exact where the block sizes
    divide n.
    """
    block_q, block_k = tile_sizes(dim, sram)
    computed = -(-n // block_q) * -(-n // block_k) if tiles is None else tiles
    return 2 * n * dim + n + computed * 2 * block_k * dim
