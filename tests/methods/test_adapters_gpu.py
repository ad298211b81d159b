"""The adapters to CUDA packages, against stand-ins that follow the packages' interfaces with plain formulas."""

import sys
import types
from dataclasses import replace

import pytest
import torch

from methods.adapters.fla import FLA
from methods.adapters.flash_attn import FlashAttn
from methods.adapters.optional import Unavailable
from methods.adapters.xformers import XFormers
from methods.registry import Shape, Unsupported
from tests.methods.conftest import draw, padding


def attend(q, k, v, causal):
    """Dense attention in the packages' layout, `[B, N, H, D]`."""
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * q.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v)


def attend_packed(q, k, v, sizes, causal):
    parts = zip(*(x.split(sizes) for x in (q, k, v)), strict=True)
    return torch.cat([attend(*(x[None] for x in part), causal)[0] for part in parts])


def flash_attn(with_lse: bool):
    module = types.ModuleType("flash_attn")

    def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
        out = attend(q, k, v, causal)
        return (out, None) if with_lse else out

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, causal=False
    ):
        assert cu_seqlens_q.dtype == torch.int32
        sizes = torch.diff(cu_seqlens_q).tolist()
        assert max_seqlen_q == max_seqlen_k == max(sizes)
        out = attend_packed(q, k, v, sizes, causal)
        return (out, None) if with_lse else out

    module.flash_attn_func, module.flash_attn_varlen_func = flash_attn_func, flash_attn_varlen_func
    return module


class BlockDiagonalMask:
    def __init__(self, sizes, causal=False):
        self.sizes, self.causal = sizes, causal

    @classmethod
    def from_seqlens(cls, sizes):
        assert all(size > 0 for size in sizes)
        return cls(sizes)

    def make_causal(self):
        return BlockDiagonalMask(self.sizes, True)


class LowerTriangularMask:
    pass


def xformers():
    ops, biases = types.ModuleType("xformers.ops"), types.ModuleType("xformers.ops.fmha.attn_bias")

    def memory_efficient_attention(q, k, v, attn_bias=None, p=0.0, scale=None):
        if isinstance(attn_bias, BlockDiagonalMask):
            return attend_packed(q[0], k[0], v[0], attn_bias.sizes, attn_bias.causal)[None]
        return attend(q, k, v, isinstance(attn_bias, LowerTriangularMask))

    ops.memory_efficient_attention = memory_efficient_attention
    biases.BlockDiagonalMask, biases.LowerTriangularMask = BlockDiagonalMask, LowerTriangularMask
    return {"xformers.ops": ops, "xformers.ops.fmha.attn_bias": biases}


def fla():
    module = types.ModuleType("fla.ops.linear_attn")

    def chunk_linear_attn(q, k, v, scale=None, initial_state=None, output_final_state=False, normalize=True):
        assert q.shape[1] >= q.shape[2]
        pairs = torch.einsum("bihd,bjhd->bhij", q, k).tril() * scale
        out = torch.einsum("bhij,bjhd->bihd", pairs, v)
        total = torch.einsum("bihd,bihd->bih", q * scale, k.cumsum(1)) + 1e-10
        return (out / total[..., None] if normalize else out), None

    module.chunk_linear_attn = module.fused_recurrent_linear_attn = chunk_linear_attn
    return {"fla.ops.linear_attn": module}


def install(monkeypatch, modules):
    """With the packages that they lie in, for the length of a test."""
    parents = {name.rsplit(".", i)[0] for name in modules for i in range(1, name.count(".") + 1)}
    for name in parents - set(modules):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


STAND_INS = {
    "flash-attn-2": (FlashAttn, {"version": "2"}, lambda: {"flash_attn": flash_attn(False)}),
    "flash-attn-3": (FlashAttn, {"version": "3"}, lambda: {"flash_attn_interface": flash_attn(True)}),
    "flash-attn-4": (FlashAttn, {"version": "4"}, lambda: {"flash_attn.cute": flash_attn(True)}),
    "xformers": (XFormers, {}, xformers),
    "fla-chunk": (FLA, {"form": "chunk"}, fla),
    "fla-recurrent": (FLA, {"form": "fused_recurrent"}, fla),
}


@pytest.fixture(params=STAND_INS)
def adapter(request, monkeypatch):
    """The class, its parameters, with the package replaced and the CPU allowed."""
    cls, params, modules = STAND_INS[request.param]
    install(monkeypatch, modules())
    anywhere = replace(cls.capabilities, devices=("cpu",), dtypes=("float64", "float32"))
    monkeypatch.setattr(cls, "capabilities", anywhere)
    return cls, params


@pytest.mark.parametrize("masked", ["none", "right", "scattered", "a whole row"])
@pytest.mark.parametrize("causal", [False, True])
def test_equals_its_reference_in_value_and_gradients(adapter, causal, masked):
    cls, params = adapter
    if not causal and not cls.capabilities.bidirectional:
        pytest.skip("causal only")
    shape = Shape(2, 5, 13, causal)
    method, inputs = cls(shape, **params), draw(2, shape)
    mask = {"none": None, "right": padding(2, 13), "a whole row": torch.tensor([[True], [False]]).expand(2, 13)}
    mask["scattered"] = torch.rand(2, 13, generator=torch.Generator().manual_seed(0)) < 0.4
    out = method(*inputs, key_padding_mask=mask[masked])
    want = method.dense_reference(*inputs, key_padding_mask=mask[masked])
    assert (out - want).abs().max() < 1e-11
    grads = [torch.autograd.grad(x, inputs, torch.ones_like(x)) for x in (out, want)]
    assert max(float((a - b).abs().max()) for a, b in zip(*grads, strict=True)) < 1e-11
    assert method.backend != "eager"


@pytest.mark.parametrize("cls", [FlashAttn, XFormers, FLA])
def test_without_the_package_the_reason_is_one_line(cls, monkeypatch):
    for name in ("flash_attn", "xformers", "xformers.ops", "fla", "fla.ops.linear_attn"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Unavailable, match=r"^needs the package .* \(pip install ") as caught:
        cls(Shape(1, 4, 8, causal=True))
    assert "\n" not in str(caught.value)


def test_inputs_that_the_packages_do_not_take_are_refused(monkeypatch):
    install(monkeypatch, {"flash_attn": flash_attn(False), **xformers(), **fla()})
    shape = Shape(2, 4, 8, causal=True)
    for cls in (FlashAttn, XFormers, FLA):
        with pytest.raises(Unsupported, match="runs on cuda, not on cpu"):
            cls(shape)(*draw(1, shape))
    monkeypatch.setattr(FlashAttn, "capabilities", replace(FlashAttn.capabilities, devices=("cpu",)))
    with pytest.raises(Unsupported, match="takes float16, bfloat16, not float64"):
        FlashAttn(shape)(*draw(1, shape))
    monkeypatch.setattr(FLA, "capabilities", replace(FLA.capabilities, devices=("cpu",)))
    with pytest.raises(Unsupported, match=r"seq_len=1: .* at least heads=2"):
        FLA(shape)(*draw(1, shape, n=1))


def test_parameters_outside_their_range():
    with pytest.raises(ValueError, match="version=5: expected one of 2, 3, 4"):
        FlashAttn(Shape(1, 4, 8), version="5")
    with pytest.raises(ValueError, match="form=parallel: expected one of chunk"):
        FLA(Shape(1, 4, 8, causal=True), form="parallel")
