"""Longformer against oracles by loops and boolean masks; L1 to L12 are the items of the method's specification."""

import pytest
import torch

from methods.longformer import Longformer, tile_positions
from methods.registry import Encoder, Mixer, Shape, Unsupported
from tests.methods.conftest import build, draw, padding


def effective(method, n, heads=1, **masks):
    """A `[H, n, n]` with method(q, k, v) = A v, one key at a time."""
    q, k, _ = (tensor.detach() for tensor in draw(1, method.shape, n=n))
    columns = []
    for j in range(n):
        probe = torch.zeros_like(q)
        probe[:, :, j] = 1.0
        columns.append(method(q, k, probe, **masks)[0, :, :, 0])
    return torch.stack(columns, dim=-1)


def by_loops(n, window, globals_, causal, dilation=1):
    """The definition of section 3.1, a pair at a time."""
    mask = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(n):
            near = abs(i - j) <= window // 2 * dilation and (i - j) % dilation == 0
            mask[i, j] = (near or i in globals_ or j in globals_) and (j <= i or not causal)
    return mask


def rows_by_loops(q, k, v, mask):
    """One row at a time over the keys of its mask `[n, n]`; q, k, v `[n, d]`."""
    out = torch.zeros_like(q)
    for i in range(len(q)):
        keys = mask[i].nonzero().flatten()
        if len(keys):
            out[i] = (k[keys] @ q[i] / q.shape[1] ** 0.5).softmax(0) @ v[keys]
    return out


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("window", "globals_"), [(2, 0), (4, 1), (8, 3), (16, 0), (64, 2), (8, 200)])
@pytest.mark.parametrize("n", [1, 5, 33, 130])
def test_l1_l2_l8_support_is_exactly_the_pattern(n, window, globals_, causal):
    """L1, L2, L8: w / 2 a side, rows near the ends normalised over real keys; causal: AND lower triangle."""
    method = build("longformer", Shape(1, 3, n, causal), backend="tiles", window=window, global_tokens=globals_)
    matrix = effective(method, n)[0]
    assert torch.equal(matrix > 0, by_loops(n, window, range(globals_), causal))
    assert torch.equal(method.pattern(n)[0, 0], by_loops(n, window, range(globals_), causal))
    assert torch.allclose(matrix.sum(dim=1), torch.ones(n, dtype=matrix.dtype))  # no key counts twice


def test_l2_rows_at_the_ends_are_a_softmax_over_their_own_keys():
    method = build("longformer", Shape(1, 4, 70), backend="tiles", window=16, global_tokens=0)
    q, k, v = (x.detach()[0, 0] for x in draw(1, method.shape))
    wanted = rows_by_loops(q, k, v, by_loops(70, 16, (), False))
    found = method(q[None, None], k[None, None], v[None, None])[0, 0]
    assert torch.allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 2, 20, 200])
def test_l3_dilated_heads_see_every_dth_key(n, causal):
    method = build("longformer", Shape(3, 4, n, causal), backend="tiles", window=6, global_tokens=1, dilation=3)
    matrix = effective(method, n)
    for head, dilation in enumerate((1, 3, 3)):
        assert torch.equal(matrix[head] > 0, by_loops(n, 6, range(1), causal, dilation))


