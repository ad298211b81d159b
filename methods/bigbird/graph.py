"""What BigBird's pattern claims as a graph (Zaheer et al. 2020, section 2): short paths, clusters, fast mixing.

Random edges make paths logarithmic (Erdos and Renyi), the window makes neighbours share neighbours (Watts and
Strogatz), and a large spectral gap lets information spread in few layers. Works on blocks, undirected.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path


@dataclass(frozen=True)
class Diagnostics:
    """Three numbers of one graph."""

    path_length: float
    """Mean shortest path between two different nodes; inf if some cannot reach each other."""
    clustering: float
    """Mean share of a node's pairs of neighbours that are neighbours (0 for fewer than two neighbours)."""
    spectral_gap: float
    """1 minus the second largest eigenvalue of the walk along edges, self-edges included: 0 if it never mixes."""


def diagnose(adjacency: ArrayLike) -> Diagnostics:
    """bool `[nodes, nodes]`, an edge where either direction attends -> its diagnostics.

    ValueError unless it is square with two nodes at least.
    """
    edges = np.asarray(adjacency, dtype=bool)
    if edges.ndim != 2 or edges.shape[0] != edges.shape[1] or len(edges) < 2:
        raise ValueError(f"adjacency={list(edges.shape)}: expected a square matrix of at least 2 nodes")
    edges = edges | edges.T
    return Diagnostics(_path_length(edges), _clustering(edges), _spectral_gap(edges))


def _path_length(edges: NDArray[np.bool_]) -> float:
    steps = shortest_path(csr_array(edges), unweighted=True, directed=False)
    return float(steps[~np.eye(len(edges), dtype=bool)].mean())


def _clustering(edges: NDArray[np.bool_]) -> float:
    """Watts and Strogatz 1998: triangles through a node over the pairs of its neighbours."""
    links = (edges & ~np.eye(len(edges), dtype=bool)).astype(float)
    degree = links.sum(axis=1)
    closed = np.einsum("ij,ij->i", links @ links, links)
    pairs = degree * (degree - 1)
    return float(np.divide(closed, pairs, out=np.zeros_like(closed), where=pairs > 0).mean())


def _spectral_gap(edges: NDArray[np.bool_]) -> float:
    """Of D^(-1/2) (A + I) D^(-1/2), which has the eigenvalues of the random walk and is symmetric."""
    links = (edges | np.eye(len(edges), dtype=bool)).astype(float)
    root = links.sum(axis=1) ** -0.5
    values = np.linalg.eigvalsh(links * root * root[:, None])
    return float(1 - values[-2])
