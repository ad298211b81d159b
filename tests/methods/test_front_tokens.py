"""Learned tokens before the input, a width of its own, rotary positions: for every method."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from methods.encoder import Encoder
from methods.registry import METHODS, Shape
from tests.methods.conftest import CASES, SMALL, causal_choices, layers, method_class, trains
from tests.methods.test_contract import cpu_flash
from tests.methods.test_encoder import GlobalTokens, Recorder
from tests.methods.test_training import batch, dtype_of

N = 24

#: What is asked of the encoder, and how many front tokens that takes.
FORMS = {
    "rotary": {"positions": "rotary"},
    "cls": {"front_tokens": 1},
    "front": {"front_tokens": 3, "positions": "sinusoidal"},
    "narrow": {"width": 12, "front_tokens": 2, "positions": "rotary", "reversible": True, "ff_chunks": 3},
}


def encoder(name, seq_len=N, causal=None, dtype=torch.float32, **options):
    causal = causal_choices(name)[0] if causal is None else causal
    shape = Shape(2, 8, seq_len + options.get("front_tokens", 0), causal)
    attention = layers(name, shape, 2, dtype)
    torch.manual_seed(0)
    return Encoder(attention, vocab_size=7, ff_dim=24, **options).to(dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "causal"), CASES)
def test_every_method_trains_a_step(name, causal, form):
    """Forward, backward and finite gradients of every parameter, on a padded batch where the method takes one."""
    if not trains(name):
        pytest.skip("declares no backward here")
    model = encoder(name, causal=causal, dtype=dtype_of(name), **FORMS[form]).train()
    tokens, _, padding = batch()
    padding = padding if method_class(name).capabilities.padding else None
    rows = model(tokens, padding, keep_front=True)
    front = model.front_tokens
    assert rows.shape == (4, N + front, FORMS[form].get("width", 16))
    kept = rows[:, :front].square().sum() + 0.0 * rows.sum()
    real = rows[:, front:] if padding is None else rows[:, front:][~padding]
    (kept + (real - 1).square().sum()).backward()
    lost = [key for key, p in model.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]
    assert not lost
    if model.front is not None:
        assert bool((model.front.grad != 0).any(dim=1).all())


@pytest.mark.parametrize("name", METHODS)
def test_padding_does_not_reach_real_tokens(name):
    if not method_class(name).capabilities.padding:
        pytest.skip("declares no padding")
    model = encoder(name, front_tokens=3).eval()
    tokens, _, padding = batch()
    changed = torch.where(padding, (tokens + 3) % 7, tokens)
    with torch.no_grad():
        one, other = (model(ids, padding, keep_front=True) for ids in (tokens, changed))
    real = torch.cat([torch.ones(4, 3, dtype=torch.bool), ~padding], dim=1)
    assert torch.allclose(one[real], other[real], atol=1e-6)


def test_front_tokens_stand_before_the_embedded_tokens():
    model = encoder("full", front_tokens=3).eval()
    tokens, _, padding = batch()
    hidden = model.embed(tokens) + model.positions
    hidden = torch.cat([model.front.expand(4, -1, -1), hidden], dim=1)
    seen = torch.cat([torch.zeros(4, 3, dtype=torch.bool), padding], dim=1)
    for block in model.layers():
        hidden = block(hidden, seen)
    wanted = model.norm(hidden)
    assert torch.equal(model(tokens, padding, keep_front=True), wanted)
    assert torch.equal(model(tokens, padding), wanted[:, 3:])


def test_they_change_no_other_parameter_and_start_apart():
    plain, other = encoder("full"), encoder("full", front_tokens=4, embedding_std=0.02)
    states = plain.state_dict(), other.state_dict()
    assert set(states[1]) - set(states[0]) == {"front"}
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    after = []
    for count in (0, 4):
        encoder("full", front_tokens=count)
        after.append(torch.rand(3))
    assert torch.equal(*after)  # and what is drawn next is the same
    assert not other.front[0].any()
    assert float(other.front[1:].detach().std()) == pytest.approx(0.02, rel=0.4)
    assert other.front.unique(dim=0).shape[0] == 4
    for count in (-1, N + 9):
        with pytest.raises(ValueError, match=rf"^front_tokens={count}: expected an integer from 0 to {N - 1}"):
            Encoder(layers("full", Shape(2, 8, N), 1), vocab_size=7, ff_dim=8, front_tokens=count)


class Two(GlobalTokens):
    """Makes its first two tokens global by itself."""

    global_tokens = 2


@pytest.mark.parametrize(
    ("cls", "given", "wanted"),
    [
        (GlobalTokens, None, [1, 1, 1, 0, 0, 0]),
        (GlobalTokens, [0, 1, 0], [1, 1, 1, 0, 1, 0]),
        (Two, None, [1, 1, 1, 0, 0, 0]),
        (type("Three", (Two,), {"global_tokens": 3}), None, None),
        (method_class("full"), [0, 1, 0], None),
    ],
)
def test_they_are_global_where_tokens_can_be(cls, given, wanted):
    model = Encoder([cls(Shape(2, 4, 6))] * 2, vocab_size=7, ff_dim=8, front_tokens=3)
    for block in model.layers():
        block.mixer = Recorder(block.mixer.attention)
    mask = None if given is None else torch.tensor([given, [1, 1, 1]]).bool()
    padding = torch.tensor([[False, False, True], [False, True, True]])
    model(torch.zeros(2, 3, dtype=torch.long), padding, mask)
    for block in model.layers():
        _, seen, *rest = block.mixer.args
        assert torch.equal(seen, torch.cat([torch.zeros(2, 3, dtype=torch.bool), padding], dim=1))
        assert [row.tolist() for row in (rest[0][:1] if rest else ())] == ([] if wanted is None else [wanted])


def test_a_window_s_cls_sees_every_token():
    """Longformer without globals of its own: the CLS is one, so that its row depends on the last token."""
    model = encoder("longformer", front_tokens=1)
    for block in model.layers():
        block.mixer.attention.global_tokens = 0
    tokens, _, _ = batch()
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 7
    one, other = (model(ids, keep_front=True)[:, 0] for ids in (tokens, changed))
    assert not torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("padded", [False, True])
def test_etc_attends_along_its_pattern_over_prepended_tokens(padded):
    """All tokens of the input are kept, the prepended rows are its global ones: against the N x N mask."""
    cls = method_class("bigbird_etc")
    count = cls.prepended(**SMALL["bigbird_etc"])
    assert count == 3
    assert cls.prepended() == 256
    model, other = (encoder("bigbird_etc", front_tokens=count, dtype=torch.float64).eval() for _ in range(2))
    for block in other.layers():
        attention = block.mixer.attention
        attention.forward = attention.dense_reference
        assert not attention.attended(N + count)[0].all()
        assert attention.attended(N + count)[:, :count].all()
    tokens, _, padding = batch()
    padding = padding if padded else None
    found, wanted = (m(tokens, padding) for m in (model, other))
    assert found.shape == (4, N, 16)
    kept = slice(None) if padding is None else ~padding
    assert torch.allclose(found[kept], wanted[kept], atol=1e-11)


@pytest.mark.parametrize("name", ["sdpa", "longformer", "reformer"])
def test_operations_with_front_tokens_and_a_width(name):
    model = Encoder(
        layers(name, Shape(2, 16, 259), 2), vocab_size=7, ff_dim=48, width=40, front_tokens=3, positions="rotary"
    ).eval()
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=cpu_flash()) as counter:
        model(torch.zeros(2, 256, dtype=torch.long))
    assert model.flops(2, 256, train=False) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_a_width_apart_from_the_heads():
    """LRA's image model: embeddings of 128, heads of 8 x 8."""
    model = Encoder(layers("full", Shape(8, 8, N), 1), vocab_size=7, ff_dim=128, width=128)
    mixer = model.layers()[0].mixer
    assert (mixer.qkv.weight.shape, mixer.out.weight.shape) == ((192, 128), (128, 64))
    assert model(batch()[0]).shape == (4, N, 128)
    wide = encoder("longformer", width=40)
    assert wide.layers()[0].mixer.global_qkv.weight.shape == (48, 40)


def test_the_default_width_changes_nothing():
    tokens, _, padding = batch()
    one, other = encoder("longformer"), encoder("longformer", width=16)
    assert isinstance(one.layers()[0].mixer.out, nn.Linear)
    assert torch.equal(one(tokens, padding), other(tokens, padding))
