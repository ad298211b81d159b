"""Longformer's pattern, read from the effective attention matrix and compared exactly."""

import pytest
import torch

from methods.registry import Shape
from tests.methods.conftest import build, draw


def effective(method, n):
    """A with method(q, k, v) = A v, one key at a time."""
    q, k, _ = (tensor.detach() for tensor in draw(1, method.shape, n=n))
    columns = []
    for j in range(n):
        probe = torch.zeros_like(q)
        probe[:, :, j] = 1.0
        columns.append(method(q, k, probe)[0, 0, :, 0])
    return torch.stack(columns, dim=1)


def by_loops(n, window, globals_, causal):
    """The definition of section 3.1, a pair at a time."""
    mask = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(n):
            near = abs(i - j) <= window // 2
            shared = i < globals_ or j < globals_
            mask[i, j] = (near or shared) and (j <= i or not causal)
    return mask


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("window", "globals_"), [(2, 0), (4, 1), (8, 3), (16, 0), (64, 2), (8, 200)])
@pytest.mark.parametrize("n", [1, 5, 33, 130])
def test_support_is_exactly_the_pattern(n, window, globals_, causal):
    method = build("longformer", Shape(1, 3, n, causal), window=window, global_tokens=globals_)
    matrix = effective(method, n)
    assert torch.equal(matrix > 0, by_loops(n, window, globals_, causal))
    assert torch.equal(method.pattern(n), by_loops(n, window, globals_, causal))
    assert torch.allclose(matrix.sum(dim=1), torch.ones(n, dtype=matrix.dtype))  # no key counts twice


def test_a_window_over_everything_is_full_attention():
    shape = Shape(2, 5, 50)
    inputs = draw(2, shape)
    wide = build("longformer", shape, window=100, global_tokens=0)
    assert torch.allclose(wide(*inputs), build("full", shape)(*inputs), atol=1e-12)
    assert wide.degenerate(50)


def test_odd_windows_and_negative_globals_are_refused():
    with pytest.raises(ValueError, match=r"^window=7: expected an even number"):
        build("longformer", Shape(1, 3, 9), window=7)
    with pytest.raises(ValueError, match=r"^global_tokens=-1"):
        build("longformer", Shape(1, 3, 9), global_tokens=-1)


def test_windows_without_globals_copy_no_keys():
    """The blocks are views: nothing of the size of N x span x D is allocated."""
    method = build("longformer", Shape(1, 8, 4096), torch.float32, window=256, global_tokens=0)
    q, k, v = (tensor.detach() for tensor in draw(1, method.shape, dtype=torch.float32))
    seen = []
    from methods import longformer

    original = longformer.fused_attention

    def watch(queries, keys, values, **kwargs):
        seen.append(keys.untyped_storage().nbytes())
        return original(queries, keys, values, **kwargs)

    longformer.fused_attention = watch
    try:
        method(q, k, v)
    finally:
        longformer.fused_attention = original
    assert seen == [(4096 + 256) * 8 * 4]
