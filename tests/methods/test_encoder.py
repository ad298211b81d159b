"""The encoder: the same around every method, blind to padding, its operations counted."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from methods.encoder import Encoder, sinusoids
from methods.registry import METHODS, Mixer, Shape
from tests.methods.conftest import causal_choices, method_class, trains
from tests.methods.conftest import layers as build_layers
from tests.methods.test_contract import cpu_flash


def encoder(name, shape, layers=2, **options):
    attention = build_layers(name, shape, layers)
    torch.manual_seed(0)
    return Encoder(attention, vocab_size=11, ff_dim=24, **options).eval()


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "none"])
@pytest.mark.parametrize("name", METHODS)
def test_padding_does_not_reach_real_tokens(name, positions):
    if not method_class(name).capabilities.padding:
        pytest.skip("declares no padding")
    model = encoder(name, Shape(2, 8, 40, causal_choices(name)[0]), positions=positions)
    tokens = torch.randint(11, (2, 40), generator=torch.Generator().manual_seed(1))
    padding = torch.arange(40)[None].expand(2, -1) >= torch.tensor([[40], [29]])
    changed = torch.where(padding, (tokens + 3) % 11, tokens)
    with torch.no_grad():
        one, other = (model(ids, padding)[1, :29] for ids in (tokens, changed))
    assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_is_trained(name):
    if not trains(name):
        pytest.skip("declares no backward here")
    model = encoder(name, Shape(2, 8, 40, causal_choices(name)[0])).train()
    model(torch.randint(11, (2, 40))).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_only_the_method_differs_between_models():
    states = {name: encoder(name, Shape(2, 8, 40)).state_dict() for name in ("full", "performer")}
    shared = [key for key in states["full"] if "attention" not in key]
    assert shared
    assert all(torch.equal(states["full"][key], states["performer"][key]) for key in shared)


@pytest.mark.parametrize("name", METHODS)
def test_flops_of_the_model(name):
    if name == "flex":
        pytest.skip("torch's counter cannot run FlexAttention; test_flex.py counts with the profiler")
    model = encoder(name, Shape(2, 16, 256, causal_choices(name)[0]))
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=cpu_flash()) as counter:
        model(torch.zeros(2, 256, dtype=torch.long))
    assert model.flops(2, 256, train=False) == pytest.approx(counter.get_total_flops(), rel=0.05)
    least = 2.5 if name.endswith("reformer") else 2.9  # hashing has no backward
    assert model.flops(2, 256, train=True) > least * model.flops(2, 256, train=False)


def test_mixer_is_attention_between_projections():
    mixer = Mixer(method_class("full")(Shape(2, 4, 10)))
    hidden = torch.randn(3, 10, 8, generator=torch.Generator().manual_seed(0))
    q, k, v = mixer.qkv(hidden).split(8, dim=-1)
    heads = []
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 2).softmax(-1)
        heads.append(weights @ v[..., part])
    assert torch.allclose(mixer(hidden), mixer.out(torch.cat(heads, dim=-1)), atol=1e-6)


def test_sinusoids():
    table = sinusoids(50, 7)
    assert table.shape == (50, 7)
    assert torch.allclose(table[:, 0], torch.arange(50).float().sin())
