"""Tiles and partial softmax results against plain dense formulas."""

from itertools import pairwise

import pytest
import torch

from methods.ops import kernels
from methods.ops.tiles import Tiles, attend, exp2_, groups, merge


def dense(q, k, v, bias, scale):
    scores = q @ k.transpose(1, 2) * scale + bias
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


@pytest.fixture(params=["private", "public"])
def kernel(request, monkeypatch):
    if request.param == "public":
        monkeypatch.setattr(kernels, "_FLASH", None)
    return request.param


def test_views_share_memory_and_adding_sums_overlaps():
    x = torch.arange(40.0).view(20, 2)[:, :2]
    tiles = Tiles(start=3, step=4, size=9, count=3)
    view = tiles.view(x)
    assert view.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    for i in range(3):
        assert torch.equal(view[i], x[3 + 4 * i : 12 + 4 * i])
    assert torch.equal(tiles.part(1, 3).view(x), view[1:])
    summed, wanted = torch.zeros(20, 2), torch.zeros(20, 2)
    tiles.add(summed, view)
    for i in range(3):
        wanted[3 + 4 * i : 12 + 4 * i] += x[3 + 4 * i : 12 + 4 * i]
    assert torch.equal(summed, wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_output_and_logsumexp_equal_the_formula(kernel, dtype):
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, n, 5, dtype=dtype) for n in (4, 7, 7))
    bias = torch.randn(3, 4, 7, dtype=dtype)
    bias[0, 1, 2:] = -torch.inf
    want, want_lse = dense(*(x.double() for x in (q, k, v)), bias.double(), 0.3)
    out, lse = attend(q, k, v, bias, 0.3)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 3e-2}[dtype]
    assert (out.double() - want).abs().max() < tolerance
    assert (lse.double() - want_lse).abs().max() < tolerance


def test_rows_without_a_key_have_no_mass(kernel):
    q, k = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    bias = torch.zeros(3, 5)
    bias[1] = -torch.inf
    out, lse = attend(q, k, k, bias, 1.0)
    assert torch.equal(out[:, 1], torch.zeros(2, 4))
    assert bool(lse[:, 1].isneginf().all())
    assert bool(lse[:, [0, 2]].isfinite().all())


def test_parts_merge_to_the_whole_in_any_order(kernel):
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, n, 4, dtype=torch.float64) for n in (3, 8, 8))
    bias = torch.randn(3, 8, dtype=torch.float64)
    bias[0, :3] = -torch.inf  # the first part has no key for row 0
    want, want_lse = dense(q, k, v, bias, 0.5)
    cuts = [(0, 3), (3, 4), (4, 8)]
    with torch.no_grad():
        parts = [attend(q, k[:, a:b], v[:, a:b], bias[:, a:b], 0.5) for a, b in cuts]
        left = merge(*merge(*parts[0], *parts[1]), *parts[2])
        right = merge(*parts[0], *merge(*parts[2], *parts[1]))
    for out, lse in (left, right):
        assert torch.allclose(out, want, atol=1e-12)
        assert torch.allclose(lse, want_lse, atol=1e-12)


def test_groups_cover_all_tiles_once():
    parts = list(groups(1000, 64 * 320, torch.device("cpu")))
    assert parts[0][0] == 0
    assert parts[-1][1] == 1000
    assert all(a[1] == b[0] for a, b in pairwise(parts))


def test_powers_are_exact_or_zero_and_never_denormal():
    x = torch.tensor([0.0, -3.5, -99.0, -101.0, -140.0, -torch.inf])
    found = exp2_(x.clone())
    assert torch.equal(found[:3], torch.exp2(x[:3]))
    assert torch.equal(found[3:], torch.zeros(3))
