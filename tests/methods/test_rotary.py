"""Rotary positions: against complex numbers, the paper's matrix, and attention turned by hand."""

from __future__ import annotations

import pytest
import torch

from methods.encoder import Encoder
from methods.mixer import Mixer
from methods.ops.rotary import Rotary, rotate
from methods.registry import METHODS, Shape
from tests.methods.conftest import causal_choices, layers, method_class


def random(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(x, places, base=10000.0):
    """x `[..., n, D]` turned by complex multiplication; dimensions i and i + D/2 are one number."""
    half = x.shape[-1] // 2
    angles = torch.tensor(places)[:, None] * base ** (-torch.arange(half, dtype=torch.float64) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def turned(x, rotary, rows=None):
    rows = torch.arange(x.shape[2])[None] if rows is None else rows
    return rotate(x, rotary.table(rows, x.dtype))


def test_equals_complex_multiplication():
    x = random(2, 3, 9, 8)
    assert torch.allclose(turned(x, Rotary(8)), at(x, range(9)), atol=1e-14)
    assert torch.allclose(turned(x, Rotary(8, base=50.0)), at(x, range(9), 50.0), atol=1e-14)
    rows = torch.tensor([[4, 0, 100], [7, 7, 2]])  # places may differ by row of the batch
    wanted = torch.stack([at(x[b, :, :3], rows[b].tolist()) for b in range(2)])
    assert torch.allclose(turned(x[:, :, :3], Rotary(8), rows), wanted, atol=1e-14)


def test_equals_the_paper_s_matrix_up_to_the_order_of_dimensions():
    """Equation 15: a block diagonal of 2 x 2 rotations, over neighbouring dimensions."""
    place, dim = 5, 6
    matrix = torch.zeros(dim, dim, dtype=torch.float64)
    for i in range(dim // 2):
        angle = torch.tensor(place * 10000.0 ** (-2 * i / dim), dtype=torch.float64)
        matrix[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.stack(
            [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
        )
    x = random(1, 1, 1, dim)
    neighbours = torch.arange(dim).view(2, -1).T.flatten()  # 0 3 1 4 2 5
    found = turned(x, Rotary(dim), torch.tensor([[place]]))
    assert torch.allclose(found[0, 0, 0, neighbours], matrix @ x[0, 0, 0, neighbours], atol=1e-14)


@pytest.mark.parametrize("shift", [1, 17, 1000])
def test_products_depend_on_the_distance_only(shift):
    q, k = random(1, 1, 1, 16), random(1, 1, 1, 16, seed=1)
    rotary, place = Rotary(16), torch.tensor

    def product(m, n):
        return float((turned(q, rotary, place([[m]])) * turned(k, rotary, place([[n]]))).sum())

    assert product(3 + shift, 8 + shift) == pytest.approx(product(3, 8), abs=1e-10)
    assert product(5, 5) == pytest.approx(float((q * k).sum()), abs=1e-12)
    assert abs(product(8, 3) - product(3, 8)) > 1e-3  # the sign of the distance counts


def test_front_rows_stand_at_the_start_and_are_not_turned():
    x = random(1, 2, 7, 4)
    found = turned(x, Rotary(4, front_tokens=3))
    assert torch.equal(found[:, :, :3], x[:, :, :3])
    assert torch.equal(found[:, :, 3:], turned(x[:, :, 3:], Rotary(4)))


def test_angles_are_float32_in_half_precision_and_odd_dimensions_are_refused():
    far = torch.tensor([[16_000]])
    assert Rotary(8).table(far, torch.bfloat16)[0].dtype == torch.float32
    x = random(1, 1, 1, 8)
    found = turned(x.bfloat16(), Rotary(8), far)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.double(), at(x, [16_000]), atol=0.02)
    with pytest.raises(ValueError, match=r"^head_dim=7: expected an even number for rotary positions"):
        Rotary(7)


def by_hand(mixer, hidden, front=0):
    """q, k, v of a mixer, q and k turned by complex numbers."""
    places = [max(0, n - front) for n in range(hidden.shape[1])]
    heads, inner = mixer.heads, mixer.inner
    parts = [
        part.unflatten(2, (heads, -1)).transpose(1, 2)
        for part in (hidden @ mixer.qkv.weight.T).split(inner, dim=2)
    ]
    return [*(at(part, places) for part in parts[:-1]), parts[-1]], places


@pytest.mark.parametrize("padded", [False, True])
def test_every_query_and_key_of_a_mixer_is_turned(padded):
    mixer = Mixer(method_class("full")(Shape(2, 4, 10)), rotary=Rotary(4, front_tokens=2)).double()
    hidden, padding = random(3, 10, 8), torch.arange(10) >= torch.tensor([[10], [7], [4]])
    (q, k, v), _ = by_hand(mixer, hidden, 2)
    weights = (q @ k.transpose(2, 3) / 2).masked_fill(padding[:, None, None] & padded, -torch.inf).softmax(-1)
    wanted = mixer.out((weights @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(mixer(hidden, padding if padded else None), wanted, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_global_projections_are_turned_too(masked):
    """Longformer's global rows: queries at their own places, keys at all places, by separate weights."""
    attention = method_class("longformer")(Shape(2, 4, 12), window=4, global_tokens=2)
    mixer = Mixer(attention, rotary=Rotary(4)).double()
    with torch.no_grad():
        mixer.global_qkv.weight.copy_(random(*mixer.global_qkv.weight.shape, seed=5))
    hidden, padding = random(2, 12, 8), torch.arange(12) >= torch.tensor([[12], [9]])
    chosen = torch.zeros(2, 12, dtype=torch.bool)
    chosen[0, [3, 7, 8]] = chosen[1, 5] = True
    mask = chosen if masked else None
    (q, k, v), places = by_hand(mixer, hidden)
    _, keys, values = (
        part.unflatten(2, (2, -1)).transpose(1, 2) for part in (hidden @ mixer.global_qkv.weight.T).split(8, dim=2)
    )
    queries = at((hidden @ mixer.global_qkv.weight[:8].T).unflatten(2, (2, -1)).transpose(1, 2), places)
    index = [row.nonzero()[:, 0] for row in chosen] if masked else [torch.arange(2)] * 2
    most = max(map(len, index))
    own = torch.stack(
        [torch.nn.functional.pad(queries[b, :, i], (0, 0, 0, most - len(i))) for b, i in enumerate(index)]
    )
    mixed = attention.dense_reference(
        q, k, v, key_padding_mask=padding, global_mask=mask, global_qkv=(own, at(keys, places), values)
    )
    wanted = mixer.out(mixed.transpose(1, 2).flatten(2))
    found = mixer(hidden, padding, mask) if masked else mixer(hidden, padding)
    assert torch.allclose(found[~padding], wanted[~padding], atol=1e-12)


def test_shared_queries_and_keys_stay_shared():
    mixer = Mixer(method_class("reformer")(Shape(2, 4, 16)), rotary=Rotary(4))
    seen = {}
    mixer.attention.register_forward_pre_hook(lambda _, args: seen.update(q=args[0], k=args[1]))
    mixer(torch.randn(1, 16, 8))
    assert seen["k"] is seen["q"]


@pytest.mark.parametrize("name", METHODS)
def test_every_core_is_given_turned_queries_and_keys(name):
    if "float32" not in method_class(name).capabilities.dtypes:
        pytest.skip("takes half precision only")
    attention = layers(name, Shape(2, 8, 24, causal_choices(name)[0]), 1)[0].eval()
    mixer, hidden, seen = Mixer(attention, rotary=Rotary(8)).eval(), random(2, 24, 16).float(), []
    attention.register_forward_pre_hook(lambda _, args: seen.extend(args[:3]))
    with torch.no_grad():
        out = mixer(hidden)
        wanted, _ = by_hand(mixer, hidden)
    wanted = wanted if len(wanted) == 3 else [wanted[0], *wanted]
    assert bool(out.isfinite().all())
    assert all(torch.allclose(a.double(), b.double(), atol=1e-5) for a, b in zip(seen, wanted, strict=True))


def test_an_encoder_knows_distances_only():
    """Moving all real tokens by 5 places changes nothing with rotary positions, and something with sinusoids."""
    tokens = torch.randint(1, 11, (2, 20), generator=torch.Generator().manual_seed(0))
    right, left = (torch.nn.functional.pad(tokens, side) for side in ((0, 5), (5, 0)))
    for positions, same in (("rotary", True), ("sinusoidal", False)):
        torch.manual_seed(0)
        model = Encoder(layers("full", Shape(2, 8, 25), 2), vocab_size=11, ff_dim=24, positions=positions)
        one, other = model(right, right == 0)[:, :20], model(left, left == 0)[:, 5:]
        assert torch.allclose(one, other, atol=1e-5) == same
        assert (model.positions is None) == same
