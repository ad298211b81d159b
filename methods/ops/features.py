"""Feature maps phi with phi(q) . phi(k) in place of exp(q . k), and the random projections behind them.

Choromanski et al. 2021 (arXiv 2009.14794) is "the paper" here; elu + 1 is Katharopoulos et al. 2020. A map is
evaluated for blocks of rows in memory it is given, and pulls gradients back from features kept nowhere: its
callers compute a block's features again in the backward. Logarithms are natural; features carry a logarithmic
scale, the `shift`, that the caller chooses, because exp(W x) itself overflows.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from methods.ops.tiles import Workspace

Norms = Literal["chi", "sqrt_d"]


def gaussian_projection(features: int, dim: int, generator: torch.Generator | None) -> Tensor:
    """`[features, dim]` of independent N(0, 1) entries, float32."""
    drawn: Tensor = torch.empty(features, dim).normal_(generator=generator)
    return drawn


def orthogonal_projection(
    features: int, dim: int, generator: torch.Generator | None, norms: Norms = "chi"
) -> Tensor:
    """`[features, dim]`: blocks of `dim` orthogonal rows, float32.

    Rows have the norms of N(0, I) vectors (`chi`: the estimator is unbiased) or all sqrt(dim) (`sqrt_d`: the
    regularised kernel SMREG, at most the softmax kernel; Theorem 1 of the paper). Q of a Gaussian's QR is Haar
    only after its columns take the signs of diag(R) (Mezzadri 2007); without them the estimator is biased, by
    several percent at dim 8 to 16.
    """
    blocks = []
    for start in range(0, features, dim):
        Q, R = torch.linalg.qr(gaussian_projection(dim, dim, generator))
        signs = torch.where(R.diagonal() < 0, -1.0, 1.0)
        blocks.append((Q * signs).T[: min(dim, features - start)])
    if norms == "sqrt_d":
        lengths = torch.full((features, 1), math.sqrt(dim))
    else:
        lengths = gaussian_projection(features, dim, generator).norm(dim=1, keepdim=True)
    projection: Tensor = torch.cat(blocks) * lengths
    return projection


def log_positive_features(x: Tensor, projection: Tensor) -> Tensor:
    """log of exp(W x - |x|^2 / 2), the positive features of exp(x . y) without their 1/sqrt(m).

    x `[..., D]`, projection `[m, D]` -> `[..., m]` (Lemma 1 of the paper).
    """
    log_phi: Tensor = x @ projection.T - 0.5 * x.square().sum(dim=-1, keepdim=True)
    return log_phi


def squared_norm(x: Tensor) -> Tensor:
    """|x|^2 of rows, `[..., D]` -> `[...]`, in one pass."""
    return torch.linalg.vector_norm(x, dim=-1).square_()


class FeatureMap:
    """phi(x) + floor for rows x of `dim` numbers: `width` features of W (scale x), or of scale x without W.

    Rows are blocks `[g, c, dim]` of the workspace's dtype, features `[g, c, width]`. The norm of a row enters
    as exp(norm |x|^2); a map for queries has norm 0, since whatever scales a whole row of queries cancels in
    normalised attention.
    """

    levelled = False
    """Whether features have a logarithmic scale that a shift must take out."""

    def __init__(self, dim: int, projection: Tensor | None, scale: float, norm: float = 0.0, floor: float = 0.0):
        self.weight = None if projection is None else projection * scale
        self.width = dim if projection is None else projection.shape[0]
        self.scale = scale
        self.norm = norm * scale**2
        self.floor = floor

    def project(self, x: Tensor, space: Workspace, name: str) -> Tensor:
        """W (scale x), in the workspace's memory of that name: `evaluate` overwrites it with the features."""
        g, c, _ = x.shape
        out = space.take(name, g, c, self.width)
        if self.weight is None:
            return torch.mul(x, self.scale, out=out)
        columns = self.weight.T.expand(g, -1, -1)
        return torch.bmm(x, columns, out=out)

    def level(self, x: Tensor, projected: Tensor) -> Tensor | None:
        """Logarithm of the largest feature (or a bound of it) of each row, `[g, c]`; None if not `levelled`."""
        return None

    def evaluate(self, x: Tensor, projected: Tensor, shift: Tensor | None, space: Workspace) -> Tensor:
        """phi(x) exp(-shift), shift `[g, c]` or None, without the floor; overwrites `projected`."""
        raise NotImplementedError

    def slopes(self, phi: Tensor, grad: Tensor) -> Tensor:
        """Gradient of `projected` from that of phi, the shift held constant; overwrites `grad`, not phi."""
        raise NotImplementedError

    def pull(self, x: Tensor, phi: Tensor, grad: Tensor, space: Workspace) -> Tensor:
        """Gradient of x `[g, c, dim]`, in the workspace's memory, from that of phi; overwrites `grad`, not phi."""
        slopes = self.slopes(phi, grad)
        out = space.take("pulled", *x.shape)
        if self.weight is None:
            torch.mul(slopes, self.scale, out=out)
        else:
            torch.bmm(slopes, self.weight.expand(slopes.shape[0], -1, -1), out=out)
        if self.norm:
            out.addcmul_(x, self.growth(phi, grad, slopes)[..., None], value=2 * self.norm)
        return out

    def growth(self, phi: Tensor, grad: Tensor, slopes: Tensor) -> Tensor:
        """Gradient of the logarithmic scale of a row, (phi . gradient of phi) `[g, c]`; as `slopes` left them."""
        raise NotImplementedError


