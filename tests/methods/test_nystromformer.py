"""Nystromformer: its limits, its pseudoinverse, its landmarks, and the defects of the reference code."""

import pytest
import torch
import torch.nn.functional as F

from methods.ops.pinv import iterative_pinv
from methods.ops.segments import Segments, runs
from methods.ops.thin import few_keys_backward, few_queries_backward
from methods.ops.tiles import attend
from methods.registry import Shape, Unsupported
from tests.methods.conftest import build, draw, padding
from tests.methods.test_contract import gap


def stochastic(*shape: int, sharpness: float = 1.0) -> torch.Tensor:
    logits = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (sharpness * logits).softmax(-1)


def test_c14_tokens_of_a_segment_and_whole_segments_may_change_places():
    """C14: the order of keys and values enters through the segments alone, and their order not at all."""
    method = build("nystromformer", Shape(2, 5, 24), landmarks=6, pinv="exact")
    q, k, v = (x.detach() for x in draw(2, method.shape))
    wanted = method(q, k, v)
    generator = torch.Generator().manual_seed(2)
    within = torch.cat([4 * i + torch.randperm(4, generator=generator) for i in range(6)])
    segments = (4 * torch.randperm(6, generator=generator)[:, None] + torch.arange(4)).flatten()
    for order in (within, segments):
        assert gap(method(q, k[:, :, order], v[:, :, order]), wanted) < 1e-9
    across = torch.randperm(24, generator=generator)
    assert gap(method(q, k[:, :, across], v[:, :, across]), wanted) > 1e-3


@pytest.mark.parametrize("padded", [False, True])
def test_8_a_landmark_a_token_is_full_attention(padded):
    """Section 9, definition 8, and C2: m = N equals full attention, up to the error of the pseudoinverse."""
    shape = Shape(2, 5, 20)
    q, k, v = draw(2, shape)
    mask = padding(2, 20) if padded else None
    want = build("full", shape)(q, k, v, key_padding_mask=mask)
    rows = [(0, 14), (1, 20)] if padded else [(0, 20), (1, 20)]
    for params in ({"pinv": "exact"}, {"pinv_iterations": 25}):
        found = build("nystromformer", shape, landmarks=20, **params)(q, k, v, key_padding_mask=mask)
        assert max(gap(found[b, :, :n], want[b, :, :n]) for b, n in rows) < 1e-7
    more = build("nystromformer", shape, landmarks=99)(q, k, v, key_padding_mask=mask)
    six = build("nystromformer", shape, landmarks=20)(q, k, v, key_padding_mask=mask)
    assert torch.equal(more, six)
    assert gap(six[1], want[1]) < 0.5  # what six iterations leave


