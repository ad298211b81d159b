"""Performer: an estimator of softmax that is unbiased, stable and truly causal, and the kernels beside it."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from methods.encoder import Encoder
from methods.ops import kernelised_causal, tiles
from methods.performer import Performer
from methods.registry import Shape, Unsupported
from tests.methods.conftest import build, draw, padding

VARIANTS = [
    {"kernel": "positive"},
    {"kernel": "positive", "orthogonal": False},
    {"kernel": "hyperbolic"},
    {"kernel": "trigonometric"},
    {"kernel": "relu"},
    {"kernel": "elu"},
    {"kernel": "relu", "projection": False},
    {"kernel": "elu", "projection": False},
    {"kernel": "positive", "norms": "sqrt_d", "eps": 1e-3},
]


def names(params):
    return "-".join(str(value) for value in params.values())


def gap(a, b):
    return float((a - b).detach().abs().max() / b.detach().abs().max().clamp_min(1))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("params", VARIANTS, ids=names)
def test_p3_p4_p5_every_kernel_equals_its_dense_reference(params, causal):
    """P3, P4, P5: values and gradients, padded, over chunks and a ragged end."""
    method = build("performer", Shape(2, 5, 300, causal), **params)
    inputs, mask = draw(2, method.shape), padding(2, 300)
    weights = torch.randn(2, 2, 300, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    weights[0, :, 200:] = 0  # what padded rows compute is nobody's business
    found, wanted = (
        (out[:, :, :200], *torch.autograd.grad(out, inputs, weights))
        for out in (method(*inputs, key_padding_mask=mask), method.dense_reference(*inputs, key_padding_mask=mask))
    )
    tolerance = 1e-8 if params["kernel"] == "trigonometric" else 1e-11  # masses near 0 divide
    assert max(gap(a, b) for a, b in zip(found, wanted, strict=True)) < tolerance


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kernel", ["positive", "hyperbolic"])
def test_p9a_the_stabiliser_shows_through_eps_only(kernel, causal):
    """P9a, and the definition: log-sum-exp over features without stabiliser or eps, an oracle of its own."""
    method = build("performer", Shape(2, 6, 40, causal), features=30, eps=0.0, kernel=kernel)
    q, k, v = (tensor.detach() for tensor in draw(2, method.shape))
    W, scale = method.projection, 6**-0.25
    W = torch.cat([W, -W]) if kernel == "hyperbolic" else W
    log_q, log_k = (x * scale @ W.T - (x * scale).square().sum(-1, keepdim=True) / 2 for x in (q, k))
    logits = torch.logsumexp(log_q[..., :, None, :] + log_k[..., None, :, :], dim=-1)
    if causal:
        logits = logits.masked_fill(torch.ones(40, 40, dtype=torch.bool).triu(1), float("-inf"))
    assert torch.allclose(method(q, k, v), logits.softmax(-1) @ v, atol=1e-10)
    with_eps = build("performer", method.shape, features=30, eps=1e-9, kernel=kernel)
    assert gap(with_eps(q, k, v), method(q, k, v)) < 1e-6


def test_p9b_no_future_key_leaks_through_eps():
    """P9b: a future key that would raise a global maximum changes no earlier row by one bit."""
    method = build("performer", Shape(2, 6, 200, causal=True), eps=0.5)
    q, k, v = (tensor.detach() for tensor in draw(1, method.shape))
    before = method(q, k, v)
    W, scale = method.projection, 6**-0.25
    k[:, :, 150:] = W[W.norm(dim=1).argmax()] / scale  # no key has a larger feature
    levels = (k * scale @ W.T).amax(dim=-1) - (k * scale).square().sum(dim=-1) / 2
    assert bool((levels[..., 150] > levels[..., :150].amax(dim=-1) + 1).all())
    assert torch.equal(method(q, k, v)[:, :, :150], before[:, :, :150])


def test_p9c_d5_the_stabiliser_is_that_of_a_head():
    """P9c, D5: a maximum over the whole tensor would carry one head's keys into others through eps."""
    method = build("performer", Shape(3, 6, 50), eps=0.1)
    q, k, v = (tensor.detach() for tensor in draw(2, method.shape))
    before = method(q, k, v)
    W, scale = method.projection, 6**-0.25
    k[1, 2, 7] = W[W.norm(dim=1).argmax()] / scale  # no key has a larger feature
    changed = (method(q, k, v) != before).flatten(2).any(-1)
    assert changed.nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm", [0.01, 1.0, 20.0])
