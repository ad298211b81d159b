"""R13 and R14: reversible layers rebuild what they did not keep, as it was; a feed-forward layer in pieces."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from methods.encoder import Encoder
from methods.registry import METHODS, Shape
from methods.reversible import run_reversible
from tests.methods.conftest import CASES, causal_choices, layers, method_class, padding, trains

ROOT = Path(__file__).resolve().parents[2]
N = 24


def encoder(name="sdpa", count=3, causal=False, dtype=torch.float64, **options) -> Encoder:
    attention = layers(name, Shape(2, 8, N, causal), count, dtype)
    torch.manual_seed(0)
    return Encoder(attention, vocab_size=11, ff_dim=24, reversible=True, **options).to(dtype)


def tokens(rows=2):
    return torch.randint(11, (rows, N), generator=torch.Generator().manual_seed(1))


def plain(model: Encoder, ids, mask=None):
    """Equation 9 by ordinary autograd, chunk by chunk, with the model's own layers."""
    hidden = model.dropout(model.embed(ids) + model.positions[: ids.shape[1]])
    x1 = x2 = hidden
    for block in model.layers():
        x1 = x1 + block.mix(x2, mask, None)
        size = -(-N // model.ff_chunks)
        x2 = x2 + torch.cat([block.feed(part) for part in x1.split(size, dim=1)], dim=1)
    return model.norm((x1 + x2) / 2)


def gradients(out, model):
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.dtype)
    return torch.autograd.grad(out, list(model.parameters()), weights, allow_unused=True)


def same(found, wanted, tolerance):
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("count", [2, 8])
def test_r13_inputs_are_rebuilt_from_outputs(dtype, tolerance, count):
    """The inverse, as equation 9 writes it, on what the stack returned."""
    model = encoder("full", count, dtype=dtype).eval()
    hidden = torch.randn(2, N, 16, dtype=dtype, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        y1, y2 = run_reversible(model.layers(), hidden)
        for block in reversed(model.layers()):
            y2 = y2 - block.feed(y1)
            y1 = y1 - block.mix(y2, None, None)
    assert float((y1 - hidden).abs().max()) <= tolerance
    assert float((y2 - hidden).abs().max()) <= tolerance


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("name", "causal"), CASES)
def test_r13_values_and_gradients_are_those_of_plain_autograd(name, causal, padded):
    """Every method, with dropout and with what it draws anew in training, twice in a row."""
    if not trains(name):
        pytest.skip("declares no backward here")
    dtype = torch.float64 if "float64" in method_class(name).capabilities.dtypes else torch.float32
    mask = padding(2, N) if padded and method_class(name).capabilities.padding else None
    found, wanted = encoder(name, 2, causal, dtype, dropout=0.2, ff_chunks=2).train(), None
    wanted = copy.deepcopy(found)
    for seed in (0, 1):
        torch.manual_seed(seed)
        out = found(tokens(), mask)
        torch.manual_seed(seed)
        want = plain(wanted, tokens(), mask)
        after = torch.get_rng_state()
        same([out], [want], 1e-9 if dtype == torch.float64 else 1e-4)
        own = gradients(out, found)
        assert torch.equal(torch.get_rng_state(), after)
        same(own, gradients(want, wanted), 1e-9 if dtype == torch.float64 else 1e-3)
    with torch.no_grad():  # the recomputation leaves the method where the forward had left it
        same(
            [found.eval()(tokens(), mask)],
            [plain(wanted.eval(), tokens(), mask)],
            1e-9 if dtype == torch.float64 else 1e-4,
        )


@pytest.mark.parametrize("inside", [False, True])
def test_r13_autocast_is_replayed(inside):
    """Gradients under bfloat16 autocast, with the backward outside of it (as it should be) and inside."""
    found, wanted = (encoder("full", 3, dtype=torch.float32) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        out, want = found(tokens()), plain(wanted, tokens())
        if inside:
            own, other = gradients(out, found), gradients(want, wanted)
    if not inside:
        own, other = gradients(out, found), gradients(want, wanted)
    assert float((out - want).detach().abs().max()) < 1e-5
    for a, b in zip(own, other, strict=True):
        assert a is not None
        assert float((a - b).norm() / b.norm()) < 2e-2


def test_r13_a_model_in_half_precision_keeps_its_streams_in_float32():
    model = encoder("sdpa", 6, dtype=torch.bfloat16)
    exact = encoder("sdpa", 6, dtype=torch.float64)
    exact.load_state_dict(model.state_dict())
    hidden = torch.randn(2, N, 16, generator=torch.Generator().manual_seed(3)).bfloat16()
    assert all(stream.dtype == torch.float32 for stream in run_reversible(model.layers(), hidden))
    own, other = gradients(model(tokens()), model), gradients(plain(exact, tokens()), exact)
    for a, b in zip(own, other, strict=True):
        assert float((a.double() - b).norm() / b.norm()) < 0.1


def saved_bytes(model, ids) -> int:
    """Bytes that autograd keeps for the backward, parameters left out."""
    known = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor):
        if tensor.data_ptr() not in known:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(ids)
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("name", METHODS)
def test_r13_what_is_saved_does_not_depend_on_depth(name):
    causal, found = causal_choices(name)[0], {}
    for count in (1, 6):
        found[count] = saved_bytes(encoder(name, count, causal, dtype=torch.float32), tokens())
    assert found[1] == found[6] > 0


def test_r13_without_reversal_it_does():
    found = {}
    for count in (1, 6):
        model = encoder("sdpa", count, dtype=torch.float32)
        model.reversible = False
        found[count] = saved_bytes(model, tokens())
    assert found[6] > 4 * found[1]


