"""The tiles of a band cover what they should, and windowed attention equals masks, whatever the layout."""

import pytest
import torch

from methods.ops import bands
from methods.ops.bands import Band, Heads, Pattern, pairs, pieces
from methods.ops.tiles import Workspace
from methods.ops.window_parts import deep, product
from methods.ops.windows import windowed_attention


def dense(q, k, v, pattern):
    """By a boolean mask a head; shared positions are the same in all rows of the batch."""
    n = q.shape[2]
    ahead = torch.arange(n) - torch.arange(n)[:, None]
    mask = torch.zeros(1, q.shape[1], n, n, dtype=torch.bool)
    for heads in pattern.heads:
        mask[:, heads.first : heads.last] = heads.band.holds(ahead)
    if pattern.shared is not None:
        mask[..., pattern.shared[0]] = True
        if pattern.rows:
            mask[:, :, pattern.shared[0]] = True
    if pattern.causal:
        mask &= ahead <= 0
    if pattern.padding is not None:
        mask = mask & ~pattern.padding[:, None, None]
    logits = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).masked_fill(~mask, -torch.inf)
    return logits.softmax(-1).nan_to_num() @ v


@pytest.mark.parametrize(("lanes", "n"), [(1, 1), (1, 64), (2, 65), (1, 1000), (3, 517), (9, 300)])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (3, 0), (0, 5), (70, 70), (64, 128), (5000, 5000)])
def test_every_pair_of_the_band_is_in_one_tile(lanes, n, left, right):
    count = torch.zeros(lanes, n, n)
    scores = 0
    for piece in pieces(torch.zeros(lanes, n, 1), left, right):
        at = torch.arange(lanes * n, dtype=torch.float32).view(lanes, n, 1)
        rows, reach = piece.rows(at).long(), piece.reach(at).long().transpose(1, 2)
        assert bool((rows // n == reach // n).all())
        inside = (piece.bias == 0).expand(len(rows), -1, -1)
        count.view(-1).index_put_((rows * n + reach % n,), inside.float(), accumulate=True)
        scores += inside.numel()
    ahead = torch.arange(n) - torch.arange(n)[:, None]
    assert torch.equal(count, Band(left, right).holds(ahead).float().expand_as(count))
    assert scores == lanes * pairs(n, Band(left, right))


LAYOUTS = {
    "contiguous": lambda x: x,
    "mixer": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "last dimension strided": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "one head for all": lambda x: x[:, :1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("copy", [True, False])
def test_any_layout_gives_the_same(layout, copy, monkeypatch):
    """Sequences are merged by a copy, or looped over where they are long."""
    if not copy:
        monkeypatch.setattr(bands, "LONG", 1)
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, 150, 4, dtype=torch.float64, requires_grad=True) for _ in "qkv")
    heads = (Heads(0, 1, Band(9, 9)), Heads(1, 2, Band(9, 9, 3)))
    mask = torch.arange(150)[None] >= torch.tensor([[150], [70], [0]])
    pattern = Pattern(heads, padding=mask, shared=torch.tensor([[0, 77]]), rows=True)
    inputs = [LAYOUTS[layout](x) for x in (q, k, v)]
    weight = LAYOUTS[layout](torch.randn(3, 2, 150, 4, dtype=torch.float64))
    found = windowed_attention(*inputs, pattern)
    wanted = dense(*inputs, pattern)
    assert torch.allclose(found, wanted, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(x, [q, k, v], weight) for x in (found, wanted)), strict=True):
        assert torch.allclose(a, b, atol=1e-11)


@pytest.mark.parametrize("size", [1.0, 1e3])
@pytest.mark.parametrize("shared", [None, torch.tensor([[0, 3, 200]])])
def test_large_logits_take_the_maximum_off(size, shared):
    """Beyond float32's range of exponents the weights stay right, and no number is left denormal."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 260, 16) for _ in "qkv")
    q *= size
    assert deep(q, k, 0.25, 260) == (size > 1)
    pattern = Pattern((Heads(0, 2, Band(20, 20)),), shared=shared, rows=shared is not None)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    wide = [x.detach().double().requires_grad_() for x in leaves]
    found, wanted = windowed_attention(*leaves, pattern), dense(*wide, pattern)
    assert float((found - wanted).detach().abs().max()) < 1e-5 * size
    weight = torch.randn_like(found)
    grads = torch.autograd.grad(found, leaves, weight), torch.autograd.grad(wanted, wide, weight.double())
    for a, b in zip(*grads, strict=True):
        assert float((a - b).abs().max()) < 1e-5 * size * float(b.abs().max().clamp_min(1))


@pytest.mark.parametrize("size", [-1.0, 1.0])
def test_a_large_logit_between_the_sampled_rows_is_found(size):
    """Rows of great length, which a look at every fourth row misses: their sums overflow or vanish."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 260, 16) for _ in "qkv")
    q[:, :, 102] = 40.0
    k[:, :, 101:103] = 40.0 * size
    assert not deep(q, k, 0.25, 64)
    pattern = Pattern((Heads(0, 1, Band(1, 0)),))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    wide = [x.detach().double().requires_grad_() for x in leaves]
    found, wanted = windowed_attention(*leaves, pattern), dense(*wide, pattern)
    assert float((found - wanted).detach().abs().max()) < 1e-4
    weight = torch.randn_like(found)
    grads = torch.autograd.grad(found, leaves, weight), torch.autograd.grad(wanted, wide, weight.double())
    for a, b in zip(*grads, strict=True):
        assert float((a - b).abs().max()) < 1e-3 * float(b.abs().max())


def test_many_globals_go_through_in_blocks(monkeypatch):
    monkeypatch.setattr("methods.ops.tiles.CACHED_SCORES", 1 << 9)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 100, 4, dtype=torch.float64, requires_grad=True) for _ in "qkv")
    index = torch.randperm(100)[None, :40].sort().values
    for causal in (False, True):
        band = Band(5, 0 if causal else 5)
        pattern = Pattern((Heads(0, 2, band),), causal, shared=index, rows=True)
        found, wanted = windowed_attention(q, k, v, pattern), dense(q, k, v, pattern)
        assert torch.allclose(found, wanted, atol=1e-12)
        weight = torch.randn_like(found)
        for a, b in zip(*(torch.autograd.grad(x, [q, k, v], weight) for x in (found, wanted)), strict=True):
            assert torch.allclose(a, b, atol=1e-11)


def test_products_into_strided_memory():
    from methods.ops.window_parts import Call

    call = Call(Pattern(()), 1.0, False, Workspace(torch.device("cpu"), torch.float64))
    a, b = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 5, 6, dtype=torch.float64)
    for into in (torch.zeros(3, 4, 6, dtype=torch.float64), torch.zeros(3, 8, 6, dtype=torch.float64)[:, ::2]):
        product(call, into, a, b, 2.0, fresh=True)
        product(call, into, a, b, 0.5)
        assert torch.allclose(into, 2.5 * a @ b)


def test_windows_copy_no_keys():
    """Every tile is a view, and a forward allocates the output and little else."""
    from torch.profiler import profile

    q, k, v = (torch.randn(1, 8, 2048, 64) for _ in "qkv")
    pattern = Pattern((Heads(0, 8, Band(128, 128)),), shared=torch.tensor([[0]]), rows=True)
    for piece in pieces(k[0], 128, 128):
        assert piece.reach(k[0]).untyped_storage().data_ptr() == k.untyped_storage().data_ptr()
    with torch.no_grad(), profile(profile_memory=True) as seen:
        windowed_attention(q, k, v, pattern)
    held = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert q.numel() * 4 <= peak <= q.numel() * 4 + 3 * 2**20