def test_p9d_large_norms_give_the_float64_numbers(causal, norm):
    """P9d: up to |x| = 20 before scaling; padded, since padding takes the deep path."""
    method = build("performer", Shape(1, 64, 600, causal), torch.float32, features=64)
    q, k, v = draw(2, method.shape, dtype=torch.float32)
    q, k = (torch.nn.functional.normalize(x, dim=-1) * norm for x in (q, k))
    for mask in (None, padding(2, 600)):
        found = method(q, k, v, key_padding_mask=mask)
        wanted = method.dense_reference(q.double(), k.double(), v.double(), key_padding_mask=mask)
        assert gap(found.double(), wanted) < 1e-4
        assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(found.sum(), [v], retain_graph=True))


def test_p4_negative_masses_are_reported_and_give_numbers():
    """P4: trigonometric features can have rows of mass <= 0; `masses` says which, positive features none."""
    shape = Shape(2, 8, 60)
    q, k, v = (3 * tensor.detach() for tensor in draw(1, shape))
    trigonometric = build("performer", shape, features=8, kernel="trigonometric")
    assert bool((trigonometric.masses(q, k) <= 0).any())
    assert bool(trigonometric(q, k, v).isfinite().all())
    assert gap(trigonometric(q, k, torch.ones_like(v)), torch.ones_like(v)) < 1e-9  # signs and all
    for kernel in ("positive", "hyperbolic", "relu", "elu"):
        assert bool((build("performer", shape, kernel=kernel).masses(q, k) > 0).all())


def test_p4_a_mass_of_zero_gives_zero(monkeypatch):
    method = build("performer", Shape(1, 4, 6), kernel="relu", eps=0.0, projection=False)
    q, k, v = (tensor.detach() for tensor in draw(1, method.shape))
    q[0, 0, 2] = -1.0
    out = method(q, k, v)
    assert bool(out.isfinite().all())
    assert bool((out[0, 0, 2] == 0).all())


@pytest.mark.parametrize("projection", [False, True])
def test_p5_d2_d3_generalised_kernels_are_what_they_say(projection):
    """P5: relu + 1e-3 and elu + 1, of W x or of x, x scaled once by D^(-1/4); D2, D3: no kernel for another."""
    shape = Shape(1, 5, 12)
    q, k, v = (tensor.detach() for tensor in draw(1, shape))
    outs = []
    for kernel, function in (
        ("relu", lambda x: max(x, 0.0) + 1e-3),
        ("elu", lambda x: x + 1 if x > 0 else math.exp(x)),
    ):
        method = build("performer", shape, kernel=kernel, projection=projection)
        W = method.projection if projection else torch.eye(5, dtype=torch.float64)
        phi = [[[function(float(w @ row) * 5**-0.25) for w in W] for row in x[0, 0]] for x in (q, k)]
        phi_q, phi_k = (torch.tensor(x, dtype=torch.float64) for x in phi)
        weights = phi_q @ phi_k.T
        outs.append(method(q, k, v))
        assert gap(outs[-1][0, 0], weights @ v[0, 0] / weights.sum(-1, keepdim=True)) < 1e-12
    outs.append(build("performer", shape)(q, k, v))
    assert min(gap(outs[0], outs[1]), gap(outs[1], outs[2]), gap(outs[0], outs[2])) > 1e-3


