"""Linformer: its limits, its sharings, its projections, what it refuses."""

import pytest
import torch

from methods.encoder import Encoder
from methods.linformer import Linformer
from methods.registry import Shape, Unsupported
from tests.methods.conftest import build, draw, padding
from tests.methods.test_contract import gap

SHARINGS = ["none", "headwise", "key_value", "layerwise"]
PROJECTIONS = ["linear", "mean", "max", "conv"]


def shaken(shape: Shape, **params) -> Linformer:
    """A float64 instance whose parameters are random, filters too, so that no two of them agree."""
    method = build("linformer", shape, **params)
    generator = torch.Generator().manual_seed(3)
    for parameter in method.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return method


def test_n1_identity_projections_give_full_attention():
    """N1: rank = N and E = F = I."""
    shape = Shape(2, 5, 24)
    method = build("linformer", shape, rank=24, sharing="headwise")
    for matrix in (method.E, method.F):
        matrix.data = torch.eye(24, dtype=torch.float64)[None]
    inputs = draw(2, shape)
    assert gap(method(*inputs), build("full", shape)(*inputs)) < 1e-12


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize(("built", "n", "rank"), [(24, 24, 6), (29, 29, 6), (29, 23, 6), (5, 4, 8), (1, 1, 3)])
def test_n1_equals_its_reference_for_every_projection_and_sharing(projection, sharing, built, n, rank):
    """N1, N4: values and gradients, also where rank does not divide N and where N is shorter than built for."""
    method = shaken(Shape(2, 3, built), rank=rank, sharing=sharing, projection=projection)
    for mask in (None, padding(2, n), torch.arange(n) >= torch.tensor([[n], [0]])):
        inputs = draw(2, method.shape, n=n)
        leaves = [*inputs, *method.parameters()]
        weights = torch.randn(2, 2, n, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        found, want = (f(*inputs, key_padding_mask=mask) for f in (method, method.dense_reference))
        assert gap(found, want) < 1e-11
        for own, other in zip(
            *(torch.autograd.grad(x, leaves, weights) for x in (found, want)),
            strict=True,
        ):
            assert gap(own, other) < 1e-11


@pytest.mark.parametrize(
    ("sharing", "matrices"), [("none", 288), ("headwise", 24), ("key_value", 12), ("layerwise", 1)]
)
@pytest.mark.parametrize("projection", ["linear", "conv"])
def test_n2_the_paper_counts_its_matrices(sharing, matrices, projection):
    """N2: 288, 24, 12 and 1 distinct matrices for 12 layers of 12 heads."""
    layers = Linformer.layers(
        Shape(12, 4, 16), 12, torch.Generator().manual_seed(0), rank=2, sharing=sharing, projection=projection
    )
    held = {parameter.data_ptr(): parameter for layer in layers for parameter in layer.parameters()}
    assert sum(parameter.shape[0] for parameter in held.values()) == matrices


def test_n2_the_layerwise_gradient_is_the_sum_over_layers():
    """N2: one matrix for all layers gathers the gradient of each."""
    layers = Linformer.layers(Shape(1, 4, 16), 3, torch.Generator().manual_seed(0), rank=2)
    inputs = [draw(1, layers[0].shape, dtype=torch.float32, seed=seed) for seed in range(3)]
    outs = [layer(*own).sum() for layer, own in zip(layers, inputs, strict=True)]
    single = [torch.autograd.grad(out, layers[0].E, retain_graph=True)[0] for out in outs]
    whole = torch.autograd.grad(sum(outs), layers[0].E)[0]
    assert torch.allclose(whole, sum(single), atol=1e-5)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_n3_a_rank_for_every_layer(sharing):
    """N3: a decreasing schedule gives decreasing matrices; layerwise sharing slices the rows of the largest."""
    ranks = [8, 6, 3]
    layers = Linformer.layers(Shape(2, 4, 16), 3, torch.Generator().manual_seed(0), rank=ranks, sharing=sharing)
    assert [layer.rank for layer in layers] == ranks
    assert [layer.budget_value() for layer in layers] == ranks
    inputs = draw(1, layers[0].shape, dtype=torch.float32)
    for layer in layers:
        assert layer._project(inputs[1], inputs[2], None)[0].shape == (1, 2, layer.rank, 4)
        assert layer.flops(1, 16) == 8 * 2 * 16 * layer.rank * 4
        assert layer.E.shape[1] == (8 if sharing == "layerwise" else layer.rank)
    if sharing == "layerwise":
        assert all(layer.E is layers[0].E and layer.F is layers[0].E for layer in layers)
        grad = torch.autograd.grad(layers[2](*inputs).sum(), layers[0].E)[0]
        assert bool((grad[:, 3:] == 0).all())
        assert bool((grad[:, :3] != 0).any())
    model = Encoder(layers, vocab_size=5, ff_dim=8)
    model(torch.zeros(1, 16, dtype=torch.long)).sum().backward()


def test_n3_layerwise_filters_of_several_lengths_are_refused():
    """N3: filters of different ranks have different lengths: no rows to slice."""
    layers = {"rank": [8, 4], "projection": "conv"}
    with pytest.raises(Unsupported, match="sharing=layerwise: with projection=conv all layers need the same rank"):
        Linformer.layers(Shape(1, 4, 16), 2, torch.Generator(), **layers)
    assert len(Linformer.layers(Shape(1, 4, 16), 2, torch.Generator(), **layers, sharing="headwise")) == 2


@pytest.mark.parametrize(("n", "rank"), [(24, 6), (24, 24), (29, 6), (7, 9)])
def test_n4_mean_pooling_is_a_block_average_matrix(n, rank):
    """N4: mean pooling equals a linear projection by an explicit E, also where rank does not divide N."""
    shape = Shape(2, 5, n)
    blocks = min(n, rank)
    pooled = build("linformer", shape, rank=rank, projection="mean")
    linear = build("linformer", shape, rank=blocks)
    E = torch.zeros(blocks, n, dtype=torch.float64)
    sizes = [n // blocks] * (blocks - n % blocks) + [n // blocks + 1] * (n % blocks)
    for row, own in enumerate(torch.arange(n).split(sizes)):
        E[row, own] = 1 / len(own)
    linear.E.data = E[None]
    inputs = draw(2, shape)
    assert gap(pooled(*inputs), linear(*inputs)) < 1e-12
    assert not list(pooled.parameters())
    assert not pooled.capabilities.learned
    assert gap(pooled(inputs[0], inputs[1], torch.ones_like(inputs[2])), torch.ones_like(inputs[2])) < 1e-12


def test_n4_a_constant_filter_is_mean_pooling():
    """N4: convolution with kernel = stride = N / rank, whose filters start as means."""
    inputs = draw(2, Shape(2, 5, 24))
    filters, means = (build("linformer", Shape(2, 5, 24), projection=name) for name in ("conv", "mean"))
    assert gap(filters(*inputs), means(*inputs)) < 1e-12
    assert filters.E.shape == (1, 4, 5)
    filters = shaken(Shape(2, 5, 24), projection="conv", sharing="headwise")
    own = torch.nn.functional.conv1d(  # torch's own strided depthwise convolution
        inputs[1].transpose(-1, -2).flatten(0, 1), filters.E[0].T[:, None], stride=4, groups=5
    )
    keys = filters._project(inputs[1], inputs[2], None)[0]
    assert gap(keys, own.unflatten(0, (2, 2)).transpose(-1, -2)) < 1e-12


def test_n4_max_pooling_takes_block_maxima():
    """N4: maxima of blocks; declared not linear in v."""
    method = build("linformer", Shape(1, 2, 12), rank=4, projection="max")
    _, k, v = draw(1, method.shape)
    keys, values = method._project(k, v, None)
    for block in range(4):
        own = slice(3 * block, 3 * block + 3)
        assert torch.equal(keys[0, 0, block], k[0, 0, own].max(dim=0).values)
        assert torch.equal(values[0, 0, block], v[0, 0, own].max(dim=0).values)
    assert not method.capabilities.linear_in_v
    assert build("linformer", Shape(1, 2, 12)).capabilities.linear_in_v


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("sharing", ["none", "layerwise"])
def test_n5_slicing_equals_zeroed_padding(projection, sharing):
    """N5: a shorter input is the built length with the rest padded, exactly; N6: whatever the pads hold."""
    method = shaken(Shape(2, 5, 40), rank=6, projection=projection, sharing=sharing)
    q, k, v = (x.detach() for x in draw(1, method.shape))
    mask = torch.arange(40)[None] >= 29
    alone = method(q[:, :, :29], k[:, :, :29], v[:, :, :29])
    assert gap(method(q, k, v, key_padding_mask=mask)[:, :, :29], alone) < 1e-12
    for value in (100.0, float("nan")):
        spoiled = (x.masked_fill(mask[:, None, :, None], value) for x in (k, v))
        assert gap(method(q, *spoiled, key_padding_mask=mask)[:, :, :29], alone) < 1e-12
    with pytest.raises(ValueError, match="seq_len=41: linformer was built for at most 40"):
        method(*draw(1, method.shape, n=41))


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_n6_padding_in_the_middle_amount_and_batching(projection):
    """N6: rows in one batch keep their own pads, wherever they are; a row of pads gives 0."""
    method = shaken(Shape(2, 5, 40), rank=6, projection=projection)
    q, k, v = (x.detach() for x in draw(3, method.shape))
    mask = torch.zeros(3, 40, dtype=torch.bool)
    mask[0, 5:17] = mask[1, 35:] = mask[2] = True
    whole = method(q, k, v, key_padding_mask=mask)
    for b in range(2):
        own = slice(b, b + 1)
        assert gap(whole[own], method(q[own], k[own], v[own], key_padding_mask=mask[own])) < 1e-12
    short = method(q[1:2, :, :35], k[1:2, :, :35], v[1:2, :, :35])
    assert gap(whole[1:2, :, :35], short) < 1e-12
    assert bool((whole[2] == 0).all())


def test_d6_padding_is_not_ignored_and_the_rank_is_the_one_asked_for():
    """D6: the reference of Long Range Arena projects pads like tokens, and runs every task at rank 16."""
    method = build("linformer", Shape(1, 4, 32), rank=24)
    assert method.E.shape == (1, 24, 32)
    q, k, v = draw(1, method.shape)
    mask = torch.arange(32)[None] >= 20
    padded = method(q, k, v, key_padding_mask=mask)
    assert gap(padded, method(q, k, v)) > 1e-2
    assert gap(padded, method(q, k.detach() * (~mask)[:, None, :, None], v * (~mask)[:, None, :, None])) < 1e-12


def test_n7_masking_the_slots_would_leak_the_future():
    """N7: causal is refused, and the mask on the [N, rank] matrix that others offer does not stop the future."""
    with pytest.raises(Unsupported, match="no causal form"):
        build("linformer", Shape(1, 4, 8, causal=True))
    method = build("linformer", Shape(1, 4, 8), rank=8)
    q, k, v = draw(1, method.shape)
    slots = q @ (method.E @ k).mT / 2
    masked = slots.masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf).softmax(-1) @ (method.E @ v)
    for leaked in torch.autograd.grad(masked[:, :, 3].sum(), (k, v)):
        assert bool((leaked[:, :, 4:] != 0).any())


def test_c14_tokens_and_columns_in_another_order_give_the_same():
    """C14: a permutation of keys, values and the columns of E and F together changes nothing."""
    method = shaken(Shape(2, 5, 30), sharing="headwise")
    q, k, v = (x.detach() for x in draw(2, method.shape))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    wanted = method(q, k, v)
    moved = k[:, :, order], v[:, :, order]
    assert gap(method(q, *moved), wanted) > 1e-2
    for matrix in (method.E, method.F):
        matrix.data = matrix.data[:, :, order]
    assert gap(method(q, *moved), wanted) < 1e-12


def test_n8_random_projections_keep_inner_products():
    """N8: with R ~ N(0, 1/k), the share of bad pairs stays under 2 exp(-(e^2 - e^3) k / 4)."""
    rank, eps = 256, 0.25
    method = build("linformer", Shape(1, 4, 500), rank=rank)
    x, y = torch.randn(2, 2000, 500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    R = method.E[0].detach()
    error = ((x @ R.T) * (y @ R.T)).sum(1) - (x * y).sum(1)
    bad = (error.abs() > eps * x.norm(dim=1) * y.norm(dim=1)).double().mean()
    assert float(bad) <= 2 * torch.exp(torch.tensor(-(eps**2 - eps**3) * rank / 4)).item()


@pytest.mark.parametrize(("init", "std"), [("jl", 1 / 8), ("uniform", 1 / 8 / 3**0.5), ("small", 0.02)])
def test_n10_initial_entries(init, std):
    """N10: N(0, 1/rank), uniform within 1/sqrt(rank), N(0, 0.02^2)."""
    E = build("linformer", Shape(1, 4, 400), rank=64, init=init).E.detach()
    assert float(E.mean().abs()) < 5 * std / E.numel() ** 0.5
    assert float(E.std()) == pytest.approx(std, rel=0.02)
    assert (float(E.abs().max()) <= 1 / 8) == (init != "jl")


def test_n10_dropout_of_the_weights():
    """N10: drops weights while training, right on average, replayed by draw_index; evaluation has none."""
    method = build("linformer", Shape(2, 4, 12), dropout=0.4)
    plain = build("linformer", Shape(2, 4, 12))
    inputs = draw(1, method.shape)
    assert torch.equal(method.eval()(*inputs), plain(*inputs))
    assert method.draw_index == 0
    state = torch.random.get_rng_state()
    method.train()
    first, second = method(*inputs), method(*inputs)
    assert method.draw_index == 2
    assert gap(first, second) > 1e-3
    method.draw_index = 0
    assert torch.equal(method(*inputs), first)
    assert torch.equal(state, torch.random.get_rng_state())
    with torch.no_grad():
        many = method(*(x.expand(2000, -1, -1, -1) for x in inputs))
        spread = float(many.std(dim=0).mean())
        assert float((many.mean(0) - plain(*inputs)[0]).abs().max()) < 6 * spread / 2000**0.5
        weights = torch.ones(1, 1, 100, 100, dtype=torch.float64)
        kept = method._kept(weights)
    assert set(kept.unique().tolist()) == {0.0, 1 / 0.6}
    assert float(kept.mean()) == pytest.approx(1, abs=0.05)
    assert not method.capabilities.deterministic


def test_the_backward_makes_no_gradient_of_the_matrix_for_every_head():
    """The gradient of a shared E is summed while it is made: no [heads, rank, N] tensor."""
    shape = Shape(8, 4, 4096)
    method = build("linformer", shape, torch.float32, rank=32)
    inputs = draw(1, shape, dtype=torch.float32)
    out = method(*inputs)
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made._base is None and made.is_contiguous():
                sizes.append(made.untyped_storage().nbytes() // 4)
            return made

    with Sizes():
        torch.autograd.grad(out.sum(), method.E)
    assert sizes
    assert max(sizes) <= 2 * 32 * 4096


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("room", [1, 1 << 30])
def test_both_ways_to_sum_the_gradient_of_the_matrix(sharing, room, monkeypatch):
    """By stretches of columns and by rows of the batch: the gradient of the reference, padded or not."""
    monkeypatch.setattr("methods.ops.tiles.CACHED_SCORES", room)
    method = build("linformer", Shape(2, 3, 150), sharing=sharing)
    inputs = draw(3, method.shape)
    for mask in (None, padding(3, 150)):
        found, want = (
            torch.autograd.grad(f(*inputs, key_padding_mask=mask).square().sum(), list(method.parameters()))
            for f in (method, method.dense_reference)
        )
        assert max(gap(a, b) for a, b in zip(found, want, strict=True)) < 1e-11


def test_what_is_not_finite_stays_in_its_row_and_head():
    for projection in PROJECTIONS:
        method = build("linformer", Shape(2, 5, 40), projection=projection)
        q, k, v = (x.detach() for x in draw(2, method.shape))
        want = method(q, k, v)
        v[0, 1, 7] = float("nan")
        found = method(q, k, v)
        assert bool(found[0, 1].isnan().all())
        assert gap(found[0, 0], want[0, 0]) < 1e-12
        assert gap(found[1], want[1]) < 1e-12


def test_parameters_out_of_range_are_refused():
    for params, words in (
        ({"rank": 0}, "rank=0: expected an integer >= 1"),
        ({"sharing": "all"}, "sharing=all: expected one of none, headwise, key_value, layerwise"),
        ({"projection": "fft"}, "projection=fft: expected one of linear, mean, max, conv"),
        ({"init": "zero"}, "init=zero: expected one of jl, uniform, small"),
        ({"dropout": 1.0}, r"dropout=1.0: expected a number in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=words):
            build("linformer", Shape(1, 4, 8), **params)
    with pytest.raises(Unsupported, match="init=small: only projection=linear draws its parameters"):
        build("linformer", Shape(1, 4, 8), init="small", projection="conv")
