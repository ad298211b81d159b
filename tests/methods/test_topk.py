"""Exact top-k attention: which keys are kept, what they get, and what it costs."""

import pytest
import torch

from methods.registry import Shape
from methods.topk import ROWS
from tests.methods.conftest import build, draw, padding


def by_hand(q, k, v, keep, mask=None, causal=False):
    """Row by row: sort the keys that may be attended by their logit, keep the first, softmax."""
    out = torch.zeros_like(q)
    for b, h, i in torch.cartesian_prod(*(torch.arange(size) for size in q.shape[:3])).tolist():
        able = [j for j in range(k.shape[2]) if (not causal or j <= i) and (mask is None or not mask[b, j])]
        logits = {j: float(q[b, h, i] @ k[b, h, j]) / q.shape[-1] ** 0.5 for j in able}
        kept = sorted(able, key=lambda j: -logits[j])[:keep]
        if kept:
            weights = torch.tensor([logits[j] for j in kept], dtype=q.dtype).softmax(0)
            out[b, h, i] = weights @ v[b, h, kept]
    return out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keep", [1, 3, 11])
def test_oracle_equals_sorting_each_row(keep, causal, masked):
    method = build("topk", Shape(2, 5, 23, causal), keys=keep)
    q, k, v = (x.detach() for x in draw(2, method.shape))
    mask = padding(2, 23) if masked else None
    if mask is not None:
        mask[1, :2] = True  # causal rows without a key
    out = method(q, k, v, key_padding_mask=mask)
    assert torch.allclose(out, by_hand(q, k, v, keep, mask, causal), atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keep", [300, 1000])
def test_c2_keeping_all_keys_is_full_attention(keep, causal):
    shape = Shape(2, 5, 300, causal)
    inputs = draw(2, shape)
    found, wanted = (
        (out, *torch.autograd.grad(out.sum(), inputs))
        for out in (build("topk", shape, keys=keep)(*inputs), build("full", shape)(*inputs))
    )
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found, wanted, strict=True))


def test_c4_a_row_weighs_exactly_its_k_largest_logits():
    n, keep = ROWS + 21, 7  # more than one block of rows
    method = build("topk", Shape(1, n, n), keys=keep)
    q, k, _ = (x.detach() for x in draw(1, method.shape))
    weights = method(q, k, torch.eye(n, dtype=q.dtype)[None, None])[0, 0]
    logits = (q @ k.transpose(-1, -2))[0, 0]
    best = torch.zeros(n, n, dtype=torch.bool).scatter_(1, logits.argsort(dim=1, descending=True)[:, :keep], True)
    assert torch.equal(weights > 0, best)


def test_the_gradient_goes_to_the_kept_keys_only():
    method = build("topk", Shape(1, 8, 40), keys=5)
    q, k, v = draw(1, method.shape)
    dk, dv = torch.autograd.grad(method(q, k, v)[0, 0, 11].square().sum(), [k, v])
    kept = torch.zeros(40, dtype=torch.bool)
    kept[(q[0, 0, 11] @ k[0, 0].T).topk(5).indices] = True
    for grad in (dk, dv):
        assert torch.equal(grad[0, 0].abs().sum(-1) > 0, kept)


def test_equal_logits_keep_k_keys():
    method = build("topk", Shape(1, 9, 9), keys=4)
    q = torch.ones(1, 1, 9, 9, dtype=torch.float64)
    weights = method(q, q, torch.eye(9, dtype=torch.float64)[None, None])
    assert torch.equal((weights > 0).sum(-1), torch.full((1, 1, 9), 4))
    assert torch.equal(weights[weights > 0], torch.full((36,), 0.25, dtype=torch.float64))


def test_permuting_keys_and_values_together_changes_nothing():
    method = build("topk", Shape(2, 5, 30), keys=6)
    q, k, v = draw(2, method.shape)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(method(q, k[:, :, order], v[:, :, order]), method(q, k, v), atol=1e-12)


def test_c15_the_error_against_full_attention_falls_with_k():
    shape = Shape(2, 8, 64)
    q, k, v = (x.detach() for x in draw(1, shape))
    full = build("full", shape)(q, k, v)
    errors = [float((build("topk", shape, keys=keep)(q, k, v) - full).norm()) for keep in (1, 4, 16, 48, 64)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12


def test_c12_what_is_kept_for_the_backward_is_linear_in_n():
    def saved(n):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            method = build("topk", Shape(1, 4, n), keys=5)
            method(*draw(1, method.shape))
        return sum(sizes)

    assert saved(400) == 2 * saved(200) == 400 * (3 * 4 + 2 * 5)


def test_a_nan_spoils_its_own_head_only():
    method = build("topk", Shape(2, 4, 20), keys=3)
    for which in range(3):
        given = [x.detach().clone() for x in draw(2, method.shape)]
        given[which][0, 1, 7] = torch.nan
        bad = method(*given).isnan().any(dim=-1)
        assert bool(bad[0, 1].any())
        bad[0, 1] = False
        assert not bool(bad.any())


def test_one_budget_a_layer():
    cls = type(build("topk", Shape(1, 4, 8)))
    made = cls.layers(Shape(1, 4, 8), 2, torch.Generator(), keys=(2, 5))
    assert [method.keys for method in made] == [2, 5]
    with pytest.raises(ValueError, match="keys=-1: expected an integer >= 1"):
        cls(Shape(1, 4, 8), keys=-1)
