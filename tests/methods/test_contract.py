"""What every method must do, over the registry: equality with its dense reference, padding, causality, cost.

Tests name the properties of a method's contract: C1 equals its dense reference, C2 degenerate limit, C3 rows sum
to one, C4 support, C5 causal, C6 padding, C7 batch rows, C8 gradcheck, C9 determinism, C10 edges, C11 dtypes, C12
cost, C13 decoding, C14 permutation, C15 approximation error. The other half is test_invariants.py; the measured
error is in tests/bench/test_error.py.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from methods.registry import METHODS, Shape, Unsupported
from tests.methods.conftest import SMOOTH, build, causal_choices, draw, method_class, padding, trains
from tests.methods.deviations import FLOAT32

#: N = 1, 2, around the blocks (window radius 4, block 64, chunk 256), primes.
LENGTHS = [1, 2, 4, 5, 37, 63, 64, 65, 300]


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest value where that is above 1."""
    return float((a - b).detach().abs().max() / b.detach().abs().max().clamp_min(1))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("n", LENGTHS)
def test_equals_its_dense_reference_in_value_and_gradients(case, n, padded):
    """C1 and C10: output, dq, dk, dv and the gradients of its own parameters, for lengths around every block."""
    name, causal = case
    shape = Shape(heads=2, head_dim=5, seq_len=n, causal=causal)
    mask = padding(2, n) if padded else None
    if padded and not method_class(name).capabilities.padding:
        method = build(name, shape, torch.float32)
        with pytest.raises(Unsupported, match="key_padding_mask"):
            method(*draw(2, shape, dtype=torch.float32), key_padding_mask=mask)
        return
    for dtype, tolerance in precisions(name):
        method = build(name, shape, dtype)
        inputs = draw(2, shape, dtype=dtype)
        weights = torch.randn(2, 2, n, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
        leaves = [*inputs, *method.parameters()]
        found, wanted = (
            (out, *(gradients(name, out, leaves, weights) if out.requires_grad else ()))
            for out in (
                method(*inputs, key_padding_mask=mask),
                method.dense_reference(*inputs, key_padding_mask=mask),
            )
        )
        assert max(gap(a, b) for a, b in zip(found, wanted, strict=True)) < tolerance


def gradients(name, out, leaves, weights=None):
    """Every leaf must take part; but where keys are made from queries k may be left out, and gets zeros."""
    shared = method_class(name).capabilities.shared_qk
    return torch.autograd.grad(out, leaves, weights, allow_unused=shared, materialize_grads=shared)


def precisions(name: str) -> list[tuple[torch.dtype, float]]:
    """The wide dtypes that a method takes, with the agreement they allow."""
    able = method_class(name).capabilities.dtypes
    closeness = {"float64": 1e-11, "float32": FLOAT32.get(name, 1e-5)}
    return [(getattr(torch, dtype), close) for dtype, close in closeness.items() if dtype in able]


def test_shorter_inputs_than_built_for(case):
    """C10: N below the longest input."""
    name, causal = case
    method = build(name, Shape(2, 5, 64, causal))
    q, k, v = draw(2, method.shape, n=41)
    assert gap(method(q, k, v), method.dense_reference(q, k, v)) < 1e-11


def test_gradcheck(case):
    """C8: against finite differences, parameters that jump aside."""
    name, causal = case
    if not trains(name):
        pytest.skip("declares no backward here")
    method = build(name, Shape(1, 3, 9, causal), **SMOOTH.get(name, {}))
    torch.autograd.gradcheck(lambda q, k, v: method(q, k, v), draw(1, method.shape), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in METHODS if True in causal_choices(name)])
def test_no_gradient_and_no_value_from_the_future(name):
    """C5: exact zeros from later tokens, and no change when they change."""
    method = build(name, Shape(1, 4, 70, causal=True))
    q, k, v = draw(1, method.shape)
    row = 33
    if trains(name):
        grads = gradients(name, method(q, k, v)[:, :, row].sum(), [q, k, v])
        assert all(bool((grad[:, :, row + 1 :] == 0).all()) for grad in grads)
    if method.capabilities.candidates_see_future:
        return
    with torch.no_grad():
        later = [tensor.clone() for tensor in (q, k, v)]
        for tensor in later:
            tensor[:, :, row + 1 :] += 7.0
        change = (method(*later) - method(q, k, v))[:, :, : row + 1].abs().max()
    assert float(change) < 1e-12


