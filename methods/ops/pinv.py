"""Pseudoinverses of small stochastic matrices by matrix products alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from methods.ops.tiles import groups


def iterative_pinv(a: Tensor, iterations: int) -> Tensor:
    """The pseudoinverse of a `[T, m, m]` >= 0 with rows that sum to 1, or are 0; differentiable once.

    Third-order iteration of Razavi et al. 2014 as in Xiong et al. 2021, equation 14:
    Z <- Z/4 (13 I - A Z (15 I - A Z (7 I - A Z))) from Z = A^T / (|A|_1 |A|_inf), the norms of every matrix
    for itself. |A|_inf, the largest row sum, is 1 here. Directions with a singular value below
    (4/13)^(iterations/2) sqrt(|A|_1), a 34th at 6, are damped rather than inverted. A zero matrix gives zero.
    """
    columns = a.sum(dim=-2).amax(dim=-1)[:, None, None]
    start = a.transpose(1, 2) / (columns + (columns == 0).to(a.dtype))
    z: Tensor = _Iterate.apply(a, start, iterations)  # type: ignore[no-untyped-call]
    return z


def _inner(a: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y = A Z, u = y (7 I - y) and w = y (15 I - u): the next Z is Z/4 (13 I - w)."""
    y = torch.bmm(a, z)
    u = torch.baddbmm(y, y, y, beta=7, alpha=-1)
    return y, u, torch.baddbmm(y, y, u, beta=15, alpha=-1)


class _Iterate(torch.autograd.Function):
    """The iterations from Z = start; autograd's own backward would spend most of its time on scalings.

    A group of matrices that fits the cache goes through all iterations before the next one.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, start: Tensor, iterations: int) -> Tensor:
        passed = [start, *(torch.empty_like(a) for _ in range(iterations))]
        for first, last in _groups(a):
            z = start[first:last]
            for step in passed[1:]:
                w = _inner(a[first:last], z)[2]
                z = torch.baddbmm(z, z, w, beta=3.25, alpha=-0.25, out=step[first:last])
        ctx.save_for_backward(a, *passed[:-1])
        return passed[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        all_a, *passed = ctx.saved_tensors
        total, d_start = torch.zeros_like(all_a), torch.empty_like(all_a)
        for first, last in _groups(all_a):
            a, da, dz = (x[first:last] for x in (all_a, total, grad))
            for step in reversed(passed):
                z = step[first:last]
                y, u, w = _inner(a, z)
                dw = torch.bmm(z.transpose(1, 2), dz).mul_(-0.25)
                du = torch.bmm(y.transpose(1, 2), dw).neg_()
                dy = torch.baddbmm(dw, dw, u.transpose(1, 2), beta=15, alpha=-1).add_(du, alpha=7)
                dy.baddbmm_(du, y.transpose(1, 2), alpha=-1).baddbmm_(y.transpose(1, 2), du, alpha=-1)
                da.baddbmm_(dy, z.transpose(1, 2))
                dz = torch.baddbmm(dz, dz, w.transpose(1, 2), beta=3.25, alpha=-0.25)
                dz.baddbmm_(a.transpose(1, 2), dy)
            d_start[first:last] = dz
        return total, d_start, None


def _groups(a: Tensor) -> Iterator[tuple[int, int]]:
    """Groups of matrices of which a step's eight or so temporaries fit the cache."""
    return groups(len(a), 8 * a.shape[1] * a.shape[2], a.device)
