"""Reformer's hash against collision probabilities, plain argmax and sorting by Python (spec R1, R5, R15, R16)."""

import math

import pytest
import torch

from methods.ops.tiles import Workspace
from methods.reformer import Reformer
from methods.reformer.hashing import bucket_factors, columns, draw_rotations, hash_buckets, sort_by_bucket
from methods.registry import Shape

#: Collision probability by cosine and number of buckets.
COLLISIONS = {
    0.0: (0.500, 0.250, 0.124, 0.063, 0.016),
    0.5: (0.666, 0.444, 0.318, 0.233, 0.129),
    0.75: (0.770, 0.593, 0.489, 0.410, 0.294),
    0.9: (0.857, 0.734, 0.661, 0.601, 0.502),
    0.95: (0.899, 0.808, 0.754, 0.708, 0.630),
    0.99: (0.955, 0.912, 0.887, 0.862, 0.822),
}


def hashed(x: torch.Tensor, rotations: torch.Tensor, factors: tuple[int, ...]) -> torch.Tensor:
    return hash_buckets(x, rotations, factors, Workspace(x.device, x.dtype))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("place", range(5))
def test_r1_collision_probabilities(place):
    buckets, draws = (2, 4, 8, 16, 64)[place], 12000
    first = torch.tensor([1.0, 0.0])
    others = torch.tensor([[c, math.sqrt(1 - c * c)] for c in COLLISIONS])
    x = torch.cat([first[None], others])[None, None] * torch.tensor([3.0, *range(1, 7)])[:, None]
    rotations = draw_rotations(1, draws, 2, (buckets,), seeded())
    found = hashed(x, rotations, (buckets,))[0, 0]
    rates = (found[:, 1:] == found[:, :1]).double().mean(dim=0)
    wanted = torch.tensor([row[place] for row in COLLISIONS.values()], dtype=torch.float64)
    assert float((rates - wanted).abs().max()) < 4 * math.sqrt(0.25 / draws)
    assert float(rates[0]) == pytest.approx(1 / buckets, abs=0.018)  # orthogonal
    if buckets == 2:
        angles = torch.tensor([math.acos(c) for c in COLLISIONS], dtype=torch.float64)
        assert float((rates - (1 - angles / math.pi)).abs().max()) < 0.018


@pytest.mark.parametrize("buckets", [2, 6, 64, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_r1_same_direction_same_bucket_and_opposite_never(buckets, dtype):
    factors = bucket_factors(buckets)
    x = torch.randn(2, 3, 50, 8, generator=seeded()).to(dtype)
    rotations = draw_rotations(3, 4, 8, factors, seeded(1))
    one, longer, opposite = (hashed(y, rotations, factors) for y in (x, 2 * x, -x))
    assert torch.equal(one, longer)  # a power of two rounds nothing
    assert not bool((one == opposite).any())
    assert 0 <= int(one.min()) <= int(one.max()) < math.prod(factors)


@pytest.mark.parametrize("buckets", [2, 10, 128, 300])
def test_r1_is_the_plain_argmax_up_to_near_ties(buckets):
    factors = bucket_factors(buckets)
    x = torch.randn(2, 3, 400, 16, generator=seeded())
    rotations = draw_rotations(3, 2, 16, factors, seeded(1))
    found = hashed(x, rotations, factors)
    for b in range(2):
        for h in range(3):
            for r in range(2):
                parts = (x[b, h] @ rotations[h, r]).split([f // 2 for f in factors], dim=-1)
                both = [torch.cat([part, -part], dim=-1) for part in parts]
                plain = both[0].argmax(-1)
                if len(both) == 2:
                    plain = plain * factors[1] + both[1].argmax(-1)
                for i in (found[b, h, r] != plain).nonzero().flatten().tolist():
                    tops = [y[i].topk(2).values for y in both if y.shape[1] > 1]
                    assert min(float((t[0] - t[1]) / t[0]) for t in tops) < 2e-5
                assert float((found[b, h, r] == plain).double().mean()) > 0.99
    exact = hashed(x.double(), rotations, factors)
    wide = (x[0, 0].double() @ rotations[0, 0].double()).split([f // 2 for f in factors], dim=-1)
    plain = torch.cat([wide[0], -wide[0]], dim=-1).argmax(-1)
    assert torch.equal(exact[0, 0, 0] // (math.prod(factors) // factors[0]), plain.to(exact.dtype))


def test_r1_what_is_not_finite_has_some_bucket():
    x = torch.randn(1, 1, 6, 4, generator=seeded())
    x[0, 0, 1] = math.nan
    x[0, 0, 2, 1] = math.inf
    x[0, 0, 3] = 0.0
    for factors in ((6,), (2, 12)):
        found = hashed(x, draw_rotations(1, 3, 4, factors, seeded()), factors)
        assert 0 <= int(found.min()) <= int(found.max()) < math.prod(factors)


def test_r1_every_head_and_round_has_its_own_rotation():
    x = torch.randn(1, 1, 300, 8, generator=seeded()).expand(1, 3, 300, 8)
    found = hashed(x, draw_rotations(3, 4, 8, (32,), seeded()), (32,)).flatten(0, 2)
    for i in range(12):
        assert not any(torch.equal(found[i], found[j]) for j in range(i))


def test_r5_sorts_by_bucket_then_position():
    buckets = torch.randint(0, 5, (2, 2, 3, 40), generator=seeded(), dtype=torch.int32)
    order = sort_by_bucket(buckets, 999, None)
    for index in torch.cartesian_prod(*(torch.arange(s) for s in (2, 2, 3))).tolist():
        row = buckets[tuple(index)].tolist()
        assert order[tuple(index)].tolist() == sorted(range(40), key=lambda i: (row[i], i))
    back = torch.empty_like(order).scatter_(-1, order, torch.arange(40).expand_as(order))
    assert torch.equal(back.gather(-1, order), torch.arange(40).expand_as(order))


def test_r15_padding_sorts_behind_every_bucket():
    buckets = torch.randint(0, 5, (2, 1, 3, 20), generator=seeded(), dtype=torch.int32)
    padding = torch.zeros(2, 20, dtype=torch.bool)
    padding[0, [0, 7, 19]] = True
    order = sort_by_bucket(buckets, 999, padding)
    assert order[0, 0, :, -3:].tolist() == [[0, 7, 19]] * 3
    assert torch.equal(order[1], sort_by_bucket(buckets, 999, None)[1])


@pytest.mark.parametrize(
    ("n", "chunk"), [(1, 64), (64, 64), (65, 64), (4096, 64), (4096, 32), (16384, 64), (1 << 20, 64)]
)
def test_r16_the_bucket_count_follows_the_length(n, chunk):
    factors = Reformer(Shape(1, 2, n), chunk=chunk, rounds=1).factors
    assert all(factor % 2 == 0 for factor in factors)
    assert 2 * n / chunk <= math.prod(factors) <= max(2.0, 1.2 * 2 * n / chunk + 2)
    assert len(factors) == (1 if 2 * n / chunk <= 128 else 2)
    assert columns(factors) <= max(64, 4 * math.isqrt(2 * n // chunk))


def test_r16_odd_counts_are_refused():
    for buckets in (0, 1, 7):
        with pytest.raises(ValueError, match=rf"^buckets={buckets}: expected an even number"):
            Reformer(Shape(1, 4, 64), buckets=buckets)
    assert Reformer(Shape(1, 4, 64), buckets=10).factors == (10,)
