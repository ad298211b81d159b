"""The encoder: the same around every method, blind to padding, its operations counted."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from methods.encoder import Encoder, sinusoids
from methods.registry import METHODS, Capabilities, Mixer, Shape
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
    if trains(name):
        with FlopCounterMode(display=False, custom_mapping=cpu_flash()) as counter:
            model.train()(torch.zeros(2, 256, dtype=torch.long)).sum().backward()
        assert model.flops(2, 256, train=True) == pytest.approx(counter.get_total_flops(), rel=0.05)


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


class GlobalTokens(method_class("full")):
    capabilities = Capabilities(token_globals=True)


class Recorder(nn.Module):
    """In place of a mixer: keeps the arguments that it is called with."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, *args):
        self.args = args
        return args[0]


@pytest.mark.parametrize("reversible", [False, True])
@pytest.mark.parametrize("attention", [GlobalTokens, method_class("full")])
def test_global_tokens_reach_methods_that_have_them(attention, reversible):
    model = Encoder([attention(Shape(2, 4, 6))] * 2, vocab_size=11, ff_dim=8, reversible=reversible)
    for block in model.layers():
        block.mixer = Recorder(block.mixer.attention)
    padding, chosen = torch.rand(2, 2, 6) < 0.5
    model(torch.zeros(2, 6, dtype=torch.long), padding, chosen)
    for block in model.layers():
        rest = block.mixer.args[1:]
        assert rest[0] is padding
        assert len(rest) == 1 or rest[1] is chosen
        assert (len(rest) == 2) == block.mixer.attention.capabilities.token_globals
    model(torch.zeros(2, 6, dtype=torch.long), padding)
    assert all(len(block.mixer.args) == 2 for block in model.layers())


def test_a_window_a_layer():
    """Two layers with windows 2 and 64: the model is the one whose layers are built one by one."""
    shape, generator = Shape(2, 8, 40), torch.Generator()
    cls = method_class("longformer")
    scheduled = cls.layers(shape, 2, generator, window=[2, 64], global_tokens=0)
    assert [layer.budget_value() for layer in scheduled] == [2, 64]
    assert [layer.degenerate(40) for layer in scheduled] == [False, True]
    tokens = torch.randint(11, (2, 40), generator=torch.Generator().manual_seed(1))
    outs = []
    for attention in (scheduled, [cls(shape, window=w, global_tokens=0) for w in (2, 64)]):
        torch.manual_seed(0)
        outs.append(Encoder(attention, vocab_size=11, ff_dim=24)(tokens))
    assert torch.equal(*outs)


@pytest.mark.parametrize("count", [1, 3])
def test_a_schedule_of_the_wrong_length_is_refused(count):
    with pytest.raises(ValueError, match=r"^window=\[2, 64\]: expected one value, or one for each of"):
        method_class("longformer").layers(Shape(2, 8, 40), count, torch.Generator(), window=[2, 64])


def test_reversible_layers_and_chunks_change_no_parameter():
    """The same state dict, so that weights move between the forms; and the operations that each costs."""
    plain, other = (encoder("sdpa", Shape(2, 8, 40), **o) for o in ({}, {"reversible": True, "ff_chunks": 4}))
    other.load_state_dict(plain.state_dict())
    again = plain.flops(1, 40, train=False)
    assert other.flops(1, 40, train=False) == again
    assert other.flops(1, 40, train=True) == plain.flops(1, 40, train=True) + again
    chunked = encoder("sdpa", Shape(2, 8, 40), ff_chunks=4)
    assert chunked.flops(1, 40, train=True) == plain.flops(1, 40, train=True) + 2 * 4 * 40 * 16 * 24
    with pytest.raises(ValueError, match=r"^ff_chunks=0: expected an integer >= 1"):
        encoder("sdpa", Shape(2, 8, 40), ff_chunks=0)