class Exponential(FeatureMap):
    """exp(W x + norm |x|^2): the positive features; with W stacked on -W the hyperbolic ones (Lemma 1)."""

    levelled = True

    def __init__(self, dim: int, projection: Tensor, scale: float, norm: float = 0.0, floor: float = 0.0) -> None:
        super().__init__(dim, projection, scale, norm, floor)
        assert self.weight is not None
        self.reach = float(self.weight.norm(dim=1).max()) if self.weight.device.type == "cpu" else math.inf

    def level(self, x: Tensor, projected: Tensor) -> Tensor:
        """The largest exponent of each row."""
        top = projected.amax(dim=-1)
        return torch.add(top, squared_norm(x), alpha=self.norm) if self.norm else top

    def evaluate(self, x: Tensor, projected: Tensor, shift: Tensor | None, space: Workspace) -> Tensor:
        """Exponents are held above those whose powers, or products of two, a CPU computes 200 times slower."""
        assert shift is not None
        lowest = math.log(torch.finfo(space.dtype).tiny) * 0.8
        deep = True
        if self.reach < math.inf:  # a bound from the norms spares most blocks a pass
            length = float(torch.linalg.vector_norm(x, dim=-1).max())
            deep = not self.norm * length**2 - self.reach * length - float(shift.max()) > lowest
        if self.norm:
            shift = torch.sub(shift, squared_norm(x), alpha=self.norm)
        projected.sub_(shift[..., None])
        if deep:
            projected.clamp_min_(lowest)
        return projected.exp_()

    def slopes(self, phi: Tensor, grad: Tensor) -> Tensor:
        """An exponential is its own derivative."""
        return grad.mul_(phi)

    def growth(self, phi: Tensor, grad: Tensor, slopes: Tensor) -> Tensor:
        """The slopes' sum."""
        return slopes.sum(dim=-1)


class Trigonometric(FeatureMap):
    """exp(|x|^2 / 2) (cos W x, sin W x), random Fourier features of the softmax kernel: of any sign."""

    def __init__(self, dim: int, projection: Tensor, scale: float, norm: float = 0.0, floor: float = 0.0) -> None:
        super().__init__(dim, projection, scale, norm, floor)
        self.levelled = norm != 0
        self.width = 2 * projection.shape[0]

    def project(self, x: Tensor, space: Workspace, name: str) -> Tensor:
        """W x in the first half of the features' memory."""
        assert self.weight is not None
        g, c, _ = x.shape
        out = space.take(name, g, c, self.width)
        out[..., : self.width // 2] = x @ self.weight.T
        return out

    def level(self, x: Tensor, projected: Tensor) -> Tensor | None:
        """What the norm contributes; cosines and sines reach 1."""
        return self.norm * squared_norm(x) if self.levelled else None

    def evaluate(self, x: Tensor, projected: Tensor, shift: Tensor | None, space: Workspace) -> Tensor:
        """Cosines, then sines."""
        cosines, sines = projected.chunk(2, dim=-1)
        torch.sin(cosines, out=sines)
        cosines.cos_()
        if shift is not None:
            projected.mul_((self.norm * squared_norm(x) - shift).exp_()[..., None])
        return projected

    def slopes(self, phi: Tensor, grad: Tensor) -> Tensor:
        """cos' = -sin, sin' = cos."""
        (cosines, sines), (of_cosines, of_sines) = phi.chunk(2, dim=-1), grad.chunk(2, dim=-1)
        return (of_sines * cosines).sub_(of_cosines * sines)

    def growth(self, phi: Tensor, grad: Tensor, slopes: Tensor) -> Tensor:
        """From the features: cosines and sines do not show it in their slopes."""
        return (phi * grad).sum(dim=-1)


class Rectified(FeatureMap):
    """max(W x, 0), of the generalised kernels (section 2.2 and appendix A.4 of the paper)."""

    def evaluate(self, x: Tensor, projected: Tensor, shift: Tensor | None, space: Workspace) -> Tensor:
        """No exponent, no shift."""
        return projected.clamp_min_(0.0)

    def slopes(self, phi: Tensor, grad: Tensor) -> Tensor:
        """1 where the feature is positive."""
        return grad.mul_(phi > 0)


class Elu(FeatureMap):
    """elu(W x) + 1 = exp(W x) below 0, W x + 1 above (Katharopoulos et al. 2020, equation 7): positive."""

    def evaluate(self, x: Tensor, projected: Tensor, shift: Tensor | None, space: Workspace) -> Tensor:
        """exp(min(x, 0)) + max(x, 0), which unlike elu(x) + 1 keeps the digits of small features."""
        lowest = math.log(torch.finfo(space.dtype).tiny) * 0.8
        power = torch.clamp(projected, lowest, 0.0, out=space.take("powers", *projected.shape)).exp_()
        return projected.clamp_min_(0.0).add_(power)

    def slopes(self, phi: Tensor, grad: Tensor) -> Tensor:
        """exp(x) below 0, 1 above: the feature itself, at most 1."""
        return grad.mul_(phi.clamp_max(1.0))