def test_r13_shared_parameters_add_up():
    """One block three times: each parameter's gradient is the sum over its uses."""
    model, other = encoder("full", 3), encoder("full", 3)
    for each in (model, other):
        each.blocks[1] = each.blocks[2] = each.blocks[0]
    same(gradients(model(tokens()), model), gradients(plain(other, tokens()), other), 1e-10)


def test_r13_accumulates_into_grad_and_skips_frozen_parameters():
    model, other = encoder("full"), encoder("full")
    for each in (model, other):
        each.embed.weight.requires_grad_(False)
        each.blocks[1].norm_mlp.weight.requires_grad_(False)
    for _ in range(2):
        model(tokens()).square().sum().backward()
        plain(other, tokens()).square().sum().backward()
    same([p.grad for p in model.parameters()], [p.grad for p in other.parameters()], 1e-10)


def test_r13_the_mode_of_the_forward_is_replayed():
    """Calling eval() between forward and backward changes no gradient, as with plain autograd."""
    model, other = encoder("full", dropout=0.3).train(), encoder("full", dropout=0.3).train()
    torch.manual_seed(0)
    out = model(tokens())
    torch.manual_seed(0)
    want = plain(other, tokens())
    model.eval()
    same(gradients(out, model), gradients(want, other), 1e-10)
    assert not any(part.training for part in model.modules())


def test_r13_a_parameter_changed_before_the_backward_is_noticed():
    model = encoder("full")
    out = model(tokens())
    with torch.no_grad():
        model.blocks[0].mlp[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        out.sum().backward()


def test_r13_there_is_no_second_derivative():
    model = encoder("full")
    (grad,) = torch.autograd.grad(model(tokens()).sum(), [model.embed.weight], create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|twice"):
        grad.sum().backward()


def test_r13_inference_is_the_same_function():
    model = encoder("longformer").eval()
    with torch.no_grad():
        quiet = model(tokens())
    assert torch.equal(quiet, model(tokens()).detach())


@pytest.mark.parametrize("reversible", [False, True])
@pytest.mark.parametrize("chunks", [2, 3, 7, 24, 99])
def test_r14_every_number_of_chunks_gives_the_same(chunks, reversible):
    """Values and gradients, N no multiple of the number, more chunks than tokens."""
    one, many = (encoder("full", ff_chunks=c) for c in (1, chunks))
    one.reversible = many.reversible = reversible
    a, b = one(tokens()), many(tokens())
    assert float((a - b).detach().abs().max()) <= 1e-11
    same(gradients(b, many), gradients(a, one), 1e-10)
    with torch.no_grad():
        assert float((one(tokens()) - many(tokens())).abs().max()) <= 1e-11


def test_r14_chunks_replay_their_dropout():
    model = encoder("full", dropout=0.3, ff_chunks=4).train()
    model.reversible = False
    torch.manual_seed(0)
    out = model(tokens())
    other = copy.deepcopy(model)
    torch.manual_seed(0)
    hidden = other.dropout(other.embed(tokens()) + other.positions)
    for block in other.layers():
        hidden = hidden + block.mix(hidden, None, None)
        hidden = hidden + torch.cat([block.feed(part) for part in hidden.split(6, dim=1)], dim=1)
    want = other.norm(hidden)
    same([out], [want], 1e-12)
    same(gradients(out, model), gradients(want, other), 1e-10)


class LargestBlock(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest output, in numbers, of any operation."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.mark.parametrize("way", ["inference", "train", "reversible"])
def test_r14_no_more_than_one_chunk_of_ff_dim_is_there_at_a_time(way):
    """ff_dim 512 on 24 tokens is the largest thing in the model by far; in 4 chunks it is a fourth."""
    found = {}
    for chunks in (1, 4):
        attention = layers("sdpa", Shape(1, 4, N), 1, torch.float32)
        model = Encoder(attention, vocab_size=11, ff_dim=512, ff_chunks=chunks, reversible=way == "reversible")
        with LargestBlock() as mode, torch.set_grad_enabled(way != "inference"):
            out = model(tokens(1))
            if way != "inference":
                out.sum().backward()
        found[chunks] = mode.largest
    assert found == {1: N * 512, 4: N * 512 // 4}


PEAK = """
import sys, torch
from bench.measure.memory import _high_water, prepare
from methods.encoder import Encoder
from methods.registry import Shape
from methods.sdpa import SDPA
prepare("high_water")
torch.set_num_threads(1)
peaks = []
for reversible in (True, False):
    for layers in (2, 8):
        attention = [SDPA(Shape(2, 8, 1024)) for _ in range(layers)]
        model = Encoder(attention, vocab_size=8, ff_dim=32, reversible=reversible)
        ids = torch.zeros(16, 1024, dtype=torch.long)
        call = lambda: model(ids).sum().backward()
        call()
        peaks.append(_high_water(call) / 2**20)
print(*peaks)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the high-water mark of Linux")
def test_r13_measured_peak_is_flat_in_depth():
    """Resident memory of forward and backward in a process of its own; a stream of 16 x 1024 x 16 is 1 MiB."""
    ran = subprocess.run([sys.executable, "-c", PEAK], cwd=ROOT, capture_output=True, text=True, check=True)
    flat, flat_deep, plain_, plain_deep = map(float, ran.stdout.split())
    assert flat_deep < 1.1 * flat + 1
    assert plain_deep > 2 * plain_
    assert flat_deep < plain_deep / 2
