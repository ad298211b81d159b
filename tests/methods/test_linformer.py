"""Linformer: its limits, its sharings, what it refuses."""

import pytest
import torch

from methods.linformer import Linformer
from methods.registry import Shape, Unsupported
from tests.methods.conftest import build, draw


def test_identity_projections_give_full_attention():
    shape = Shape(2, 5, 24)
    method = build("linformer", shape, rank=24, sharing="headwise")
    for matrix in (method.E, method.F):
        matrix.data = torch.eye(24, dtype=torch.float64)[None]
    inputs = draw(2, shape)
    assert torch.allclose(method(*inputs), build("full", shape)(*inputs), atol=1e-12)


@pytest.mark.parametrize(
    ("sharing", "matrices"), [("none", 288), ("headwise", 24), ("key_value", 12), ("layerwise", 1)]
)
def test_the_paper_counts_its_matrices(sharing, matrices):
    layers = Linformer.layers(Shape(12, 4, 16), 12, torch.Generator().manual_seed(0), rank=2, sharing=sharing)
    held = {id(parameter): parameter for layer in layers for parameter in layer.parameters()}
    assert sum(parameter.shape[0] for parameter in held.values()) == matrices


def test_layerwise_gradient_is_the_sum_over_layers():
    layers = Linformer.layers(Shape(1, 4, 16), 3, torch.Generator().manual_seed(0), rank=2)
    inputs = [draw(1, layers[0].shape, dtype=torch.float32, seed=seed) for seed in range(3)]
    outs = [layer(*own).sum() for layer, own in zip(layers, inputs, strict=True)]
    single = [torch.autograd.grad(out, layers[0].E, retain_graph=True)[0] for out in outs]
    whole = torch.autograd.grad(sum(outs), layers[0].E)[0]
    assert torch.allclose(whole, sum(single), atol=1e-5)


def test_slicing_equals_zeroed_padding():
    method = build("linformer", Shape(2, 5, 40), rank=6)
    q, k, v = draw(1, method.shape)
    mask = torch.arange(40)[None] >= 29
    padded = method(q, k, v, key_padding_mask=mask)[:, :, :29]
    assert torch.allclose(padded, method(q[:, :, :29], k[:, :, :29], v[:, :, :29]), atol=1e-12)


def test_random_projections_keep_inner_products():
    """Johnson-Lindenstrauss with R ~ N(0, 1/k): the share of bad pairs stays under 2 exp(-(e^2 - e^3) k / 4)."""
    rank, eps = 256, 0.25
    method = build("linformer", Shape(1, 4, 500), rank=rank)
    x, y = torch.randn(2, 2000, 500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    R = method.E[0].detach()
    error = ((x @ R.T) * (y @ R.T)).sum(1) - (x * y).sum(1)
    bad = (error.abs() > eps * x.norm(dim=1) * y.norm(dim=1)).double().mean()
    assert float(bad) <= 2 * torch.exp(torch.tensor(-(eps**2 - eps**3) * rank / 4)).item()


def test_causal_and_longer_inputs_are_refused():
    with pytest.raises(Unsupported, match="no causal form"):
        build("linformer", Shape(1, 4, 8, causal=True))
    method = build("linformer", Shape(1, 4, 8))
    with pytest.raises(ValueError, match="seq_len=9: linformer was built for at most 8"):
        method(*draw(1, method.shape, n=9))
