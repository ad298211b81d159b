"""Local attention with sinks, against masks by loops; section 9 of the specification, definition 1."""

import pytest
import torch

from methods.registry import Shape, Unsupported
from tests.methods.conftest import build, draw, padding


def by_loops(n, window, sinks, causal):
    mask = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(n):
            if causal:
                mask[i, j] = j <= i and (j < sinks or i - j < window)
            else:
                mask[i, j] = j < sinks or abs(i - j) <= window
    return mask


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("window", "sinks"), [(1, 0), (1, 4), (5, 0), (5, 2), (70, 3), (4, 300)])
@pytest.mark.parametrize("n", [1, 6, 140])
def test_support_is_exactly_the_mask_and_rows_sum_to_one(n, window, sinks, causal):
    method = build("local", Shape(1, 3, n, causal), backend="tiles", window=window, sinks=sinks)
    q, k, _ = (x.detach() for x in draw(1, method.shape))
    columns = []
    for j in range(n):
        probe = torch.zeros_like(q)
        probe[:, :, j] = 1.0
        columns.append(method(q, k, probe)[0, 0, :, 0])
    matrix = torch.stack(columns, dim=1)
    assert torch.equal(matrix > 0, by_loops(n, window, sinks, causal))
    assert torch.equal(method.pattern(n), by_loops(n, window, sinks, causal))
    assert torch.allclose(matrix.sum(dim=1), torch.ones(n, dtype=matrix.dtype))


def with_sink(shape, logits, **params):
    method = build("local", shape, backend="tiles", learned_sink=True, **params)
    with torch.no_grad():
        method.sink_logits.copy_(torch.as_tensor(logits))
    return method


@pytest.mark.parametrize("causal", [False, True])
def test_a_sink_logit_of_minus_infinity_is_the_plain_window(causal):
    shape = Shape(2, 4, 90, causal)
    inputs = draw(2, shape)
    for mask in (None, torch.arange(90).expand(2, -1) >= 60):
        plain = build("local", shape, backend="tiles")(*inputs, key_padding_mask=mask)
        found = with_sink(shape, [-torch.inf] * 2)(*inputs, key_padding_mask=mask)
        assert torch.allclose(found, plain, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_the_mass_of_a_row_is_what_the_sink_leaves(causal):
    """Row mass = 1 - p_sink, from the sink's share of each row's softmax."""
    shape = Shape(2, 4, 90, causal)
    method = with_sink(shape, [0.5, 3.0])
    q, k, v = (x.detach() for x in draw(2, shape))
    mass = method(q, k, torch.ones_like(v))[..., 0]
    logits = (q @ k.transpose(2, 3) / 2).masked_fill(~by_loops(90, 5, 2, causal), -torch.inf)
    share = (
        method.sink_logits.detach()[:, None]
        - torch.logaddexp(logits.logsumexp(-1), method.sink_logits.detach()[:, None])
    ).exp()
    assert torch.allclose(mass, 1 - share, atol=1e-12)
    assert bool((mass < 1).all())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 40, 150])
def test_gradients_with_a_learned_sink(n, causal):
    shape = Shape(2, 4, n, causal)
    method = with_sink(shape, [0.5, -1.0])
    inputs = draw(2, shape)
    leaves = [*inputs, method.sink_logits]
    weight = torch.randn(2, 2, n, 4, dtype=torch.float64)
    mask = padding(2, n)
    found = torch.autograd.grad(method(*inputs, key_padding_mask=mask), leaves, weight)
    wanted = torch.autograd.grad(method.dense_reference(*inputs, key_padding_mask=mask), leaves, weight)
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("window", "sinks"), [(1, 0), (3, 4), (7, 2), (100, 4)])
@pytest.mark.parametrize("learned", [False, True])
def test_decoding_from_the_cache_equals_the_causal_form(window, sinks, learned):
    shape = Shape(2, 4, 60, causal=True)
    method = build("local", shape, backend="tiles", window=window, sinks=sinks, learned_sink=learned)
    q, k, v = (x.detach() for x in draw(2, shape))
    state = method.start(2, torch.device("cpu"), torch.float64)
    outs = []
    with torch.no_grad():
        for t in range(60):
            out, state = method.step(*(x[:, :, t : t + 1] for x in (q, k, v)), state)
            outs.append(out)
        whole = method(q, k, v)
    assert torch.allclose(torch.cat(outs, dim=2), whole, atol=1e-12)
    assert method.state_size(60) == 2 * 2 * 4 * min(60, sinks + window)
    assert state.keys.shape[2] == sinks + window  # it does not grow


def test_only_the_causal_form_decodes():
    with pytest.raises(Unsupported, match="causal=true"):
        build("local", Shape(1, 4, 9)).start(1, torch.device("cpu"), torch.float32)


def test_backends_agree_and_a_learned_sink_needs_tiles():
    for causal in (False, True):
        shape = Shape(2, 16, 90, causal)
        inputs = [x.detach() for x in draw(2, shape)]
        wanted = build("local", shape, backend="dense")(*inputs, key_padding_mask=padding(2, 90))
        for backend in ("tiles", "masked", "diagonals", "flex"):
            method = build("local", shape, backend=backend)
            found = method(*inputs, key_padding_mask=padding(2, 90))
            assert method.backend == backend
            assert torch.allclose(found, wanted, atol=1e-11)
    with pytest.raises(Unsupported, match=r"^backend=flex: has no learned sink; expected"):
        build("local", shape, backend="flex", learned_sink=True)(*inputs)


def test_a_longformer_without_globals_is_local():
    shape = Shape(2, 4, 200)
    inputs = draw(1, shape)
    other = build("longformer", shape, window=16, global_tokens=0)
    assert torch.equal(build("local", shape, backend="tiles", window=8, sinks=0)(*inputs), other(*inputs))


@pytest.mark.parametrize(
    ("params", "message"),
    [({"window": 0}, "^window=0: expected"), ({"sinks": -1}, "^sinks=-1"), ({"backend": "x"}, "^backend=x: exp")],
)
def test_parameters_outside_their_range_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        build("local", Shape(1, 3, 9), **params)
