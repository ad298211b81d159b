"""Linear attention: the paper's recurrence, its state, its scale-free features."""

import math

import pytest
import torch
from torch.nn.functional import elu

from methods.ops import kernelised_causal
from methods.registry import Shape, Unsupported
from tests.methods.conftest import build, draw, padding


def test_d5_9_the_causal_form_is_the_papers_recurrence():
    """Definition 5 (equations 16 to 20): S += phi(k) v^T, z += phi(k), out = phi(q) S / phi(q) z."""
    method = build("linear", Shape(2, 5, 300, causal=True))
    q, k, v = (x.detach() for x in draw(2, method.shape))
    S, z = torch.zeros(2, 2, 5, 5, dtype=q.dtype), torch.zeros(2, 2, 5, dtype=q.dtype)
    found = method(q, k, v)
    for i in range(300):
        phi_q, phi_k = elu(q[:, :, i]) + 1, elu(k[:, :, i]) + 1
        S = S + phi_k[..., None] * v[:, :, i, None]
        z = z + phi_k
        out = (phi_q[..., None] * S).sum(-2) / (phi_q * z).sum(-1, keepdim=True)
        assert torch.allclose(found[:, :, i], out, atol=1e-12)


def test_q_and_k_are_not_scaled_and_the_denominator_is_there():
    """D4: code in circulation scales by n^(-1/4) and divides by nothing."""
    method = build("linear", Shape(1, 4, 20))
    q, k, v = (x.detach()[0, 0] for x in draw(1, method.shape))
    rows = []
    for i in range(20):
        weights = torch.stack([sum((elu(q[i, d]) + 1) * (elu(k[j, d]) + 1) for d in range(4)) for j in range(20)])
        rows.append((weights[:, None] * v).sum(0) / weights.sum())
    assert torch.allclose(method(q[None, None], k[None, None], v[None, None])[0, 0], torch.stack(rows), atol=1e-13)


def test_chunks_do_not_show(monkeypatch):
    method = build("linear", Shape(2, 5, 100, causal=True))
    inputs, mask = draw(2, method.shape), padding(2, 100)
    wanted = torch.autograd.grad(method.dense_reference(*inputs, key_padding_mask=mask).sin().sum(), inputs)
    for chunk in (1, 7, 100, 128):
        monkeypatch.setattr(kernelised_causal, "CHUNK", chunk)
        found = torch.autograd.grad(method(*inputs, key_padding_mask=mask).sin().sum(), inputs)
        assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("room", [1, 100, 5000])
def test_blocks_do_not_show(monkeypatch, room):
    method = build("linear", Shape(3, 5, 41))
    inputs, mask = draw(2, method.shape), padding(2, 41)
    wanted = torch.autograd.grad(method.dense_reference(*inputs, key_padding_mask=mask).sin().sum(), inputs)
    monkeypatch.setattr("methods.ops.tiles.CACHED_SCORES", room)
    found = torch.autograd.grad(method(*inputs, key_padding_mask=mask).sin().sum(), inputs)
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found, wanted, strict=True))


def test_decoding_needs_the_causal_form_and_a_state_of_one_size():
    method = build("linear", Shape(2, 5, 8, causal=True))
    assert method.state_size(8) == method.state_size(800) == 2 * 5 * 6
    with pytest.raises(Unsupported, match="causal=true"):
        build("linear", Shape(2, 5, 8)).start(1, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("causal", [False, True])
def test_strided_inputs_and_gradients(causal):
    """The mixer hands in views of one projection; a last stride other than 1 works too."""
    method = build("linear", Shape(2, 5, 30, causal))
    packed = torch.randn(
        3, 30, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    q, k, v = (part.unflatten(-1, (2, 5)).transpose(1, 2) for part in packed.chunk(3, dim=-1))
    v = v.transpose(2, 3).contiguous().transpose(2, 3)
    found = torch.autograd.grad(method(q, k, v).transpose(1, 2).sin().sum(), packed)[0]
    q, k, v = (part.unflatten(-1, (2, 5)).transpose(1, 2) for part in packed.chunk(3, dim=-1))
    assert torch.allclose(found, torch.autograd.grad(method.dense_reference(q, k, v).sin().sum(), packed)[0])


def test_large_entries_give_numbers():
    method = build("linear", Shape(1, 8, 50), torch.float32)
    q, k, v = draw(1, method.shape, dtype=torch.float32)
    out = method(q * 300, k * 300, v)
    assert bool(out.isfinite().all())
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(out.sum(), [q, k, v]))


def test_what_is_not_a_number_stays_where_the_docstring_says():
    method = build("linear", Shape(2, 4, 300))
    q, k, v = (x.detach() for x in draw(1, method.shape))
    q[0, 0, 7, 0] = math.nan
    bad = method(q, k, v).isnan().any(-1)[0]
    assert bad[0].nonzero().flatten().tolist() == [7]
    assert not bool(bad[1].any())
    k[0, 1, 200] = math.nan
    assert bool(method(q, k, v)[0, 1].isnan().all())
    causal = build("linear", Shape(2, 4, 300, causal=True))
    assert not bool(causal(q, k, v)[0, 1, :128].isnan().any())