def test_padding_content_amount_and_batching_do_not_matter(case):
    """C6: real positions see neither what stands at pads, nor how many, nor longer neighbours."""
    name, causal = case
    if not method_class(name).capabilities.padding:
        pytest.skip("declares no padding")
    method = build(name, Shape(2, 5, 80, causal))
    q, k, v = (tensor.detach() for tensor in draw(2, method.shape))
    real = 53
    alone = method(q[:1, :, :real], k[:1, :, :real], v[:1, :, :real])
    for n in (60, 80):
        mask = torch.zeros(2, n, dtype=torch.bool)
        mask[0, real:] = True
        garbage = [tensor[:, :, :n].clone() for tensor in (q, k, v)]
        for tensor in garbage:
            tensor[0, :, real:] = 100.0
        assert gap(method(*garbage, key_padding_mask=mask)[:1, :, :real], alone) < 1e-11


def test_a_row_of_padding_only_gives_numbers(case):
    """C6: nothing to attend."""
    name, causal = case
    if not method_class(name).capabilities.padding:
        pytest.skip("declares no padding")
    method = build(name, Shape(2, 5, 20, causal))
    mask = torch.zeros(2, 20, dtype=torch.bool)
    mask[1] = True
    assert bool(method(*draw(2, method.shape), key_padding_mask=mask).isfinite().all())


def test_a_batch_row_does_not_depend_on_its_neighbours(case):
    """C7: a row alone and in a batch."""
    name, causal = case
    method = build(name, Shape(2, 5, 65, causal))
    q, k, v = (tensor.detach() for tensor in draw(3, method.shape))
    k[2] *= 30  # a maximum over the whole batch would spread this
    whole = method(q, k, v)
    assert gap(method(q[:1], k[:1], v[:1]), whole[:1]) < 1e-11


def test_same_seed_same_bits_and_global_randomness_is_left_alone(case):
    """C9: all randomness is the generator's."""
    name, causal = case
    shape = Shape(2, 5, 40, causal)
    before = torch.random.get_rng_state()
    inputs = draw(2, shape)
    first, second = build(name, shape)(*inputs), build(name, shape)(*inputs)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())


def test_softmax_rows_sum_to_one(case):
    """C3: ones in, ones out."""
    name, causal = case
    if not method_class(name).capabilities.normalised:
        pytest.skip("declares rows that need not sum to one")
    method = build(name, Shape(2, 5, 67, causal))
    q, k, v = draw(2, method.shape)
    ones = torch.ones_like(v)
    assert gap(method(q, k, ones), ones) < 1e-11


def test_the_declared_linearity_in_v(case):
    """What reading out an effective matrix (C4, C15) rests on."""
    name, causal = case
    method = build(name, Shape(2, 5, 33, causal))
    q, k, v = draw(2, method.shape)
    other = draw(2, method.shape, seed=5)[2]
    if method.capabilities.linear_in_v:
        assert gap(method(q, k, 2 * v + other), 2 * method(q, k, v) + method(q, k, other)) < 1e-10


@pytest.mark.parametrize("name", [name for name in METHODS if method_class(name).capabilities.decode])
def test_c13_decoding_token_by_token_equals_the_causal_form(name):
    method = build(name, Shape(2, 5, 39, causal=True))
    with torch.no_grad():
        q, k, v = draw(2, method.shape)
        state, rows = method.start(2, q.device, q.dtype), []
        for i in range(39):
            out, state = method.step(*(x[:, :, i : i + 1] for x in (q, k, v)), state)
            rows.append(out)
        assert gap(torch.cat(rows, dim=2), method(q, k, v)) < 1e-11
    assert method.state_size(39) >= 1