def test_8_the_iteration_finds_the_pseudoinverse():
    """Definition 8: the iteration against torch.linalg.pinv, closer with every step."""
    a = stochastic(3, 12, 12, sharpness=2.0)
    want = torch.linalg.pinv(a)
    errors = [float((iterative_pinv(a, steps) - want).norm() / want.norm()) for steps in (2, 6, 10, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-9
    singular = a.clone()
    singular[:, 5] = singular[:, 4]  # not invertible: still the Moore-Penrose inverse
    assert gap(iterative_pinv(singular, 20), torch.linalg.pinv(singular, rtol=1e-10)) < 1e-8


def test_8_the_iteration_is_the_formula_and_has_its_gradient(monkeypatch):
    """Definition 8: Z <- Z/4 (13I - AZ(15I - AZ(7I - AZ))) from A^T / (|A|_1 |A|_inf) and its gradient."""
    a = stochastic(2, 7, 7).requires_grad_()
    eye = torch.eye(7, dtype=torch.float64)
    z = torch.stack([x.T / (x.abs().sum(0).max() * x.abs().sum(1).max()) for x in a])
    for _ in range(4):
        z = z / 4 @ (13 * eye - a @ z @ (15 * eye - a @ z @ (7 * eye - a @ z)))
    found = iterative_pinv(a, 4)
    assert gap(found, z) < 1e-12
    weights = torch.randn_like(z)
    # along the matrices' manifold, rows that sum to one, where |A|_inf does not move
    mine, theirs = (torch.autograd.grad(x, a, weights, retain_graph=True)[0] for x in (found, z))
    assert gap(mine - mine.mean(-1, keepdim=True), theirs - theirs.mean(-1, keepdim=True)) < 1e-10
    assert torch.equal(iterative_pinv(torch.zeros(1, 3, 3), 6), torch.zeros(1, 3, 3))
    monkeypatch.setattr("methods.ops.tiles.CACHED_SCORES", 1)  # one matrix at a time
    assert gap(iterative_pinv(a, 4), found) < 1e-14
    assert gap(torch.autograd.grad(iterative_pinv(a, 4), a, weights)[0], mine) < 1e-14


def test_8_rows_sum_to_about_one():
    """Definition 8 (C3): rows of A sum to one exactly under an exact inverse, about so after six iterations."""
    shape = Shape(2, 8, 96)
    q, k, _ = draw(2, shape)
    ones = torch.ones(2, 2, 96, 1, dtype=torch.float64)
    values = ones.expand(-1, -1, -1, 8)
    exact = build("nystromformer", shape, landmarks=8, pinv="exact")(q, k, values)
    assert gap(exact, values) < 1e-9
    for norm, close in ((1.0, 0.05), (3.0, 0.35)):
        six = build("nystromformer", shape, landmarks=8)(norm * q, norm * k, values)
        assert float((six - 1).detach().abs().max()) < close


@pytest.mark.parametrize(("n", "count"), [(12, 4), (13, 4), (15, 4), (7, 7), (5, 1)])
def test_8_landmarks_are_segment_means(n, count):
    """Definition 8: segments cover the tokens once, in order, and differ by one token at most, shorter first."""
    x = torch.randn(3, n, 2, generator=torch.Generator().manual_seed(0))
    sizes = [run.width for run in runs(n, count) for _ in range(run.count)]
    assert sum(sizes) == n
    assert len(sizes) == count
    assert sizes == sorted(sizes)
    assert sizes[-1] - sizes[0] <= 1
    want = torch.stack([part.mean(1) for part in x.split(sizes, dim=1)], dim=1)
    assert gap(Segments(n, count, None, 1).means(x), want) < 1e-6


def test_8_landmark_means_exclude_pads():
    """Definition 8: pads anywhere in a row, whatever they hold; means are over the real tokens, as if alone."""
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(4, 23, generator=generator) < torch.tensor([[0.7], [0.1], [2.0], [-1.0]])
    x = torch.randn(4, 3, 23, 2, generator=generator, dtype=torch.float64)
    spoiled = x.masked_fill(~real[:, None, :, None], float("nan"))
    segments = Segments(23, 5, ~real, heads=3)
    found = segments.means(spoiled.flatten(0, 1)).unflatten(0, (4, 3))
    grad = torch.randn(12, 5, 2, generator=generator, dtype=torch.float64)
    total = torch.zeros(12, 23, 2, dtype=torch.float64)
    segments.add_gradient(total, grad)
    for b in range(4):
        own = x[b][:, real[b]].clone().requires_grad_()
        count = min(5, own.shape[1])
        sizes = [run.width for run in runs(own.shape[1], count) for _ in range(run.count)] if count else []
        means = [part.mean(1) for part in own.split(sizes, dim=1)] if count else []
        assert segments.empty[b].tolist() == [False] * count + [True] * (5 - count)
        assert bool((found[b, :, count:] == 0).all())
        if count:
            want = torch.stack(means, dim=1)
            assert gap(found[b, :, :count], want) < 1e-12
            (want * grad.unflatten(0, (4, 3))[b, :, :count]).sum().backward()
            assert gap(total.unflatten(0, (4, 3))[b][:, real[b]], own.grad) < 1e-12
        assert bool((total.unflatten(0, (4, 3))[b][:, ~real[b]] == 0).all())


@pytest.mark.parametrize("holes", [False, True])
def test_8_padding_in_value_and_gradient(holes):
    """Definition 8 (C6): a padded row is its real tokens alone, even with pads between them."""
    shape = Shape(2, 5, 30)
    method = build("nystromformer", shape, conv_kernel=0 if holes else 3)
    q, k, v = draw(2, shape)
    real = torch.arange(30) < 19
    if holes:
        real = torch.arange(30) % 3 != 1
    mask = torch.stack([~real, torch.zeros(30, dtype=torch.bool)])
    alone = [x[:1][:, :, real].detach().requires_grad_() for x in (q, k, v)]
    weights = torch.randn(1, 2, int(real.sum()), 5, dtype=torch.float64)
    out = method(q, k, v, key_padding_mask=mask)[:1][:, :, real]
    want = method(*alone)
    assert gap(out, want) < 1e-11
    for found, own in zip(
        torch.autograd.grad(out, (q, k, v), weights), torch.autograd.grad(want, alone, weights), strict=True
    ):
        assert gap(found[:1][:, :, real], own) < 1e-11
        assert bool((found[:1][:, :, ~real] == 0).all())


def test_8_rows_shorter_than_the_landmarks():
    """Definition 8: rows with fewer real tokens than landmarks, or none, beside whole ones, with gradients."""
    shape = Shape(2, 5, 16)
    method = build("nystromformer", shape, landmarks=6)
    inputs = draw(4, shape)
    mask = torch.arange(16) >= torch.tensor([[16], [3], [1], [0]])
    weights = torch.randn(4, 2, 16, 5, dtype=torch.float64)
    out, want = (f(*inputs, key_padding_mask=mask) for f in (method, method.dense_reference))
    assert gap(out, want) < 1e-11
    assert bool((out[3] == 0).all())
    for found, own in zip(
        *(torch.autograd.grad(x, inputs, weights) for x in (out, want)),
        strict=True,
    ):
        assert gap(found, own) < 1e-11


def test_d5_the_pseudoinverse_of_a_row_does_not_see_the_batch():
    """D5: the reference takes one maximum over the batch to start from, so a sharp row changes its neighbours."""
    q, k, v = draw(2, Shape(2, 8, 64))
    method = build("nystromformer", Shape(2, 8, 64), landmarks=8)
    alone = method(q[:1], k[:1], v[:1])
    loud = k.detach().clone()
    loud[1] *= 50
    assert gap(method(q, loud, v)[:1], alone) < 1e-12

    def coupled(a):  # as published: max over every matrix of the batch
        z = a.mT / (a.sum(-2).max() * a.sum(-1).max())
        eye = torch.eye(a.shape[-1], dtype=a.dtype)
        for _ in range(6):
            z = z / 4 @ (13 * eye - a @ z @ (15 * eye - a @ z @ (7 * eye - a @ z)))
        return z

    a = stochastic(1, 8, 8)
    sharp = torch.zeros(1, 8, 8, dtype=torch.float64)
    sharp[..., 0] = 1
    assert gap(coupled(torch.cat([a, sharp]))[:1], coupled(a)) > 1e-3
    assert gap(iterative_pinv(torch.cat([a, sharp]), 6)[:1], iterative_pinv(a, 6)) < 1e-12


@pytest.mark.parametrize("kernel", [1, 3, 9, 33])
def test_8_the_convolution_skips_past_the_attention(kernel):
    """Definition 8: the depthwise convolution of V, one filter a head, in value and gradients."""
    shape = Shape(3, 5, 20)
    method = build("nystromformer", shape, conv_kernel=kernel)
    inputs = draw(2, shape)
    plain = build("nystromformer", shape)
    want = torch.zeros(2, 3, 20, 5, dtype=torch.float64)
    for h in range(3):
        for i in range(20):
            for t in range(kernel):
                if 0 <= (j := i + t - kernel // 2) < 20:
                    want[:, h, i] += method.conv[h, 0, t, 0].detach() * inputs[2][:, h, j].detach()
    assert gap(method(*inputs) - plain(*inputs), want) < 1e-11
    mask = padding(2, 20)
    leaves = [*inputs, method.conv]
    found, own = (
        torch.autograd.grad(f(*inputs, key_padding_mask=mask).square().sum(), leaves)
        for f in (method, method.dense_reference)
    )
    assert max(gap(a, b) for a, b in zip(found, own, strict=True)) < 1e-10
    assert method.capabilities.learned
    assert not plain.capabilities.learned


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("long", [100, 700])
def test_the_streamed_backward_is_autograds(biased, long, monkeypatch):
    """One side short: the gradients of plain softmax attention, in one stretch and in many."""
    monkeypatch.setattr("methods.ops.tiles.CACHED_SCORES", 1 << 10)
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for m, n, backward in ((long, 6, few_keys_backward), (6, long, few_queries_backward)):
        q, k, v = (x.requires_grad_() for x in (random(5, m, 4), random(5, n, 4), random(5, n, 3)))
        bias = None
        if biased:
            bias = torch.zeros(5, 1, n, dtype=torch.float64)
            bias[0, 0, n // 2 :] = bias[1, 0, 0] = -torch.inf
        logits = q @ k.mT * 0.7 + (0 if bias is None else bias)
        out = logits.softmax(-1) @ v
        grad = random(5, m, 3)
        want = torch.autograd.grad(out, (q, k, v), grad)
        with torch.no_grad():
            own, lse = attend(q, k, F.pad(v, (0, 1)), bias, 0.7)
            found = backward(grad, own[..., :3].contiguous(), q, k, v, lse, bias, 0.7)
        assert max(gap(a, b) for a, b in zip(found, want, strict=True)) < 1e-12


def test_nothing_of_size_n_by_landmarks_is_kept():
    """Kept for the backward: inputs, output and per landmark or per token sums, no N x landmarks matrix."""
    shape = Shape(1, 4, 4096)
    method = build("nystromformer", shape, torch.float32, landmarks=64)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        method(*draw(1, shape, dtype=torch.float32))
    assert kept
    assert max(kept) <= 4 * 4096


def test_what_is_not_finite_stays_in_its_row_and_head():
    shape = Shape(2, 5, 40)
    method = build("nystromformer", shape)
    q, k, v = (x.detach() for x in draw(2, shape))
    want = method(q, k, v)
    k[0, 1, 7] = float("nan")
    v[1, 0, 3] = float("inf")
    found = method(q, k, v)
    assert gap(found[0, 0], want[0, 0]) < 1e-12
    assert gap(found[1, 1], want[1, 1]) < 1e-12
    assert bool(found[0, 1].isnan().all())
    assert not bool(found[1, 0].isfinite().any())
    with pytest.raises(torch.linalg.LinAlgError):
        build("nystromformer", shape, pinv="exact")(q, k, v)


def test_parameters_out_of_range_are_refused():
    for params, words in (
        ({"landmarks": 0}, "landmarks=0: expected an integer >= 1"),
        ({"pinv": "svd"}, "pinv=svd: expected iterative or exact"),
        ({"pinv_iterations": 0}, "pinv_iterations=0: expected an integer >= 1"),
        ({"conv_kernel": 4}, "conv_kernel=4: expected 0 or an odd number"),
        ({"conv_kernel": -1}, "conv_kernel=-1: expected 0 or an odd number"),
    ):
        with pytest.raises(ValueError, match=words):
            build("nystromformer", Shape(1, 4, 8), **params)
    with pytest.raises(Unsupported, match="no causal form"):
        build("nystromformer", Shape(1, 4, 8, causal=True))