def test_p8_draws_follow_the_training_forwards():
    """P8: every `redraw` training forwards, a function of seed and number, frozen in evaluation, in the state."""
    shape = Shape(1, 6, 10)
    method = build("performer", shape, redraw=2).train()
    q, k, v = (tensor.detach() for tensor in draw(1, shape))
    seen = []
    for _ in range(6):
        method(q, k, v)
        seen.append(method.projection)
    assert [torch.equal(seen[0], W) for W in seen] == [True, True, False, False, False, False]
    assert torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[3], seen[4])
    method.eval()
    out = method(q, k, v)
    assert torch.equal(out, method(q, k, v))
    assert method.draw_index == 6
    other = Performer(shape, features=24, redraw=2, generator=torch.Generator().manual_seed(9)).double()
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.eval()(q, k, v), out)
    replayed, method.draw_index = method.train(), 2  # what a reversible layer does
    replayed(q, k, v)
    assert torch.equal(replayed.projection, seen[2])
    other.train()(q, k, v)
    assert torch.equal(other.projection, build("performer", shape, redraw=2).draw(3).double())


def test_p8_a_redraw_between_forward_and_backward_is_harmless():
    method = build("performer", Shape(1, 6, 10), redraw=1).train()
    inputs = draw(1, method.shape)
    wanted = torch.autograd.grad(method.dense_reference(*inputs).sin().sum(), inputs)
    out = method(*inputs)
    method(*inputs)
    method(*inputs)
    found = torch.autograd.grad(out.sin().sum(), inputs)
    assert max(gap(a, b) for a, b in zip(found, wanted, strict=True)) < 1e-11


def test_p8_layers_draw_their_own_and_never_means_never():
    layers = Performer.layers(Shape(1, 6, 10), 2, torch.Generator().manual_seed(0), features=[8, 8], redraw=0)
    assert not torch.equal(layers[0].projection, layers[1].projection)
    before = layers[0].projection
    for _ in range(3):
        layers[0](*draw(1, layers[0].shape, dtype=torch.float32))
    assert torch.equal(layers[0].projection, before)


def test_p10_padding_has_features_zero_not_the_features_of_zero():
    """P10, D3: phi(0) is not 0; a padded key of 0 would take a share of every row."""
    method = build("performer", Shape(2, 5, 40))
    q, k, v = (tensor.detach() for tensor in draw(1, method.shape))
    mask = torch.arange(40)[None] >= 25
    short = method(q[:, :, :25], k[:, :, :25], v[:, :, :25])
    assert gap(method(q, k, v, key_padding_mask=mask)[:, :, :25], short) < 1e-13
    for tensor in (k, v):
        tensor[:, :, 25:] = math.nan
    assert gap(method(q, k, v, key_padding_mask=mask)[:, :, :25], short) < 1e-13
    k[:, :, 25:] = v[:, :, 25:] = 0.0
    assert gap(method(q, k, v)[:, :, :25], short) > 1e-2


