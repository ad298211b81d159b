"""Random features: the kernel they estimate, their variance, and what makes a projection orthogonal."""

import math

import pytest
import torch

from methods.ops.features import (
    Elu,
    Exponential,
    Rectified,
    Trigonometric,
    gaussian_projection,
    orthogonal_projection,
)
from methods.ops.tiles import Workspace


def pair(dim: int, cosine: float, norm: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two vectors of a given norm at a given cosine."""
    x, y = torch.zeros(2, dim, dtype=torch.float64)
    x[0], y[0], y[1] = 1.0, cosine, math.sqrt(1 - cosine**2)
    return norm * x, norm * y


def features(kernel: str, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """phi(x) as the methods compute it, `[rows, 1 or 2]`, without its 1/sqrt(m)."""
    space = Workspace(x.device, x.dtype)
    zero = torch.zeros(1, 1, dtype=x.dtype)
    if kernel == "trigonometric":
        map_ = Trigonometric(len(x), rows, 1.0, 0.5)
    else:
        map_ = Exponential(len(x), torch.cat([rows, -rows]) if kernel == "hyperbolic" else rows, 1.0, -0.5)
    phi = map_.evaluate(map_.project(x[None, None], space, "phi"), zero, space)[0, 0]
    return phi.view(-1, len(rows)).T.clone() / (math.sqrt(2) if kernel == "hyperbolic" else 1)


def samples(kernel: str, rows: torch.Tensor, cosine: float, norm: float = 1.0) -> torch.Tensor:
    """One estimate of exp(x . y) from each row of W."""
    x, y = pair(rows.shape[1], cosine, norm)
    return (features(kernel, x, rows) * features(kernel, y, rows)).sum(dim=1)


def draws(projection, dim: int, count: int, **options) -> torch.Tensor:
    """`[count * dim, dim]`: `count` projections of `dim` rows each."""
    generator = torch.Generator().manual_seed(0)
    if projection is gaussian_projection:
        return projection(count * dim, dim, generator).double()
    return torch.cat([projection(dim, dim, generator, **options) for _ in range(count)]).double()


@pytest.mark.parametrize("kernel", ["positive", "hyperbolic", "trigonometric"])
@pytest.mark.parametrize("projection", [gaussian_projection, orthogonal_projection])
@pytest.mark.parametrize(("dim", "cosine"), [(8, 0.0), (8, 0.5), (16, -0.8)])
def test_p1_features_are_unbiased(projection, kernel, dim, cosine):
    """P1: E[phi(x) . phi(y)] = exp(x . y), within 4 standard errors."""
    found = samples(kernel, draws(projection, dim, 2000), cosine).view(-1, dim).mean(dim=1)
    assert abs(found.mean() - math.exp(cosine)) < 4 * found.std() / math.sqrt(len(found))


@pytest.mark.parametrize(
    ("cosine", "norm", "known"),
    [(0.0, 1.0, (2.762, 6.389, 2.762)), (-0.8, 1.0, (3.495, 0.0993, 0.0164)), (0.8, 0.7, (0.042, 10.6, None))],
)
def test_p2_p3_p4_variances_are_the_papers(cosine, norm, known):
    """P2: m MSE of Lemma 2. Positive features lose at high similarity and win at low; hyperbolic beat both."""
    x, y = pair(8, cosine, norm)
    plus, minus, SM = (x + y).square().sum().exp(), (x - y).square().sum().exp(), (x @ y).exp()
    formulas = {
        "trigonometric": plus / SM**2 * (1 - 1 / minus) ** 2 / 2,
        "positive": plus * SM**2 * (1 - 1 / plus),
        "hyperbolic": (1 - 1 / plus) / 2 * plus * SM**2 * (1 - 1 / plus),
    }
    W = gaussian_projection(300_000, 8, torch.Generator().manual_seed(0)).double()
    for (kernel, formula), number in zip(formulas.items(), known, strict=True):
        found = float((samples(kernel, W, cosine, norm) - SM).square().mean())
        assert found == pytest.approx(float(formula), rel=0.2)
        assert number is None or float(formula) == pytest.approx(number, rel=0.02)


@pytest.mark.parametrize("features_", [5, 8, 20])
@pytest.mark.parametrize("norms", ["chi", "sqrt_d"])
def test_p6_rows_of_a_block_are_orthogonal(features_, norms):
    """P6: W W^T is diagonal block by block, also in the last, cut one; rows have the norms asked for."""
    W = orthogonal_projection(features_, 8, torch.Generator().manual_seed(0), norms).double()
    assert W.shape == (features_, 8)
    for block in W.split(8):
        gram = block @ block.T
        assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-5)
    lengths = W.norm(dim=1)
    assert bool((lengths - math.sqrt(8)).abs().max() < 1e-5) == (norms == "sqrt_d")


def test_p6_orthogonal_rows_err_less_by_the_margin_of_theorem_2():
    """P6: MSE of m = d orthogonal rows <= iid - 2 (m - 1) / (m (d + 2)) (SM - exp(-(|x|^2 + |y|^2) / 2))^2."""
    d = m = 8
    for cosine, norm in ((0.5, 0.5), (0.0, 0.7)):
        x, y = pair(d, cosine, norm)
        SM, plus = (x @ y).exp(), (x + y).square().sum().exp()
        iid = plus * SM**2 * (1 - 1 / plus) / m
        margin = 2 * (m - 1) / (m * (d + 2)) * (SM - torch.exp(torch.tensor(-(norm**2), dtype=torch.float64))) ** 2
        estimates = (
            samples("positive", draws(orthogonal_projection, d, 4000), cosine, norm).view(-1, d).mean(dim=1)
        )
        errors = (estimates - SM).square()
        assert errors.mean() <= iid - margin + 4 * errors.std() / math.sqrt(len(errors))


@pytest.mark.parametrize(
    ("dim", "cosine", "norm", "ratio"),
    [(16, 0.04, 1.0, 0.948), (32, 0.04, 1.0, 0.97), (16, 0.155, 1.5, 0.752)],
)
def test_p6_rows_of_norm_sqrt_d_give_the_regularised_kernel(dim, cosine, norm, ratio):
    """P6: the mean is the series of SMREG, below the softmax kernel (Theorem 1); the ratio depends on |x + y|."""
    x, y = pair(dim, cosine, norm)
    S, term, total = float((x + y).square().sum()), 1.0, 0.0
    for k in range(80):
        total += term
        term *= S / 2 / (k + 1) * dim / (dim + 2 * k)
    series, SM = total * math.exp(-(norm**2)), math.exp(cosine * norm**2)
    assert series < SM
    assert series / SM == pytest.approx(ratio, abs=0.002)
    W = draws(orthogonal_projection, dim, 2500, norms="sqrt_d")
    found = samples("positive", W, cosine, norm).view(-1, dim).mean(dim=1)
    assert abs(found.mean() - series) < 4 * found.std() / math.sqrt(len(found))


def test_p7_without_the_sign_fix_rows_are_not_haar():
    """P7: torch's raw Q has a preferred direction, ours has none: the mean of its entries' signs tells."""
    generator = torch.Generator().manual_seed(0)
    ours = torch.stack([orthogonal_projection(8, 8, generator) for _ in range(1500)])
    raw = torch.linalg.qr(torch.randn(1500, 8, 8, generator=generator)).Q.mT
    bound = 4 / math.sqrt(1500)
    assert float(ours.sign().mean(dim=0).abs().max()) < bound < float(raw.sign().mean(dim=0).abs().max())


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("kind", [Rectified, Elu])
def test_generalised_maps_are_the_functions_they_name(kind, projected):
    x = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    W = gaussian_projection(6, 5, torch.Generator().manual_seed(1)).double() if projected else None
    space = Workspace(x.device, x.dtype)
    map_ = kind(5, W, 0.5)
    l = 0.5 * x if W is None else 0.5 * x @ W.T  # noqa: E741
    wanted = l.clamp_min(0) if kind is Rectified else torch.nn.functional.elu(l) + 1
    assert torch.allclose(map_.evaluate(map_.project(x, space, "phi"), None, space), wanted, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_powers_stay_normal_numbers(dtype):
    """Denormal features would make a CPU's products 200 times slower."""
    space = Workspace(torch.device("cpu"), dtype)
    x = torch.linspace(-40, 40, 9, dtype=dtype)[None, :, None].expand(1, 9, 4) * 40
    W = gaussian_projection(16, 4, torch.Generator().manual_seed(0)).to(dtype)
    for map_ in (Exponential(4, W, 1.0), Exponential(4, W, 1.0, -0.5), Elu(4, W, 1.0)):
        projected = map_.project(x, space, "phi")
        phi = map_.evaluate(projected, map_.level(projected), space)
        assert bool(phi.isfinite().all())
        assert float(phi.min()) > torch.finfo(dtype).tiny
