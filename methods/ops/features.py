"""Feature maps phi with phi(q) . phi(k) in place of exp(q . k), and the random projections behind them.

Choromanski et al. 2021 (arXiv 2009.14794) is "the paper" here; elu + 1 is Katharopoulos et al. 2020. A map is
evaluated for blocks of rows in memory it is given, and pulls gradients back from features kept nowhere: its
callers compute a block's features again in the backward. Logarithms are natural; features carry a logarithmic
scale, the `shift`, that the caller chooses, because exp(W x) itself overflows.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

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


class Projected(NamedTuple):
    """A block of rows x `[g, c, dim]`, W x for it `[g, c, width]`, and |x|^2 `[g, c]` where the map needs it.

    Features go into `out`, of the shape of `values` and, unless W x is x itself, the same memory.
    """

    x: Tensor
    values: Tensor
    squares: Tensor | None
    out: Tensor


class FeatureMap:
    """phi(x) + floor for rows x of `dim` numbers: `width` features of W (scale x), or of scale x without W.

    Rows are blocks `[g, c, dim]` of the workspace's dtype, features `[g, c, width]`. The norm of a row enters
    as exp(norm |scale x|^2); a map for queries has norm 0, since whatever scales a whole row of queries cancels
    in normalised attention.
    """

    levelled = False
    """Whether features have a logarithmic scale that a shift must take out."""

    def __init__(
        self, dim: int, projection: Tensor | None, scale: float, norm: float = 0.0, floor: float = 0.0
    ) -> None:
        self.weight = None if projection is None else (projection * scale)[None]
        self.width = dim if projection is None else projection.shape[0]
        self.columns = None if self.weight is None else self.weight.transpose(1, 2)
        self.scale = scale
        self.norm = norm * scale**2
        self.floor = floor

    def project(self, x: Tensor, space: Workspace, name: str) -> Projected:
        """W x, and the workspace's memory of that name, where `evaluate` puts the features."""
        g, c, _ = x.shape
        out = space.take(name, g, c, self.width)
        if self.columns is not None:
            torch.bmm(x, self.columns.expand(g, -1, -1), out=out)
        elif self.scale == 1:
            return Projected(x, x, None, out)
        else:
            torch.mul(x, self.scale, out=out)
        return Projected(x, out, None, out)

    def level(self, rows: Projected) -> Tensor | None:
        """Logarithm of the largest feature (or a bound of it) of each row, `[g, c]`; None if not `levelled`."""
        return None

    def evaluate(self, rows: Projected, shift: Tensor | None, space: Workspace) -> Tensor:
        """phi(x) exp(-shift), shift `[g, c]`, `[g, 1]` or None, into `rows.out`, without the floor."""
        raise NotImplementedError

    def slopes(self, phi: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """Gradient of W x from that of phi, the shift held constant, into `out` of its shape, which may be grad.

        May overwrite phi and grad.
        """
        raise NotImplementedError

    def pull(self, x: Tensor, phi: Tensor, grad: Tensor, space: Workspace, into: Tensor) -> None:
        """Gradient of x, into `into` `[g, c, dim]`, from that of phi; may overwrite both."""
        if self.weight is None:
            self.slopes(phi, grad, into)
            if self.scale != 1:
                into.mul_(self.scale)
            return
        slopes = self.slopes(phi, grad, grad)
        own = torch.bmm(slopes, self.weight.expand(len(slopes), -1, -1), out=space.take("pulled", *x.shape))
        if self.norm:
            growth = self.growth(phi, grad, slopes)[..., None]
            torch.addcmul(own, x, growth, value=2 * self.norm, out=into)
        else:
            into.copy_(own)

    def growth(self, phi: Tensor, grad: Tensor, slopes: Tensor) -> Tensor:
        """Gradient of a row's logarithmic scale `[g, c]`, phi . grad, as `slopes` left them."""
        raise NotImplementedError


class Exponential(FeatureMap):
    """exp(W x + norm |x|^2): the positive features; with W stacked on -W the hyperbolic ones (Lemma 1)."""

    levelled = True

    def project(self, x: Tensor, space: Workspace, name: str) -> Projected:
        """W x, and |x|^2 where it counts."""
        projected = super().project(x, space, name)
        if not self.norm:
            return projected
        return projected._replace(squares=torch.linalg.vector_norm(x, dim=-1).square_())

    def level(self, rows: Projected) -> Tensor:
        """The largest exponent of each row."""
        top = rows.values.amax(dim=-1)
        return top if rows.squares is None else top.add_(rows.squares, alpha=self.norm)

    def evaluate(self, rows: Projected, shift: Tensor | None, space: Workspace) -> Tensor:
        """Exponents are held above `smallest_exponent`: a CPU's exp and products are slow on underflow."""
        assert shift is not None
        if rows.squares is not None:
            shift = torch.sub(shift, rows.squares, alpha=self.norm)
        return rows.values.sub_(shift[..., None]).clamp_min_(smallest_exponent(space.dtype)).exp_()

    def slopes(self, phi: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """An exponential is its own derivative."""
        return torch.mul(grad, phi, out=out)

    def growth(self, phi: Tensor, grad: Tensor, slopes: Tensor) -> Tensor:
        """The slopes' sum."""
        return slopes.sum(dim=-1)


class Trigonometric(FeatureMap):
    """exp(|x|^2 / 2) (cos W x, sin W x), random Fourier features of the softmax kernel: of any sign."""

    def __init__(self, dim: int, projection: Tensor, scale: float, norm: float = 0.0, floor: float = 0.0) -> None:
        super().__init__(dim, projection, scale, norm, floor)
        self.levelled = norm != 0
        self.width = 2 * projection.shape[0]

    def project(self, x: Tensor, space: Workspace, name: str) -> Projected:
        """W x in the first half of the features' memory."""
        assert self.columns is not None
        g, c, _ = x.shape
        out = space.take(name, g, c, self.width)
        out[..., : self.width // 2] = torch.bmm(x, self.columns.expand(g, -1, -1))
        return Projected(x, out, x.square().sum(dim=-1), out)

    def level(self, rows: Projected) -> Tensor | None:
        """What the norm contributes; cosines and sines reach 1."""
        return self.norm * rows.squares if self.levelled and rows.squares is not None else None

    def evaluate(self, rows: Projected, shift: Tensor | None, space: Workspace) -> Tensor:
        """Cosines, then sines."""
        cosines, sines = rows.values.chunk(2, dim=-1)
        torch.sin(cosines, out=sines)
        cosines.cos_()
        if shift is not None and rows.squares is not None:
            rows.values.mul_((self.norm * rows.squares - shift).exp_()[..., None])
        return rows.values

    def slopes(self, phi: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """cos' = -sin, sin' = cos; half as wide as the features, and so in memory of its own."""
        (cosines, sines), (of_cosines, of_sines) = phi.chunk(2, dim=-1), grad.chunk(2, dim=-1)
        return (of_sines * cosines).sub_(of_cosines * sines)

    def growth(self, phi: Tensor, grad: Tensor, slopes: Tensor) -> Tensor:
        """From the features: the slopes of cosines and sines do not show it."""
        return (phi * grad).sum(dim=-1)


class Rectified(FeatureMap):
    """max(W x, 0), of the generalised kernels (section 2.2 and appendix A.4 of the paper)."""

    def evaluate(self, rows: Projected, shift: Tensor | None, space: Workspace) -> Tensor:
        """No exponent, no shift."""
        return torch.clamp_min(rows.values, 0.0, out=rows.out)

    def slopes(self, phi: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """1 where the feature is positive."""
        return torch.mul(grad, phi.sign_(), out=out)


class Elu(FeatureMap):
    """elu(W x) + 1 = exp(W x) below 0, W x + 1 above (Katharopoulos et al. 2020, equation 7): positive."""

    def evaluate(self, rows: Projected, shift: Tensor | None, space: Workspace) -> Tensor:
        """exp(min(x, 0)) + max(x, 0), which unlike elu(x) + 1 keeps the digits of small features."""
        powers = space.take("powers", *rows.values.shape)
        torch.clamp(rows.values, smallest_exponent(space.dtype), 0.0, out=powers).exp_()
        return torch.clamp_min(rows.values, 0.0, out=rows.out).add_(powers)

    def slopes(self, phi: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """exp(x) below 0, 1 above: the feature itself, at most 1."""
        return torch.mul(grad, phi.clamp_max_(1.0), out=out)


def smallest_exponent(dtype: torch.dtype) -> float:
    """Logarithm of the smallest power that is told from 0, e^-61 in float32: times a gradient still normal."""
    return 0.7 * math.log(torch.finfo(dtype).tiny)