@pytest.mark.parametrize(("dilation", "span"), [(1, 25), (2, 49), (3, 73)])
def test_l3_span_after_three_layers(dilation, span):
    """w = 8: L w d + 1 wide with L w + 1 positions; one head with d = 1 fills all gaps that one step of it can."""
    n, layers = 101, 3
    steps = build("longformer", Shape(1, 4, n), backend="tiles", window=8, global_tokens=0, dilation=dilation)
    reached = torch.linalg.matrix_power(steps.pattern(n)[0, 0].double(), layers)[n // 2] > 0
    places = reached.nonzero().flatten()
    assert int(places[-1] - places[0]) + 1 == span
    assert len(places) == 25
    mixed = build("longformer", Shape(2, 4, n), window=8, global_tokens=0, dilation=dilation, dilated_heads=1)
    union = mixed.pattern(n)[0].any(dim=0).double()
    filled = torch.linalg.matrix_power(union, layers)[n // 2] > 0
    inner = (layers - 1) * 4 * dilation + 4
    assert bool(filled[n // 2 - inner : n // 2 + inner + 1].all())
    assert bool((filled >= reached).all())


def test_l3_schedule_of_the_papers_small_model():
    """Appendix B: none in layers 0-5, then gaps of 1, 2, 3 (steps of 2, 3, 4) for two layers each, in 2 heads."""
    steps = [1] * 6 + [2, 2, 3, 3, 4, 4]
    made = Longformer.layers(Shape(8, 4, 64), 12, torch.Generator(), window=8, dilation=steps)
    assert [layer.dilation for layer in made] == steps
    near = made[0].pattern(64)[0, 0]
    for layer in made:
        same = [bool(torch.equal(layer.pattern(64)[0, h], near)) for h in range(8)]
        assert same == [True] * 6 + [layer.dilation == 1] * 2


@pytest.mark.parametrize("windows", [[2, 4, 8], [8, 4, 2], [4, 4, 4]])
def test_l4_receptive_field_is_the_sum_of_the_radii(windows):
    """Growing, shrinking and fixed windows by layer, by a product of boolean matrices."""
    n = 41
    made = Longformer.layers(Shape(1, 4, n), 3, torch.Generator(), window=windows, global_tokens=0)
    reach = torch.eye(n)
    for layer in made:
        reach = layer.pattern(n)[0, 0].float() @ reach
    radius = sum(windows) // 2
    assert (reach[n // 2] > 0).nonzero().flatten().tolist() == list(range(n // 2 - radius, n // 2 + radius + 1))


def global_inputs(method, batch, n, mask):
    """q, k, v and separate projections for the globals of `mask`."""
    index, _ = method.global_places(n, mask)
    q, k, v = draw(batch, method.shape, n=n)
    _, kg, vg = draw(batch, method.shape, n=n, seed=2)
    qg = draw(batch, method.shape, n=index.shape[1], seed=3)[0]
    return (q, k, v), (qg, kg, vg)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_l5_l7_separate_projections_and_globals_by_row_equal_loops(causal, padded):
    """L5, L7: global rows over all tokens with their own q, k, v; local rows with local ones; a loop by sample."""
    n, window = 75, 8
    method = build("longformer", Shape(2, 4, n, causal), backend="tiles", window=window)
    mask = torch.zeros(3, n, dtype=torch.bool)
    mask[0, [0, 7, 74]] = True
    mask[2, 30:40] = True  # row 1 has none
    pads = padding(3, n) if padded else torch.zeros(3, n, dtype=torch.bool)
    local, own = global_inputs(method, 3, n, mask)
    wanted = []
    for b in range(3):
        places = mask[b].nonzero().flatten().tolist()
        allowed = by_loops(n, window, places, causal) & ~pads[b]
        for h in range(2):
            out = rows_by_loops(*(x[b, h] for x in local), allowed)
            spread = torch.zeros(n, 4, dtype=out.dtype)
            spread[places] = own[0][b, h, : len(places)].detach()
            rows = rows_by_loops(spread, own[1][b, h], own[2][b, h], allowed)
            wanted.append(torch.where(mask[b, :, None], rows, out))
    wanted = torch.stack(wanted).view(3, 2, n, 4)
    masks = {"key_padding_mask": pads if padded else None, "global_mask": mask, "global_qkv": own}
    assert torch.allclose(method(*local, **masks), wanted, atol=1e-12)
    assert torch.allclose(method.dense_reference(*local, **masks), wanted, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_l5_gradients_reach_all_six_projections(causal):
    n = 90
    method = build("longformer", Shape(2, 4, n, causal), backend="tiles", window=8, dilation=2, dilated_heads=1)
    mask = torch.rand(2, n, generator=torch.Generator().manual_seed(0)) > 0.8
    local, own = global_inputs(method, 2, n, mask)
    weight = torch.randn(2, 2, n, 4, dtype=torch.float64)
    masks = {"key_padding_mask": padding(2, n), "global_mask": mask, "global_qkv": own}
    found = torch.autograd.grad(method(*local, **masks), [*local, *own], weight)
    wanted = torch.autograd.grad(method.dense_reference(*local, **masks), [*local, *own], weight)
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found, wanted, strict=True))


def test_l6_global_projections_begin_as_copies():
    """At the start the layer is dense attention under (window OR global row OR global column)."""
    torch.manual_seed(0)
    method = Longformer(Shape(2, 4, 60), window=8, global_tokens=3)
    mixer = Mixer(method)
    torch.manual_seed(0)
    plain = Mixer(Longformer(Shape(2, 4, 60), window=8, global_tokens=3, global_projections=False))
    assert torch.equal(mixer.global_qkv.weight, mixer.qkv.weight)
    assert mixer.global_qkv.weight.data_ptr() != mixer.qkv.weight.data_ptr()
    assert torch.equal(mixer.out.weight, plain.out.weight)  # the copies took no random draw
    hidden = torch.randn(2, 60, 8)
    q, k, v = (x.unflatten(-1, (2, 4)).transpose(1, 2) for x in mixer.qkv(hidden).chunk(3, dim=-1))
    bias = torch.zeros(60, 60).masked_fill(~by_loops(60, 8, range(3), False), -torch.inf)
    dense = ((q @ k.transpose(2, 3)) / 2 + bias).softmax(-1) @ v
    wanted = mixer.out(dense.transpose(1, 2).flatten(2))
    assert torch.allclose(mixer(hidden), wanted, atol=1e-6)
    assert torch.allclose(plain(hidden), wanted, atol=1e-6)


def test_l6_the_mixer_counts_and_trains_the_global_projections():
    from torch.utils.flop_counter import FlopCounterMode

    method = Longformer(Shape(2, 16, 300), window=32, global_tokens=3)
    mixer = Mixer(method)
    assert sum(p.numel() for p in mixer.parameters()) == 7 * 32 * 32
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        mixer(torch.randn(2, 300, 32))
    rows = 4 * 2 * 2 * 3 * 300 * 16  # the fused kernel of the global rows, which torch does not count
    assert mixer.flops(2, 300) == pytest.approx(counter.get_total_flops() + rows, rel=0.05)
    mixer(torch.randn(2, 300, 32)).sum().backward()
    assert all(bool((p.grad != 0).any()) for p in mixer.parameters())


def test_l7_an_encoder_takes_the_globals_of_each_row():
    torch.manual_seed(0)
    model = Encoder([Longformer(Shape(2, 4, 50), window=4) for _ in range(2)], vocab_size=9, ff_dim=8)
    tokens = torch.randint(1, 9, (2, 50))
    mask = torch.zeros(2, 50, dtype=torch.bool)
    mask[0, :7] = True
    mask[1, 20] = True
    both = model(tokens, None, mask)
    for b in range(2):
        assert torch.allclose(both[b], model(tokens[b : b + 1], None, mask[b : b + 1])[0], atol=1e-5)
    assert not torch.allclose(both, model(tokens), atol=1e-3)


def test_l7_a_mask_without_globals_and_a_wrong_mask():
    method = build("longformer", Shape(1, 3, 30), backend="tiles", window=4)
    q, k, v = draw(2, method.shape)
    none = torch.zeros(2, 30, dtype=torch.bool)
    without = build("longformer", Shape(1, 3, 30), backend="tiles", window=4, global_tokens=0)
    assert torch.equal(method(q, k, v, global_mask=none), without(q, k, v))
    with pytest.raises(ValueError, match=r"^global_mask=bool \[2, 29\]: expected bool \[batch, 30\]"):
        method(q, k, v, global_mask=none[:, 1:])
    with pytest.raises(ValueError, match=r"^global_mask=int64"):
        method(q, k, v, global_mask=none.long())


def test_l8_no_gradient_from_the_future_with_globals_in_the_middle():
    method = build(
        "longformer", Shape(2, 4, 80, causal=True), backend="tiles", window=8, dilation=2, dilated_heads=1
    )
    q, k, v = draw(1, method.shape)
    mask = torch.zeros(1, 80, dtype=torch.bool)
    mask[0, [20, 60]] = True
    for row in (10, 20, 41, 60):
        grads = torch.autograd.grad(method(q, k, v, global_mask=mask)[:, :, row].sum(), [k, v])
        assert all(bool((g[:, :, row + 1 :] == 0).all()) for g in grads)


@pytest.mark.parametrize("real", [1, 40, 63])
def test_l9_padding_content_and_amount_do_not_matter(real):
    method = build(
        "longformer", Shape(2, 4, 130), backend="tiles", window=8, global_tokens=2, dilation=2, dilated_heads=1
    )
    q, k, v = (x.detach() for x in draw(1, method.shape))
    alone = method(*(x[:, :, :real] for x in (q, k, v)))
    mask = torch.arange(130)[None] >= real
    for junk in (0.0, 1e4, -1e30):
        full = [x.clone() for x in (q, k, v)]
        for x in full:
            x[:, :, real:] = junk
        out = method(*full, key_padding_mask=mask)
        assert torch.allclose(out[:, :, :real], alone, atol=1e-11)


def test_l9_rows_that_see_padding_only_are_zero():
    method = build("longformer", Shape(1, 4, 60), backend="tiles", window=8, global_tokens=0)
    q, k, v = draw(1, method.shape)
    out = method(q, k, v, key_padding_mask=torch.arange(60)[None] >= 30)
    assert bool((out[:, :, 34:] == 0).all())
    assert bool((out[:, :, :34] != 0).any(-1).all())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 9, 150])
def test_l10_all_backends_agree(n, causal):
    shape = Shape(3, 16, n, causal)
    params = {"window": 8, "global_tokens": 2, "dilation": 3}
    mask = torch.rand(2, n, generator=torch.Generator().manual_seed(0)) > 0.8
    for chosen in (None, mask):
        for pads in (None, padding(2, n)):
            outs = {}
            for backend in ("tiles", "masked", "diagonals", "flex", "dense"):
                method = build("longformer", shape, backend=backend, **params)
                inputs = [x.detach() for x in draw(2, shape)]
                outs[backend] = method(*inputs, key_padding_mask=pads, global_mask=chosen)
                assert method.backend == backend
            for out in outs.values():
                assert torch.allclose(out, outs["dense"], atol=1e-11)


def test_l10_gradients_of_the_differentiable_backends_agree():
    shape = Shape(2, 4, 70)
    weight = torch.randn(2, 2, 70, 4, dtype=torch.float64)
    grads = []
    for backend in ("tiles", "masked", "diagonals", "dense"):
        method = build("longformer", shape, window=8, dilation=2, dilated_heads=1, backend=backend)
        inputs = draw(2, shape)
        grads.append(torch.autograd.grad(method(*inputs, key_padding_mask=padding(2, 70)), inputs, weight))
    for other in grads[1:]:
        assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(grads[0], other, strict=True))


def test_l10_a_pinned_backend_that_cannot_run_is_refused():
    method = build("longformer", Shape(2, 16, 20), backend="flex")
    with pytest.raises(Unsupported, match=r"^backend=flex: FlexAttention has no backward on cpu; expected auto"):
        method(*draw(1, method.shape))


@pytest.mark.parametrize(("n", "backend"), [(16, "masked"), (300, "tiles")])
def test_l10_auto_is_one_masked_call_where_the_window_is_most_of_the_input(n, backend):
    auto = build("longformer", Shape(2, 16, n))
    auto(*draw(1, auto.shape))
    assert auto.backend == backend


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_l11_softmax_is_in_float32(dtype):
    """Logits far beyond float16's 65504 do not overflow; padding is a boolean mask, not a large number."""
    method = build("longformer", Shape(1, 16, 200), dtype, backend="tiles", window=16)
    q, k, v = (x.detach() for x in draw(1, method.shape, dtype=dtype))
    out = method(q * 200, k * 200, v, key_padding_mask=padding(1, 200))
    assert out.dtype == dtype
    assert bool(out.isfinite().all())
    exact = method.dense_reference(*(x.double() for x in (q * 200, k * 200, v)), key_padding_mask=padding(1, 200))
    assert float((out.double() - exact).abs().max()) < 2e-2


def test_l12_positions_are_tiled():
    learned = torch.nn.Parameter(torch.randn(5, 3))
    longer = tile_positions(learned, 12)
    assert longer.shape == (12, 3)
    assert not longer.requires_grad
    for i in range(12):
        assert torch.equal(longer[i], learned[i % 5])
    assert torch.equal(tile_positions(learned, 4), learned[:4])
    assert longer.data_ptr() != learned.data_ptr()
    with pytest.raises(ValueError, match=r"^length=0: expected"):
        tile_positions(learned, 0)


def test_a_window_over_everything_is_full_attention():
    shape = Shape(2, 5, 50)
    inputs = draw(2, shape)
    wide = build("longformer", shape, backend="tiles", window=100, global_tokens=0)
    assert torch.allclose(wide(*inputs), build("full", shape)(*inputs), atol=1e-12)
    assert wide.degenerate(50)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"window": 7}, r"^window=7: expected an even number"),
        ({"global_tokens": -1}, r"^global_tokens=-1: expected"),
        ({"dilation": 0}, r"^dilation=0: expected"),
        ({"dilated_heads": -1}, r"^dilated_heads=-1: expected"),
        ({"backend": "fast"}, r"^backend=fast: expected one of auto, tiles, masked, diagonals, flex, dense"),
    ],
)
def test_parameters_outside_their_range_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        build("longformer", Shape(1, 3, 9), **params)


def test_nan_stays_in_its_row_or_its_tiles():
    method = build("longformer", Shape(1, 4, 400), backend="tiles", window=8, global_tokens=0)
    q, k, v = (x.detach() for x in draw(1, method.shape))
    clean = method(q, k, v)
    for which, spoiled in ((0, range(100, 101)), (1, range(0, 192)), (2, range(0, 192))):
        inputs = [x.clone() for x in (q, k, v)]
        inputs[which][:, :, 100] = torch.nan
        out = method(*inputs)
        assert bool(out[:, :, 100].isnan().all())
        kept = [i for i in range(400) if i not in spoiled]
        assert torch.allclose(out[:, :, kept], clean[:, :, kept], atol=1e-12)