@pytest.mark.parametrize(
    "params", [{"eps": 0.0}, {"eps": 0.3}, {"kernel": "trigonometric"}, {"kernel": "relu"}], ids=names
)
def test_p11_d12_chunks_do_not_show(monkeypatch, params):
    """P11, D12: `CHUNK` is a size, and any size gives the same values and gradients; keys grow along the way."""
    method = build("performer", Shape(2, 5, 100, causal=True), **params)
    q, k, v = draw(2, method.shape)
    k = (k.detach() * torch.linspace(0.1, 3, 100)[:, None]).requires_grad_()
    mask, results = padding(2, 100).flip(1), []  # padding on the left: rows that see nothing
    for chunk in (1, 7, 32, 100, 128):
        monkeypatch.setattr(kernelised_causal, "CHUNK", chunk)
        monkeypatch.setattr("methods.performer.CHUNK", chunk)
        out = method(q, k, v, key_padding_mask=mask)
        results.append((out, *torch.autograd.grad(out[:, :, 40:].sin().sum(), [q, k, v])))
    tolerance = 1e-7 if "kernel" in params else 1e-10
    assert all(gap(a, b) < tolerance for other in results[1:] for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize("room", [1, 500, 3000])
def test_blocks_do_not_show(monkeypatch, room):
    method = build("performer", Shape(3, 5, 41), eps=0.1)
    inputs, mask = draw(2, method.shape), padding(2, 41)
    wanted = torch.autograd.grad(method.dense_reference(*inputs, key_padding_mask=mask).sin().sum(), inputs)
    monkeypatch.setattr("methods.ops.tiles.CACHED_SCORES", room)
    found = torch.autograd.grad(method(*inputs, key_padding_mask=mask).sin().sum(), inputs)
    assert max(gap(a, b) for a, b in zip(found, wanted, strict=True)) < 1e-11


@pytest.mark.parametrize("params", VARIANTS, ids=names)
def test_p11_c13_decoding_equals_the_causal_form(params):
    """P11: O(m D) a token, keys growing so that the stabiliser runs."""
    method = build("performer", Shape(2, 5, 30, causal=True), **params).eval()
    q, k, v = (tensor.detach() for tensor in draw(2, method.shape))
    k *= torch.linspace(0.1, 3, 30)[:, None]
    state, rows = method.start(2, q.device, q.dtype), []
    for i in range(30):
        out, state = method.step(*(x[:, :, i : i + 1] for x in (q, k, v)), state)
        rows.append(out)
    assert gap(torch.cat(rows, dim=2), method(q, k, v)) < (1e-8 if params["kernel"] == "trigonometric" else 1e-11)
    assert sum(part.numel() for part in state) == 2 * method.state_size(30)


@pytest.mark.parametrize("causal", [False, True])
def test_p12_nothing_of_size_n_by_n_or_n_by_m_is_made(causal):
    """P12: the largest tensor of forward and backward is a block, or as large as the output."""
    shape = Shape(1, 16, 4096, causal)
    method = build("performer", shape, torch.float32, features=512)
    inputs, sizes = draw(1, shape, dtype=torch.float32), []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(
                x.numel() for x in (out if isinstance(out, tuple | list) else [out]) if torch.is_tensor(x)
            )
            return out

    with Sizes():
        torch.autograd.grad(method(*inputs).sum(), inputs)
    assert max(sizes) <= tiles.CACHED_SCORES < 4096 * 512 < 4096 * 4096


def errors(features, seeds=15, scale=0.3, **params):
    """Mean squared error against softmax attention over draws, for each number of features."""
    shape = Shape(1, 16, 64)
    q, k, v = (tensor.detach() for tensor in draw(1, shape))
    q, k = q * scale, k * scale
    exact = build("full", shape)(q, k, v)
    found = []
    for m in features:
        made = [
            Performer(shape, features=m, generator=torch.Generator().manual_seed(seed), **params).double()
            for seed in range(seeds)
        ]
        found.append(sum(float((method(q, k, v) - exact).square().mean()) for method in made) / seeds)
    return found


def test_p13_error_falls_as_one_over_m_and_orthogonal_lies_below_independent():
    """P13: slope -1 on log axes; at larger norms positive features lie below trigonometric ones."""
    features = (16, 32, 64, 128, 256)
    below = errors(features)
    for found in (below, errors(features, orthogonal=False)):
        logs = [math.log2(value) for value in found]
        slope = sum((i - 2) * log for i, log in enumerate(logs)) / 10
        assert slope == pytest.approx(-1, abs=0.2)
    assert all(a < b for a, b in zip(below, errors(features, orthogonal=False), strict=True))
    assert errors((128,), scale=1.0)[0] < errors((128,), scale=1.0, kernel="trigonometric")[0]


def test_p14_the_defaults_are_the_papers():
    """P14: 256 orthogonal positive features of unbiased norms, rows normalised."""
    method = Performer(Shape(2, 64, 128), generator=torch.Generator().manual_seed(0))
    assert (method.features, method.kernel, method.orthogonal, method.norms) == (256, "positive", True, "chi")
    assert (method.eps, build("performer", Shape(1, 4, 8), kernel="relu").eps) == (1e-6, 1e-3)
    assert method.projection.norm(dim=1).std() > 0.3


def test_p15_error_of_a_softmax_models_weights_grows_with_depth():
    """P15: softmax weights in Performer layers: the output drifts off layer by layer, less with more features."""
    shape, depth = Shape(2, 16, 64), 4

    def model(name, **params):
        torch.manual_seed(0)
        attention = [build(name, shape, torch.float32, **params) for _ in range(depth)]
        made = Encoder(attention, vocab_size=13, ff_dim=64).eval()
        for block in made.layers():
            block.mixer.qkv.weight.data *= 3  # logits of about 1, as trained models have
        return made

    tokens = torch.randint(13, (2, 64), generator=torch.Generator().manual_seed(1))
    exact = model("full")

    def drift(features):
        other = model("performer", features=features)
        other.load_state_dict(exact.state_dict(), strict=False)
        found = []
        with torch.no_grad():
            a = b = exact.embed(tokens) * 50
            for one, two in zip(exact.layers(), other.layers(), strict=True):
                a, b = one(a, None), two(b, None)
                found.append(float((a - b).norm() / a.norm()))
        return found

    few, many = drift(16), drift(1024)
    assert few[0] < few[1] < few[-1]
    assert all(a > b for a, b in zip(few, many, strict=True))


def test_d3_d11_the_scale_is_applied_once_and_follows_the_head_dim():
    """D3, D11: the kernel estimates exp(q . k / sqrt(D)) for any D, not q . k / D nor a constant."""
    for dim in (4, 16):
        shape = Shape(1, dim, 24)
        q, k, v = (tensor.detach() for tensor in draw(1, shape))
        q, k = q * 0.4, k * 0.4
        found = build("performer", shape, features=20_000)(q, k, v)
        right, *wrong = (
            float((found - build("full", shape)(q * factor, k, v)).norm())
            for factor in (1.0, dim**-0.5, math.sqrt(dim), math.sqrt(dim / 32))
        )
        assert right < min(wrong) / 3


def test_what_is_not_a_number_stays_where_the_docstring_says():
    method = build("performer", Shape(2, 4, 300))
    q, k, v = (x.detach() for x in draw(1, method.shape))
    q[0, 0, 7, 0] = math.inf
    assert method(q, k, v).isnan().any(-1)[0].nonzero().tolist() == [[0, 7]]
    k[0, 1, 200] = math.nan
    assert bool(method(q, k, v)[0, 1].isnan().all())
    causal = build("performer", Shape(2, 4, 300, causal=True))
    assert not bool(causal(q, k, v)[0, 1, :128].isnan().any())


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"features": 25, "kernel": "hyperbolic"}, ValueError, "features=25: expected an even"),
        ({"redraw": -1}, ValueError, "redraw=-1: expected"),
        ({"eps": -1.0}, ValueError, "eps=-1.0: expected"),
        ({"eps": 0.1, "kernel": "trigonometric"}, Unsupported, "eps=0.1 needs"),
        ({"projection": False}, Unsupported, "projection=false needs kernel=relu or elu"),
        ({"norms": "sqrt_d", "orthogonal": False}, Unsupported, "norms=sqrt_d needs orthogonal=true"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(params, error, message):
    with pytest.raises(error, match=f"^{message}"):
        build("performer", Shape(1, 4, 8), **params)


def test_decoding_needs_the_causal_form():
    with pytest.raises(Unsupported, match="causal=true"):
        build("performer", Shape(1, 4, 8)).start(1, torch.device("cpu"), torch.float32)
