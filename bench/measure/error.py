"""Approximation error: how far a method is from exact softmax attention on the same q, k, v.

On Gaussian q and k scaled to several norms, since every approximation fails sooner or later as logits grow.
Methods whose keys are their queries (`shared_qk`) are compared with exact attention of that kind.
The effective attention matrix of a method that is linear in V is read out with V = identity.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.cell import Cell, derive_seed
from bench.model import BASELINE_METHOD, attention_layers
from methods.registry import Attention

ROWS = 256
"""Query rows of exact attention that are materialised at a time."""


def measure(cell: Cell) -> dict[str, Any]:
    """`errors`: one dict a norm, with the relative output error and, for short inputs, the matrix errors."""
    device, dtype = cell.hardware.device, getattr(torch, cell.hardware.dtype)
    method = attention_layers(cell, cell.method, 1)[0].to(device=device, dtype=dtype).eval()
    exact = attention_layers(cell, BASELINE_METHOD, 1)[0].to(device).eval()
    if method.capabilities.learned:
        note = "not defined before training: the method has parameters of its own that must be learned"
        return {"errors": [{"qk_norm": norm, "note": note} for norm in cell.measure.qk_norms]}
    shared = method.capabilities.shared_qk
    rows: list[dict[str, Any]] = []
    for norm in cell.measure.qk_norms:
        generator = torch.Generator().manual_seed(derive_seed(cell.seed, "inputs"))
        shape = (cell.batch_size, cell.heads, cell.seq_len, cell.head_dim)
        q, k, v = (torch.randn(shape, generator=generator).to(device=device, dtype=dtype) for _ in "qkv")
        q = q * norm
        k = q if shared else k * norm
        with torch.no_grad():
            inputs = q.float(), k.float(), v.float()
            want = (target(method, *inputs) if shared else exact(*inputs)).double()
            got = method(q, k, v).double()
            row: dict[str, Any] = {"qk_norm": norm, "output_error": relative(got, want)}
            row["spectral_error"] = spectral(got, want)
            row |= {"note": why} if (why := _no_matrix(cell, method)) else _matrix_errors(cell, method, q, k)
        rows.append(row)
    return {"errors": rows, "backend": method.backend}


def relative(got: Tensor, want: Tensor) -> float:
    """||got - want||_F / ||want||_F."""
    return float((got - want).norm() / want.norm())


def spectral(got: Tensor, want: Tensor) -> float:
    """Mean over batch and heads of ||got - want||_2 / ||want||_2, the spectral norms of `[N, D]` matrices."""
    return float((_largest(got - want) / _largest(want)).mean())


def _largest(matrix: Tensor) -> Tensor:
    """The largest singular value of `[..., N, D]`, by the small Gram matrix `[D, D]`."""
    squares: Tensor = torch.linalg.eigvalsh(matrix.transpose(-1, -2) @ matrix)
    return squares[..., -1].clamp_min(0).sqrt()


def target(method: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(target_logits) v, some query rows at a time: exact attention as the method defines it."""
    rows = range(0, q.shape[-2], ROWS)
    return torch.cat([method.target_logits(q[..., i : i + ROWS, :], k, i).softmax(-1) @ v for i in rows], dim=-2)


def effective_matrix(method: Attention, q: Tensor, k: Tensor) -> Tensor:
    """The N x N matrix A with method(q, k, v) = A v, read out column block by column block; `[H, N, N]`."""
    n, dim = q.shape[-2:]
    blocks = []
    for start in range(0, n, dim):
        width = min(dim, n - start)
        probe = torch.zeros_like(q[:1])
        probe[..., start + torch.arange(width), torch.arange(width)] = 1.0
        blocks.append(method(q[:1], k[:1], probe)[0, ..., :width])
    return torch.cat(blocks, dim=-1)


def _no_matrix(cell: Cell, method: Attention) -> str | None:
    """Why there is no effective matrix to compare, if so."""
    if not method.capabilities.linear_in_v:
        return "no effective matrix: the method is not linear in v"
    if cell.seq_len > cell.measure.attention_max_len:
        return f"no effective matrix: seq_len > measure.attention_max_len={cell.measure.attention_max_len}"
    return None


def _matrix_errors(cell: Cell, method: Attention, q: Tensor, k: Tensor) -> dict[str, Any]:
    """Errors of the effective matrix of the first batch row; those that are not defined have a note."""
    got = effective_matrix(method, q, k).double()
    want = method.target_logits(q[0].double(), k[0].double()).softmax(dim=-1)
    errors = {
        "attention_error": relative(got, want),
        "row_tv": float((got - want).abs().sum(dim=-1).mean() / 2),
    }
    if bool((got < 0).any()):
        return {**errors, "note": "no row_kl: the effective matrix has negative entries"}
    if bool(((got > 0) & (want == 0)).any()):
        return {**errors, "note": "no row_kl: the effective matrix has entries where exact attention has none"}
    terms = torch.where(got > 0, got * (got / want).log(), 0.0)
    # a divergence is not negative; rounding can make it so where the two are equal
    return {**errors, "row_kl": max(float(terms.sum(dim=-1).mean()), 0.0)}
