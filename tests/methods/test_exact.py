"""Exact attention: what permutes, what is pinned."""

import pytest
import torch

from methods.registry import Shape, Unsupported
from tests.methods.conftest import build, draw


@pytest.mark.parametrize("name", ["full", "sdpa"])
def test_permuting_keys_and_values_together_changes_nothing(name):
    method = build(name, Shape(2, 5, 30))
    q, k, v = draw(2, method.shape)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(method(q, k[:, :, order], v[:, :, order]), method(q, k, v), atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_full_and_sdpa_agree(causal):
    shape = Shape(2, 5, 77, causal)
    inputs = draw(2, shape)
    assert torch.allclose(build("full", shape)(*inputs), build("sdpa", shape)(*inputs), atol=1e-12)


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
    for name in ("full", "sdpa"):
        method = build(name, Shape(2, 5, 30))
        q, k, v = draw(1, method.shape)
        rows = method(q[:, :, :7], k, v)
        assert torch.allclose(rows, method(q, k, v)[:, :, :7], atol=1e-12)
