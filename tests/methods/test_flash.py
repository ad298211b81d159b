"""The tiled algorithm: F1 to F7 against dense formulas, loops and exact counts."""

import math
from itertools import pairwise

import pytest
import torch

from methods.ops.online import OnlineSoftmax, Tiling, tiled_attention
from methods.ops.packed import pack, packed_attention, split_attention, unpack
from methods.ops.scoring import Scoring, Span, spans
from methods.ops.tiles import LOG2_E, merge
from methods.ops.traffic import Traffic, standard_accesses, tile_sizes, tiled_accesses
from methods.registry import Shape
from tests.methods.conftest import build, draw, padding


def inputs(heads=4, key_heads=4, queries=37, keys=53, dim=5, batch=2):
    generator = torch.Generator().manual_seed(0)
    sizes = ((heads, queries), (key_heads, keys), (key_heads, keys))
    made = [torch.randn(batch, h, n, dim, dtype=torch.float64, generator=generator) for h, n in sizes]
    return [x.requires_grad_() for x in made]


def dense(q, k, v, allowed=None, change=lambda logits: logits, sinks=None):
    """out and lse, pair by pair definitions on N x N matrices; key heads repeated for their query heads."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    logits = change(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]))
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    if sinks is not None:
        logits = torch.cat([logits, sinks[:, None, None].expand(*logits.shape[:3], 1)], dim=-1)
    weights = logits.softmax(-1).nan_to_num(0.0)
    return weights[..., : k.shape[2]] @ v, logits.logsumexp(-1)


def check(leaves, found, want, tolerance=1e-11):
    grad = torch.randn(found[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(found[0], want[0], atol=tolerance)
    assert torch.allclose(found[1], want[1], atol=tolerance)
    pairs = zip(*(torch.autograd.grad(out, leaves, grad) for out in (found[0], want[0])), strict=True)
    assert all(torch.allclose(a, b, atol=tolerance) for a, b in pairs)


def positions(queries, keys):
    return torch.arange(queries)[:, None], torch.arange(keys)


@pytest.mark.parametrize("tiling", [(1, 1), (7, 3), (16, 64), (64, 16), (37, 53), (500, 500)])
def test_f1_any_tile_sizes_give_the_output_and_the_logsumexp(tiling):
    leaves = inputs()
    check(leaves, tiled_attention(*leaves, tiling=Tiling(*tiling)), dense(*leaves))


def test_f1_the_online_softmax_holds_the_softmax_of_what_it_has_seen():
    rows, logits = torch.zeros(2, 3, 4), torch.randn(2, 3, 12) * 5
    logits[0, 0, :8] = -torch.inf  # a row whose keys come late
    values, softmax = torch.randn(2, 12, 4), OnlineSoftmax(rows)
    for first, last in ((0, 5), (5, 6), (6, 12)):
        softmax.add(logits[..., first:last] * LOG2_E, values[:, first:last])
    out, lse = softmax.finish()
    assert torch.allclose(out, logits.softmax(-1) @ values, atol=1e-5)
    assert torch.allclose(lse, logits.logsumexp(-1), atol=1e-5)


def test_f1_far_apart_logits_and_rows_without_a_key():
    q, k, v = (x.detach() for x in inputs())
    mask = torch.zeros(2, 53, dtype=torch.bool)
    mask[1] = True
    out, lse = tiled_attention(q * 300, k, v, Scoring(padding=mask), tiling=Tiling(8, 8))
    want, want_lse = dense(q * 300, k, v)
    assert torch.allclose(out[0], want[0], atol=1e-11)
    assert torch.allclose(lse[0], want_lse[0], rtol=1e-12)
    assert bool((out[1] == 0).all())
    assert bool(lse[1].isneginf().all())


def test_f2_the_backward_against_finite_differences_and_without_n_by_n_memory():
    small = [x.requires_grad_() for x in torch.randn(3, 1, 2, 7, 3, dtype=torch.float64).unbind()]
    sinks = torch.randn(2, dtype=torch.float64, requires_grad=True)
    scoring = Scoring(causal=True, softcap=2.0, slopes=torch.tensor([0.5, 0.1]))
    torch.autograd.gradcheck(
        lambda q, k, v, s: tiled_attention(q, k, v, scoring, tiling=Tiling(2, 3), sinks=s)[0], (*small, sinks)
    )
    shape, sizes = Shape(2, 4, 300), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        build("flash", shape)(*draw(1, shape))
    assert max(sizes) == 2 * 300 * 4  # the inputs and the output; the logsumexp is smaller
    assert len(sizes) == 5


def simulate_standard(q, k, v, traffic):
    """Algorithm 0 of Dao et al. 2022: each step reads its operands and writes its result."""
    traffic.load(q, k)
    scores = q @ k.T
    traffic.store(scores)
    traffic.load(scores)
    weights = scores.softmax(-1)
    traffic.store(weights)
    traffic.load(weights, v)
    out = weights @ v
    traffic.store(out)


def count_tiled(n, dim, sram, blocks=None):
    traffic, x = Traffic(), torch.zeros(1, 1, n, dim)
    tiled_attention(x, x, x, Scoring(blocks=blocks), tiling=Tiling(*tile_sizes(dim, sram)), traffic=traffic)
    return traffic


@pytest.mark.parametrize(("n", "dim", "sram"), [(256, 8, 640), (512, 8, 640), (256, 16, 2560), (64, 4, 20)])
def test_f3_counted_accesses_are_those_of_the_formulas(n, dim, sram):
    traffic = Traffic()
    simulate_standard(*(torch.zeros(n, dim) for _ in "qkv"), traffic)
    assert traffic.total == standard_accesses(n, dim)
    assert count_tiled(n, dim, sram).total == tiled_accesses(n, dim, sram)
    block_q, block_k = tile_sizes(dim, sram)
    assert 2 * block_q * dim + 2 * block_k * dim + block_q * block_k <= sram


def test_f3_growth_is_that_of_the_theorem():
    """Theta(N^2 d^2 / M) for tiles, Theta(N d + N^2) for the standard form; density scales the first (Prop. 4)."""
    base = count_tiled(512, 8, 640).total
    assert count_tiled(1024, 8, 640).total / base == pytest.approx(4, rel=0.1)
    assert count_tiled(512, 8, 1280).total / base == pytest.approx(1 / 2, rel=0.1)
    assert count_tiled(512, 16, 2560).total / base == pytest.approx(1, rel=0.15)  # d^2 / M stays
    assert standard_accesses(1024, 8) / standard_accesses(512, 8) == pytest.approx(4, rel=0.05)
    assert standard_accesses(4096, 64) > 3 * tiled_accesses(4096, 64, 100_000)  # about the paper's own sizes
    with pytest.raises(ValueError, match="sram=39: expected at least 40"):
        tile_sizes(8, 39)
    block_q, block_k = tile_sizes(8, 640)
    blocks = torch.rand(512 // block_q, 512 // block_k, generator=torch.Generator().manual_seed(0)) < 0.25
    sparse = count_tiled(512, 8, 640, blocks)
    assert sparse.total == tiled_accesses(512, 8, 640, int(blocks.sum()))
    fixed = tiled_accesses(512, 8, 640, 0)
    assert (sparse.total - fixed) / (base - fixed) == pytest.approx(float(blocks.double().mean()))


def test_f4_an_arbitrary_block_mask_equals_the_dense_mask_and_zero_blocks_are_skipped():
    leaves, traffic = inputs(queries=40, keys=50), Traffic()
    blocks = torch.rand(5, 8, generator=torch.Generator().manual_seed(2)) < 0.4
    blocks[3] = False  # rows without a key
    allowed = blocks.repeat_interleave(8, 0).repeat_interleave(7, 1)[:40, :50]
    found = tiled_attention(*leaves, Scoring(blocks=blocks), tiling=Tiling(8, 7), traffic=traffic)
    check(leaves, found, dense(*leaves, allowed))
    assert traffic.computed == int(blocks.sum())
    assert traffic.skipped == 40 - int(blocks.sum())


def test_f4_causal_tiles_of_the_future_are_skipped():
    traffic, x = Traffic(), torch.zeros(1, 1, 64, 4)
    tiled_attention(x, x, x, Scoring(causal=True), tiling=Tiling(8, 8), traffic=traffic)
    assert (traffic.computed, traffic.skipped) == (8 * 9 // 2, 8 * 7 // 2)


@pytest.mark.parametrize("parts", [1, 2, 5, 53])
def test_f5_split_keys_merge_to_the_whole(parts):
    q, k, v = (x.detach() for x in inputs())
    i, j = positions(37, 53)
    mask = padding(2, 53)
    slopes = torch.tensor([0.1, 0.2, 0.3, 0.0], dtype=torch.float64)
    scoring = Scoring(causal=True, offset=16, padding=mask, slopes=slopes)
    found = split_attention(q, k, v, parts, scoring)
    bias = slopes[:, None, None] * (i + 16 - j).abs()
    want = dense(q, k, v, (j <= i + 16) & ~mask[:, None, None], lambda logits: logits - bias)
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found, want, strict=True))
    with pytest.raises(ValueError, match="neither blocks nor boundaries"):
        split_attention(q, k, v, 2, Scoring(boundaries=[0, 53]))


def test_f5_merging_is_associative():
    q, k, v = (x.detach() for x in inputs())
    cuts = [(0, 10), (10, 11), (11, 40), (40, 53)]
    a, b, c, d = (tiled_attention(q, k[:, :, first:last], v[:, :, first:last]) for first, last in cuts)
    left = merge(*merge(*merge(*a, *b), *c), *d)
    right = merge(*a, *merge(*b, *merge(*c, *d)))
    crossed = merge(*merge(*d, *b), *merge(*c, *a))
    for found in (left, right, crossed):
        assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(found, dense(q, k, v), strict=True))


@pytest.mark.parametrize("causal", [False, True])
def test_f6_packed_sequences_equal_a_loop_over_them(causal):
    q, k, v = inputs(queries=40, keys=40, batch=1)
    ends, traffic = torch.tensor([0, 1, 14, 14, 31, 40]), Traffic()  # one token, none, several tiles
    scoring, tiling = Scoring(causal=causal), Tiling(4, 4)
    found = packed_attention(q, k, v, ends, scoring, tiling=tiling, traffic=traffic)
    rows = []
    for first, last in pairwise(ends):
        own = [x[:, :, first:last] for x in (q, k, v)]
        n = int(last - first)
        rows.append(dense(*own, torch.ones(n, n, dtype=torch.bool).tril() if causal else None))
    check([q, k, v], found, tuple(torch.cat(part, dim=2) for part in zip(*rows, strict=True)))
    assert traffic.skipped >= 50
    with pytest.raises(ValueError, match=r"cu_seqlens=\[0, 7\]: expected numbers that rise from 0 to 40"):
        packed_attention(q, k, v, torch.tensor([0, 7]))


def test_f6_packing_a_padded_batch_and_back():
    q, k, v = (x.detach() for x in inputs(queries=20, keys=20))
    mask = torch.rand(2, 20, generator=torch.Generator().manual_seed(3)) < 0.3
    (packed, ends), (keys, _), (values, _) = (pack(x, mask) for x in (q, k, v))
    assert packed.shape[2] == int((~mask).sum())
    out = unpack(packed_attention(packed, keys, values, ends)[0], mask)
    want = dense(q, k, v, ~mask[:, None, None])[0].masked_fill(mask[:, None, :, None], 0.0)
    assert torch.allclose(out, want, atol=1e-11)


@pytest.mark.parametrize("key_heads", [1, 2])
def test_f7_grouped_and_multi_query_heads(key_heads):
    leaves = inputs(key_heads=key_heads)
    mask = padding(2, 53)
    found = tiled_attention(*leaves, Scoring(causal=True, padding=mask), tiling=Tiling(8, 16))
    i, j = positions(37, 53)
    check(leaves, found, dense(*leaves, (j <= i) & ~mask[:, None, None]))
    with pytest.raises(ValueError, match="3 key heads: expected a divisor of the 4"):
        tiled_attention(*inputs(key_heads=3))


@pytest.mark.parametrize("window", [(0, 0), (3, 0), (4, 9), (100, 100)])
@pytest.mark.parametrize("causal", [False, True])
def test_f7_sliding_window(window, causal):
    leaves, traffic = inputs(queries=53), Traffic()
    found = tiled_attention(*leaves, Scoring(causal, window=window), tiling=Tiling(8, 4), traffic=traffic)
    i, j = positions(53, 53)
    allowed = (j >= i - window[0]) & (j <= i + (0 if causal else window[1]))
    check(leaves, found, dense(*leaves, allowed))
    tiles = torch.nn.functional.pad(allowed, (0, 3, 0, 3)).view(7, 8, 14, 4).any(3).any(1)
    assert traffic.computed == int(tiles.sum())  # no tile is computed in vain


def test_f7_alibi():
    leaves, slopes = inputs(), torch.tensor([0.5, 0.25, 0.1, 0.0], dtype=torch.float64)
    i, j = positions(37, 53)
    found = tiled_attention(*leaves, Scoring(slopes=slopes), tiling=Tiling(8, 16))
    check(leaves, found, dense(*leaves, None, lambda logits: logits - slopes[:, None, None] * (i - j).abs()))


def test_f7_softcap():
    leaves = inputs()
    found = tiled_attention(*leaves, Scoring(softcap=0.7), tiling=Tiling(8, 16))
    check(leaves, found, dense(*leaves, None, lambda logits: 0.7 * (logits / 0.7).tanh()))


def test_f7_sinks_take_their_share_and_no_sink_is_none():
    q, k, v = inputs()
    sinks = torch.tensor([0.0, 2.0, -1.0, 5.0], dtype=torch.float64, requires_grad=True)
    found = tiled_attention(q, k, v, tiling=Tiling(8, 16), sinks=sinks)
    check([q, k, v, sinks], found, dense(q, k, v, sinks=sinks))
    plain, without = tiled_attention(q, k, v)[0], torch.full((4,), -torch.inf)
    assert torch.allclose(tiled_attention(q, k, v, sinks=without)[0], plain, atol=1e-12)
    mass = tiled_attention(q, k, torch.ones_like(v), sinks=sinks)[0][..., 0]
    assert torch.allclose(mass, 1 - (sinks[:, None] - found[1]).exp(), atol=1e-12)


def test_spans_cover_everything_once():
    assert spans(7, 3) == [Span(0, 3), Span(3, 6), Span(6, 7)]
    assert spans(2, 5) == [Span(0, 2)]


def test_small_logits_do_not_become_denormal():
    """Products with denormal numbers are a hundred times slower; the weights that would be are 0."""
    softmax = OnlineSoftmax(torch.zeros(1, 1, 1))
    logits = torch.tensor([[[0.0, -126.0, -140.0, -99.0]]])
    softmax.add(logits, torch.ones(1, 4, 1))
    assert logits[0, 0].tolist() == [1.0, 0.0, 0.0, 2.0**-99]


def test_bad_blocks_are_refused():
    for name in ("block_q", "block_k"):
        with pytest.raises(ValueError, match=f"^{name}=0: expected an integer >= 1"):
            build("flash", Shape(1, 4, 8), **{name: 0})


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_nan_or_infinity_spoils_its_own_row_or_head_only(value):
    method = build("flash", Shape(2, 4, 20), block_q=8, block_k=8)
    for which in range(3):
        given = [x.detach().clone() for x in draw(2, method.shape)]
        given[which][0, 1, 7] = value
        bad = ~method(*given).isfinite().all(dim=-1)
        assert bool(bad[0, 1].any())
        bad[0, 1] = False
        assert not bool(bad.any())
