"""Longformer (Beltagy, Peters, Cohan 2020, arXiv 2004.05150)."""

from methods.longformer.attention import Longformer
from methods.longformer.positions import tile_positions

__all__ = ["Longformer", "tile_positions"]
