"""Exact attention: what permutes, what is pinned, what it does where causality and padding meet, decoding."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from methods.registry import Shape, Unsupported
from methods.sdpa import MASKED_ROWS
from tests.methods.conftest import build, draw

EXACT = ["full", "sdpa", "flash"]


@pytest.mark.parametrize("name", EXACT)
def test_permuting_keys_and_values_together_changes_nothing(name):
    method = build(name, Shape(2, 5, 30))
    q, k, v = draw(2, method.shape)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(method(q, k[:, :, order], v[:, :, order]), method(q, k, v), atol=1e-12)


@pytest.mark.parametrize("name", ["sdpa", "flash"])
@pytest.mark.parametrize("causal", [False, True])
def test_all_agree_with_full(name, causal):
    shape = Shape(2, 5, 77, causal)
    inputs = draw(2, shape)
    assert torch.allclose(build("full", shape)(*inputs), build(name, shape)(*inputs), atol=1e-12)


def test_the_pinned_kernel_is_the_one_that_ran():
    shape = Shape(2, 8, 32)
    for kernel in ("flash", "math"):
        method = build("sdpa", shape, torch.float32, kernel=kernel)
        method(*draw(1, shape, dtype=torch.float32))
        assert method.backend == f"sdpa:{kernel}"


def test_a_kernel_that_cannot_run_is_unsupported_not_replaced():
    method = build("sdpa", Shape(2, 8, 32), torch.float32, kernel="efficient")
    with pytest.raises(Unsupported, match="no efficient attention kernel for cpu float32"):
        method(*draw(1, method.shape, dtype=torch.float32))


def test_more_keys_than_queries():
    for name in EXACT:
        method = build(name, Shape(2, 5, 30))
        q, k, v = draw(1, method.shape)
        rows = method(q[:, :, :7], k, v)
        assert torch.allclose(rows, method(q, k, v)[:, :, :7], atol=1e-12)


@pytest.mark.parametrize("n", [MASKED_ROWS - 1, MASKED_ROWS, MASKED_ROWS + 1, 2 * MASKED_ROWS + 77])
@pytest.mark.parametrize("where", ["left", "right", "scattered", "all"])
def test_sdpa_with_causality_and_padding(n, where):
    """Blocks of rows with the keys up to their last one: equal to one N x N mask, in value and gradients."""
    method = build("sdpa", Shape(1, 3, n, causal=True))
    inputs = draw(2, method.shape)
    mask = torch.zeros(2, n, dtype=torch.bool)
    if where == "scattered":
        mask = torch.rand(2, n, generator=torch.Generator().manual_seed(0)) < 0.5
    else:
        mask[0, {"left": slice(0, 70), "right": slice(-70, None), "all": slice(None)}[where]] = True
    found, wanted = (
        (out, *torch.autograd.grad(out.square().sum(), inputs))
        for out in (f(*inputs, key_padding_mask=mask) for f in (method, method.dense_reference))
    )
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found, wanted, strict=True))
    if where in ("left", "all"):
        assert bool((found[0][0, :, :70] == 0).all())  # rows without a key


def test_sdpa_with_causality_and_padding_holds_no_n_by_n_mask():
    method = build("sdpa", Shape(1, 4, 2048, causal=True), torch.float32)
    mask = torch.zeros(1, 2048, dtype=torch.bool)
    mask[0, -5:] = True
    largest = []

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            largest.extend(x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor))
            return out

    with torch.no_grad(), Largest():
        method(*draw(1, method.shape, dtype=torch.float32), key_padding_mask=mask)
    assert max(largest) <= MASKED_ROWS * 2048


@pytest.mark.parametrize("name", EXACT)
def test_c13_decoding_grows_its_cache_and_counts_it(name):
    shape = Shape(2, 5, 40, causal=True)
    method = build(name, shape)
    q, k, v = (x.detach() for x in draw(2, shape, n=100))
    state, rows = method.start(2, q.device, q.dtype), []
    for i in range(100):
        out, state = method.step(q[:, :, i : i + 1], k[:, :, i : i + 1], v[:, :, i : i + 1], state)
        rows.append(out)
    assert torch.allclose(torch.cat(rows, dim=2), method(q, k, v), atol=1e-12)
    assert state.length == 100
    assert method.state_size(100) == 2 * 2 * 5 * 100
    with pytest.raises(Unsupported, match=r"needs the causal form \(causal=true\)"):
        build(name, Shape(2, 5, 40)).start(1, q.device, q.dtype)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_nan_or_infinity_spoils_its_own_head_only(name, value):
    method = build(name, Shape(2, 4, 20))
    for which in range(3):
        given = [x.detach().clone() for x in draw(2, method.shape)]
        given[which][0, 1, 7] = value
        bad = ~method(*given).isfinite().all(dim=-1)
        assert bool(bad[0, 1].any())
        if which == 0:
            assert int(bad.sum()) == 1
        bad[0, 1] = False
        assert not bool(bad.any())