@pytest.mark.parametrize("name", [name for name in METHODS if method_class(name).capabilities.decode])
@pytest.mark.parametrize("first", [0, 1, 7, 300])
def test_a_state_made_of_many_tokens_at_once_equals_one_made_one_by_one(name, first):
    n = first + 9
    method = build(name, Shape(2, 5, n, causal=True))
    with torch.no_grad():
        q, k, v = draw(2, method.shape)
        state = method.start(2, q.device, q.dtype)
        for part in (slice(0, first // 2), slice(first // 2, first)):  # what is there already counts
            state = method.prefill(k[:, :, part], v[:, :, part], state)
        rows = []
        for i in range(first, n):
            out, state = method.step(*(x[:, :, i : i + 1] for x in (q, k, v)), state)
            rows.append(out)
        assert gap(torch.cat(rows, dim=2), method(q, k, v)[:, :, first:]) < 1e-11


@pytest.mark.parametrize("name", [name for name in METHODS if not method_class(name).capabilities.decode])
def test_methods_that_do_not_decode_say_so(name):
    method = build(name, Shape(2, 5, 8, causal_choices(name)[-1]))
    with pytest.raises(Unsupported, match="token"):
        method.start(1, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_the_plain_formula_in_it(case, dtype):
    """C11: at most twice the error of the plain formula in the same dtype."""
    name, causal = case
    shape = Shape(2, 16, 96, causal)
    method, exact = build(name, shape, dtype), build(name, shape, torch.float64)
    exact.load_state_dict(method.state_dict())
    inputs = [tensor.detach().to(dtype) for tensor in draw(1, shape)]
    want = exact.dense_reference(*(tensor.double() for tensor in inputs))
    own = (method(*inputs).double() - want).detach().abs().max()
    plain = (method.dense_reference(*inputs).double() - want).detach().abs().max()
    assert float(own) <= 2 * float(plain) + 1e-6


def test_flops_match_the_counter(case):
    """C12: within 5 %."""
    name, causal = case
    if name == "flex":
        pytest.skip("torch's counter cannot run FlexAttention; test_flex.py counts with the profiler")
    shape = Shape(2, 16, 512, causal)
    method = build(name, shape, torch.float32)
    q, k, v = (tensor.detach() for tensor in draw(2, shape, dtype=torch.float32))
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=cpu_flash()) as counter:
        method(q, k, v)
    assert method.flops(2, 512) == pytest.approx(counter.get_total_flops(), rel=0.05)


def cpu_flash():
    """torch counts the CPU flash kernel as nothing, nor products in place; teach it the formulas.

    The kernel skips the future; its backward recomputes the scores, 5 products against 2.
    """

    def forward(q, k, v, dropout_p=0.0, is_causal=False, *args, out_shape=None, **kwargs):
        return 4 * q[0] * q[1] * q[2] * q[3] * k[2] // (2 if is_causal else 1)

    def backward(grad, q, k, v, out, lse, dropout_p, is_causal, *args, out_shape=None, **kwargs):
        return forward(q, k, v, is_causal=is_causal) * 5 // 2

    def product(x, a, b, *args, out_shape=None, **kwargs):
        return 2 * a[0] * a[1] * a[2] * b[2]

    return {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: forward,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
        torch.ops.aten.baddbmm_: product,
    }


def test_train_flops_match_the_counter(case):
    """C12: forward and backward, recomputed products and all, within 5 %."""
    name, causal = case
    if not trains(name):
        pytest.skip("declares no backward here")
    method = build(name, Shape(2, 16, 512, causal), torch.float32)
    inputs = draw(2, method.shape, dtype=torch.float32)
    with FlopCounterMode(display=False, custom_mapping=cpu_flash()) as counter:
        method(*inputs).sum().backward()
    assert method.train_flops(2, 512) == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("name", METHODS)
def test_capabilities_are_kept_to(name):
    capabilities = method_class(name).capabilities
    for causal, able in ((True, capabilities.causal), (False, capabilities.bidirectional)):
        if not able:
            with pytest.raises(Unsupported, match="causal"):
                build(name, Shape(1, 4, 8, causal))
    budget = method_class(name).budget
    method = build(name, Shape(1, 4, 8, causal_choices(name)[0]))
    assert (method.budget_value() is None) == (budget is None)
    assert method.footprint_bytes(1, 8, "forward", 4) >= 8 * 4 * 4


@pytest.mark.parametrize("name", [name for name in METHODS if method_class(name).budget])
def test_a_budget_that_reaches_the_length_is_degenerate(name):
    budget = method_class(name).budget
    causal = causal_choices(name)[0]
    assert build(name, Shape(1, 4, 64, causal), **{budget: 64}).degenerate(64)
    below = 4 if name.startswith("bigbird") else 32  # of a block of 32 two cover 64 tokens
    assert not build(name, Shape(1, 4, 64, causal), **{budget: below}).degenerate(64)
    with pytest.raises(ValueError, match=rf"^{budget}=0: expected"):
        build(name, Shape(1, 4, 64, causal), **{budget: 0})


def test_bad_shapes_are_refused():
    for shape in (Shape(0, 4, 8), Shape(1, 0, 8), Shape(1, 4, 0)):
        with pytest.raises(ValueError, match=r"=0: expected an integer >= 1"):
            build("full", shape)
