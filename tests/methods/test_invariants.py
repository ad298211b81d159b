"""The rest of the contract over the registry: support, edges, layouts, gradients, decoding state, growth."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bench.measure.memory import _profiler
from methods.ops.dense import allowed_keys, both, causal_mask, dense_attention
from methods.registry import METHODS, Attention, Shape
from tests.methods.conftest import (
    EXACT_AT,
    GROWTH,
    build,
    causal_choices,
    draw,
    method_class,
    padding,
    trains,
)
from tests.methods.test_contract import gap, precisions


def wide(name: str) -> tuple[torch.dtype, float]:
    """The widest dtype that a method takes, and the rounding to expect of it."""
    able = precisions(name)
    if not able:
        pytest.skip(f"{name} takes neither float64 nor float32")
    return able[0]


def gradients(method: Attention, inputs, mask=None, weights=None):
    out = method(*inputs, key_padding_mask=mask)
    weights = torch.ones_like(out) if weights is None else weights
    return torch.autograd.grad(out, inputs, weights, allow_unused=True)


@pytest.mark.parametrize("name", [name for name in METHODS if method_class(name).capabilities.exact])
@pytest.mark.parametrize("n", [1, 33])
def test_c2_exact_methods_equal_softmax(name, n):
    """C2: what declares itself exact equals full softmax."""
    for causal in causal_choices(name):
        dtype, close = wide(name)
        method = build(name, Shape(2, 5, n, causal), dtype)
        q, k, v = (x.detach() for x in draw(2, method.shape, dtype=dtype))
        want = dense_attention(q, k, v, causal_mask(n) if causal else None)
        assert gap(method(q, k, v), want) < close


@pytest.mark.parametrize("name", EXACT_AT)
def test_c2_the_degenerate_limit_is_softmax(name):
    """C2: with its budget at the length, a method that has a limit equals full softmax, padded or not."""
    for causal in causal_choices(name):
        dtype, close = wide(name)
        method = build(name, Shape(2, 5, 32, causal), dtype, **EXACT_AT[name])
        q, k, v = (x.detach() for x in draw(2, method.shape, dtype=dtype))
        for mask in (None, padding(2, 32)):
            allowed = both(allowed_keys(mask), causal_mask(32) if causal else None)
            found = method(q, k, v, key_padding_mask=mask).transpose(1, 2)
            want, real = dense_attention(q, k, v, allowed).transpose(1, 2), slice(None) if mask is None else ~mask
            # an inverse of 32 x 32 landmarks is as good as the matrix is conditioned
            assert gap(found[real], want[real]) < (1e-7 if name == "nystromformer" else close)


@pytest.mark.parametrize("padded", [False, True])
def test_c4_support_is_exactly_the_declared_pattern(case, padded):
    """C4: read out with V = identity, a weight is not zero just where `pattern` says so."""
    name, causal = case
    method = build(name, Shape(2, 41, 41, causal), wide(name)[0])
    if not hasattr(method, "pattern"):
        pytest.skip("declares no pattern")
    mask = padding(2, 41) if padded else None
    q, k, v = draw(2, method.shape, dtype=wide(name)[0])
    weights = method(q, k, torch.eye(41, dtype=v.dtype).expand_as(v), key_padding_mask=mask)
    allowed = both(method.pattern(41).expand(2, 2, 41, 41), allowed_keys(mask))
    real = slice(None) if mask is None else ~mask[:, None, :, None].expand_as(weights)
    assert torch.equal((weights != 0)[real], allowed.expand_as(weights)[real])


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("n", "dim"), [(1, 1), (2, 3), (3, 1), (7, 9), (31, 1)])
def test_c10_one_head_odd_dimensions_few_tokens(case, n, dim, batch):
    """C10: one head, D odd and down to 1, N = 1, 2 and primes shorter than any block."""
    name, causal = case
    dtype, close = wide(name)
    method = build(name, Shape(1, dim, n, causal), dtype)
    inputs = draw(batch, method.shape, dtype=dtype)
    out, want = method(*inputs), method.dense_reference(*inputs)
    assert gap(out, want) < close
    if trains(name):
        weights = torch.rand_like(out)
        for a, b in zip(
            torch.autograd.grad(out, inputs, weights, allow_unused=True),
            torch.autograd.grad(want, inputs, weights, allow_unused=True),
            strict=True,
        ):
            assert (a is None) == (b is None)
            assert a is None or gap(a, b) < close


def as_the_mixer_gives(x: torch.Tensor) -> torch.Tensor:
    """`[B, H, N, D]` as a view of a third of `[B, N, 3 E]`."""
    batch, heads, n, dim = x.shape
    packed = torch.empty(batch, n, 3 * heads * dim, dtype=x.dtype)
    view = packed.chunk(3, dim=-1)[1].unflatten(-1, (heads, dim)).transpose(1, 2)
    view.copy_(x)
    return view


def columns_first(x: torch.Tensor) -> torch.Tensor:
    """The same numbers with stride 1 along N instead of D."""
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


@pytest.mark.parametrize("layout", [as_the_mixer_gives, columns_first])
def test_how_the_inputs_lie_in_memory_does_not_matter(case, layout: Callable[[torch.Tensor], torch.Tensor]):
    name, causal = case
    dtype, close = wide(name)
    method = build(name, Shape(2, 5, 67, causal), dtype)
    inputs = draw(2, method.shape, dtype=dtype)
    views = [layout(x.detach()).requires_grad_() for x in inputs]
    assert not any(view.is_contiguous() for view in views)
    assert gap(method(*views), method(*inputs)) < close
    if trains(name):
        for a, b in zip(gradients(method, views), gradients(method, inputs), strict=True):
            assert a is None or gap(a, b) < close


def test_how_the_incoming_gradient_lies_in_memory_does_not_matter(case):
    """A sum gives a gradient of one number expanded; the mixer gives one transposed."""
    name, causal = case
    if not trains(name):
        pytest.skip("declares no backward here")
    dtype, close = wide(name)
    method = build(name, Shape(2, 5, 67, causal), dtype)
    inputs = draw(2, method.shape, dtype=dtype)
    full = torch.ones_like(inputs[0])
    expanded = torch.ones((), dtype=dtype).expand_as(full)
    for weights in (expanded, as_the_mixer_gives(full), columns_first(full)):
        for a, b in zip(gradients(method, inputs, None, weights), gradients(method, inputs), strict=True):
            assert a is None or gap(a, b) < close


def test_nothing_given_is_changed(case):
    name, causal = case
    dtype, _ = wide(name)
    method = build(name, Shape(2, 5, 67, causal), dtype)
    mask = padding(2, 67) if method.capabilities.padding else None
    inputs = draw(2, method.shape, dtype=dtype)
    weights = torch.rand(inputs[0].shape, dtype=dtype)
    given = [x for x in (*inputs, weights, mask) if x is not None]
    before = [x.detach().clone() for x in given]
    if trains(name):
        gradients(method, inputs, mask, weights)
    else:
        method(*inputs, key_padding_mask=mask)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_c7_what_is_not_a_number_stays_in_its_batch_row(case):
    """C7: NaN in q, k or v of one row of the batch reaches no other row, in value or gradient."""
    name, causal = case
    dtype, close = wide(name)
    method = build(name, Shape(2, 5, 37, causal), dtype)
    inputs = draw(3, method.shape, dtype=dtype)
    clean = method(*inputs)
    for spoilt in range(3):
        bad = [x.detach().clone().requires_grad_() for x in inputs]
        with torch.no_grad():
            bad[spoilt][1] = math.nan
        assert gap(method(*bad)[::2], clean[::2]) < close
        if trains(name):
            for a, b in zip(gradients(method, bad), gradients(method, inputs), strict=True):
                assert a is None or gap(a[::2], b[::2]) < close


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_c7_what_is_not_finite_stays_in_its_head(case, value):
    """One number of q, k or v that is not finite reaches its own head and sequence, and nothing is raised."""
    name, causal = case
    dtype, close = wide(name)
    method = build(name, Shape(2, 5, 37, causal), dtype)
    inputs = [x.detach() for x in draw(2, method.shape, dtype=dtype)]
    clean = method(*inputs)
    for spoilt in range(3):
        bad = [x.clone() for x in inputs]
        bad[spoilt][0, 1, 17, 2] = value
        out = method(*bad)
        assert gap(out[0, 0], clean[0, 0]) < close
        assert gap(out[1], clean[1]) < close


def test_c6_padding_gets_no_gradient(case):
    """C6: dq, dk, dv are exactly zero at padded positions whose outputs nobody uses."""
    name, causal = case
    if not (trains(name) and method_class(name).capabilities.padding):
        pytest.skip("declares no backward here, or no padding")
    dtype, _ = wide(name)
    method = build(name, Shape(2, 5, 70, causal), dtype)
    mask = padding(2, 70)
    inputs = draw(2, method.shape, dtype=dtype)
    weights = torch.rand(inputs[0].shape, dtype=dtype).masked_fill(mask[:, None, :, None], 0.0)
    for grad in gradients(method, inputs, mask, weights):
        assert grad is None or bool((grad.transpose(1, 2)[mask] == 0).all())


def test_c6_a_mask_that_masks_nothing_changes_nothing(case):
    """C6: no key padded, with and without saying so."""
    name, causal = case
    dtype, close = wide(name)
    method = build(name, Shape(2, 5, 67, causal), dtype)
    if not method.capabilities.padding:
        pytest.skip("declares no padding")
    inputs = draw(2, method.shape, dtype=dtype)
    nothing = torch.zeros(2, 67, dtype=torch.bool)
    assert gap(method(*inputs, key_padding_mask=nothing), method(*inputs)) < close


def test_only_what_needs_a_gradient_gets_one(case):
    """A frozen q, k or v changes no other gradient; without any there is no graph."""
    name, causal = case
    if not trains(name):
        pytest.skip("declares no backward here")
    dtype, close = wide(name)
    method = build(name, Shape(2, 5, 37, causal), dtype).requires_grad_(False)
    inputs = draw(2, method.shape, dtype=dtype)
    whole = gradients(method, inputs)
    assert not method(*(x.detach() for x in inputs)).requires_grad
    for alone in range(3):
        some = [x if i == alone else x.detach() for i, x in enumerate(inputs)]
        out = method(*some)
        if whole[alone] is None:
            assert not out.requires_grad
            continue
        (grad,) = torch.autograd.grad(out, some[alone], torch.ones_like(out))
        assert gap(grad, whole[alone]) < close


def test_c9_the_same_call_gives_the_same_bits_with_and_without_gradient(case):
    """C9: in evaluation, twice in a row; and to rounding what a forward without graph gives."""
    name, causal = case
    dtype, close = wide(name)
    method = build(name, Shape(2, 5, 67, causal), dtype).eval()
    inputs = draw(2, method.shape, dtype=dtype)
    first = method(*inputs).detach()
    assert torch.equal(method(*inputs).detach(), first)
    with torch.no_grad():
        quiet = method(*inputs)
        assert torch.equal(method(*inputs), quiet)
    with torch.inference_mode():
        assert gap(method(*inputs), first) < close
    assert gap(quiet, first) < close


def test_c9_a_training_forward_is_replayed_by_its_draw_index(case):
    """C9: what is drawn anew while training is a function of the index, which evaluation leaves alone."""
    name, causal = case
    dtype, _ = wide(name)
    method = build(name, Shape(2, 5, 67, causal), dtype).train()
    inputs = draw(2, method.shape, dtype=dtype)
    state = torch.random.get_rng_state()
    outs, indices = [], []
    for _ in range(3):
        indices.append(method.draw_index)
        outs.append(method(*inputs).detach())
    for index, out in reversed(list(zip(indices, outs, strict=True))):
        method.draw_index = index
        assert torch.equal(method(*inputs).detach(), out)
    method.eval()
    index = method.draw_index
    method(*inputs)
    assert method.draw_index == index
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_copy_and_a_reloaded_state_compute_the_same(case):
    """What a method drew at construction is in its state, so that a stored model is the model."""
    name, causal = case
    dtype, _ = wide(name)
    shape = Shape(2, 5, 37, causal)
    method = build(name, shape, dtype).eval()
    inputs = draw(2, shape, dtype=dtype)
    other = build(name, shape, dtype).eval()
    other.load_state_dict(method.state_dict())
    for again in (copy.deepcopy(method), other):
        assert torch.equal(again(*inputs).detach(), method(*inputs).detach())


def tensors_in(state: Any) -> Iterator[torch.Tensor]:
    """Every tensor of a decoding state, through tuples, lists, dicts and dataclasses."""
    if isinstance(state, torch.Tensor):
        yield state
    elif dataclasses.is_dataclass(state):
        for field in dataclasses.fields(state):
            yield from tensors_in(getattr(state, field.name))
    elif isinstance(state, dict):
        yield from tensors_in(list(state.values()))
    elif isinstance(state, tuple | list):
        for item in state:
            yield from tensors_in(item)


@pytest.mark.parametrize("name", [name for name in METHODS if method_class(name).capabilities.decode])
def test_c13_the_state_has_the_size_that_is_declared(name):
    """C13: after 64 tokens, where buffers that double are full."""
    dtype, _ = wide(name)
    method = build(name, Shape(2, 5, 64, causal=True), dtype)
    with torch.no_grad():
        q, k, v = draw(3, method.shape, dtype=dtype)
        state = method.start(3, q.device, q.dtype)
        for i in range(64):
            _, state = method.step(*(x[:, :, i : i + 1] for x in (q, k, v)), state)
    held = sum(tensor.numel() for tensor in tensors_in(state)) / 3
    assert held == pytest.approx(method.state_size(64), rel=0.1)


@pytest.mark.parametrize("name", [name for name in METHODS if method_class(name).capabilities.position_free])
def test_c14_keys_and_values_in_another_order_give_the_same(name):
    """C14: where no position enters, a permutation of keys and values together changes nothing."""
    dtype, close = wide(name)
    method = build(name, Shape(2, 5, 67), dtype).eval()
    q, k, v = (x.detach() for x in draw(2, method.shape, dtype=dtype))
    mask = padding(2, 67)
    order = torch.randperm(67, generator=torch.Generator().manual_seed(0))
    for own in (None, mask):
        moved = None if own is None else own[:, order]
        # the queries' own padding is the keys': keep the rows that are real in both
        rows = slice(None) if own is None else ~(own | moved)
        a = method(q, k, v, key_padding_mask=own).transpose(1, 2)[rows]
        b = method(q, k[:, :, order], v[:, :, order], key_padding_mask=moved).transpose(1, 2)[rows]
        assert gap(a, b) < close


def slope(values: dict[int, float]) -> float:
    """Of the line through (log N, log value)."""
    (low, first), *_, (high, last) = sorted(values.items())
    return math.log(last / first) / math.log(high / low)


def test_c12_operations_grow_as_claimed(case):
    """C12: the exponent over 1024..16384 at the default budget, within 0.15 of the claim."""
    name, causal = case
    cls = method_class(name)
    with torch.device("meta"):
        build(name, Shape(1, 4, 8, causal), wide(name)[0])  # skips what is not here
        counts = {n: cls(Shape(8, 64, n, causal)).flops(1, n) for n in (1024, 4096, 16384)}
    claimed = GROWTH.get(name, (2.0 if cls.capabilities.exact else 1.0, 1.0))[0]
    assert slope(counts) == pytest.approx(claimed, abs=0.15)


@pytest.mark.parametrize("mode", ["forward", "train"])
def test_c12_peak_memory_grows_as_claimed(case, mode):
    """C12: bytes of torch's allocator at the peak; no N x N where the claim is linear."""
    name, causal = case
    if mode == "train" and not trains(name):
        pytest.skip("declares no backward here")
    cls, peaks = method_class(name), {}
    claimed = GROWTH.get(name, (1.0, 1.0))[1]
    for n in (1024, 4096) if claimed == 1 else (256, 1024):
        shape = Shape(1, 16, n, causal)
        method = build(name, shape, torch.float32)
        inputs = draw(1, shape, dtype=torch.float32)

        def call(method=method, inputs=inputs):
            if mode == "train":
                return torch.autograd.grad(method(*inputs).sum(), inputs, allow_unused=True)
            with torch.no_grad():
                return method(*inputs)

        call()
        peaks[n] = _profiler(call)
        assert cls.footprint_bytes(method, 1, n, mode, 4) <= 1.02 * peaks[n]
    assert slope(peaks) < claimed + 0.15
