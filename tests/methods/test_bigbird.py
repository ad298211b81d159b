"""BigBird-ITC: the pattern pair by pair, its random plan, short and padded inputs, what references get wrong."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from methods.bigbird import BigBird
from methods.bigbird.plan import Pattern
from methods.registry import Shape, Unsupported
from tests.methods.conftest import build, draw


def make(n, heads=2, head_dim=3, seed=0, dtype=torch.float64, **params):
    params = {"block": 4, "random_blocks": 2, "allow_short": True, **params}
    return BigBird(Shape(heads, head_dim, n), generator=torch.Generator().manual_seed(seed), **params).to(dtype)


def by_loops(method, n, window, globals_):
    """The definition a pair of blocks at a time, but for the random blocks, which are read from the plan."""
    size, heads = method.block, method.shape.heads
    blocks = -(-n // size)
    shared = {*range(-(-globals_ // 2)), *range(blocks - globals_ // 2, blocks)}
    mask = torch.zeros(heads, n, n, dtype=torch.bool)
    for head in range(heads):
        drawn = drawn_blocks(method, n, head)
        for row in range(blocks):
            for key in range(blocks):
                near = abs(row - key) <= window // 2
                seen = near or row in shared or key in shared or key in drawn.get(row, ())
                mask[head, row * size : (row + 1) * size, key * size : (key + 1) * size] = seen
    return mask


def drawn_blocks(method, n, head):
    """Row -> its random blocks, from the plan's keys without what is there for another reason."""
    pattern = method.blocks
    blocks = method.layout(n).blocks
    shared = [*range(pattern.front), *range(blocks - pattern.back, blocks)]
    found = {}
    for part in method._plan(blocks):
        for row, keys in zip(part.rows.tolist(), part.keys[head].tolist(), strict=True):
            if row not in shared:
                near = range(row - pattern.window_blocks // 2, row + pattern.window_blocks // 2 + 1)
                found[row] = [key for key in keys if key not in near and key not in shared]
    return found


def readout(method, n):
    """A `[H, n, n]` with method(q, k, v) = A v."""
    q, k, _ = (x.detach() for x in draw(1, method.shape, n=n))
    columns = []
    for first in range(0, n, method.shape.head_dim):
        probe = torch.zeros_like(q)
        for column in range(first, min(first + method.shape.head_dim, n)):
            probe[:, :, column, column - first] = 1.0
        columns.append(method(q, k, probe)[0])
    return torch.cat(columns, dim=-1)[..., :n]


@pytest.mark.parametrize(("window", "globals_", "drawn"), [(3, 2, 2), (1, 0, 1), (5, 3, 0), (1, 1, 3), (3, 4, 1)])
@pytest.mark.parametrize("n", [3, 38, 64])
def test_b1_b2_the_support_is_exactly_the_pattern(n, window, globals_, drawn):
    method = make(n, window_blocks=window, global_blocks=globals_, random_blocks=drawn)
    wanted = by_loops(method, n, window, globals_)
    matrix = readout(method, n)
    assert torch.equal(matrix > 0, wanted)
    assert torch.equal(method.attended(n), wanted)
    assert torch.allclose(matrix.sum(dim=-1), torch.ones(2, n, dtype=matrix.dtype))  # no key counts twice


def test_b1_the_rows_of_the_reference():
    method = make(64, random_blocks=2)
    seen = [{*np.flatnonzero(row)} for row in method.blocks.matrix(16, 1, (0, 0))[0].numpy()]
    assert seen[0] == seen[15] == {*range(16)}
    assert seen[1] >= {0, 1, 2, 15}
    assert len(seen[1]) == 4 + 2
    assert seen[14] >= {0, 13, 14, 15}
    assert len(seen[14]) == 4 + 2
    assert all(seen[i] >= {0, i - 1, i, i + 1, 15} and len(seen[i]) == 5 + 2 for i in range(2, 14))


@pytest.mark.parametrize(("n", "density"), [(1024, 0.5547), (2048, 0.2949), (4096, 0.1519)])
def test_b1_density(n, density):
    blocks = n // 64
    pattern = Pattern(64, 3, 1, 1, 3)
    pairs = 2 * blocks + 2 * (4 + 3) + (blocks - 4) * (5 + 3)
    assert pattern.pairs(blocks) == pairs == int(pattern.matrix(blocks, 1, (0,)).sum())
    assert round(pairs / blocks**2, 4) == density
    method = BigBird(Shape(1, 8, n))
    assert method.flops(1, n) == 4 * 8 * pairs * 64**2


def test_b3_rows_draw_distinct_legal_blocks_by_head_and_layer():
    shape = Shape(3, 4, 160)
    layers = BigBird.layers(shape, 3, torch.Generator().manual_seed(1), block=4)
    drawn = [[drawn_blocks(layer, 160, head) for head in range(3)] for layer in layers]
    for plans in drawn:
        for plan in plans:
            assert sorted(plan) == list(range(1, 39))
            for row, keys in plan.items():
                assert len(set(keys)) == 3
                assert not {0, 39, row - 1, row, row + 1} & set(keys)
    plans = [plan for layer in drawn for plan in layer]
    assert all(plans[i] != plans[j] for i in range(9) for j in range(i))
    again = BigBird.layers(shape, 3, torch.Generator().manual_seed(1), block=4)
    assert [[drawn_blocks(layer, 160, head) for head in range(3)] for layer in again] == drawn
    other = BigBird.layers(shape, 3, torch.Generator().manual_seed(2), block=4)
    assert all(drawn_blocks(other[i], 160, 0) != drawn[i][0] for i in range(3))


def test_b3_the_plan_does_not_depend_on_what_ran_before():
    first, second = make(160, random_blocks=3), make(160, random_blocks=3)
    lengths = (160, 96, 41)
    one = [first.attended(n) for n in lengths]
    two = [second.attended(n) for n in reversed(lengths)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_b3_every_legal_block_is_drawn_equally_often():
    pattern, rounds = Pattern(1, 3, 1, 1, 3), 2000
    count = np.zeros(16)
    for seed in range(rounds):
        row = pattern.keys(16, (seed,))[7]
        assert len(row) == 8
        count[row] += 1
    free = np.delete(count, [0, 6, 7, 8, 15]) / rounds
    assert (count[[0, 6, 7, 8, 15]] == rounds).all()
    assert np.abs(free - 3 / 11).max() < 5 * (3 / 11 * 8 / 11 / rounds) ** 0.5


def test_b3_the_plan_travels_with_the_state():
    first, second = make(160, seed=1), make(160, seed=2)
    assert not torch.equal(first.attended(160), second.attended(160))
    second._plan(40)
    second.load_state_dict(first.state_dict())
    q, k, v = draw(1, first.shape)
    assert torch.equal(first(q, k, v), second(q, k, v))


def masked(method, q, k, v, mask):
    """torch's own attention under the pattern, independent of our code."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@pytest.mark.parametrize("scale", [1.0, 60.0])  # 60: logits whose powers would overflow without a maximum
@pytest.mark.parametrize("n", [64, 131])
def test_b4_blocks_equal_a_boolean_mask_forward_and_backward(n, scale):
    method = make(n, block=8, random_blocks=1)
    inputs = draw(2, method.shape)
    q, k, v = inputs
    weights = torch.randn(q.shape, generator=torch.Generator().manual_seed(3), dtype=q.dtype)
    found = method(q * scale, k, v)
    wanted = masked(method, q * scale, k, v, by_loops(method, n, 3, 2))
    assert torch.allclose(found, wanted, atol=1e-11, rtol=0)
    for a, b in zip(*(torch.autograd.grad(x, inputs, weights) for x in (found, wanted)), strict=True):
        assert torch.allclose(a, b, atol=1e-10 * scale, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_b4_views_of_a_projection_and_scratch_of_few_lanes(monkeypatch, dtype):
    """q, k, v as a mixer gives them: not contiguous; and no more scratch than a head, or two batch rows."""
    method = make(70, heads=3, dtype=dtype)
    flat = torch.randn(5, 70, 3, 3, 3, generator=torch.Generator().manual_seed(4), dtype=dtype)
    views = [flat[:, :, i].transpose(1, 2).requires_grad_() for i in range(3)]
    wanted = method(*(x.detach().contiguous() for x in views))
    for rows in (1, 72, 72 * 3, 72 * 7):
        monkeypatch.setattr("methods.bigbird.lanes.SCRATCH_ROWS", rows)
        found = method(*views)
        assert torch.allclose(found, wanted, atol=1e-12 if dtype == torch.float64 else 1e-5)
        grads = torch.autograd.grad(found.sum(), views)
        reference = torch.autograd.grad(method.dense_reference(*views).sum(), views)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(grads, reference, strict=True))


@pytest.mark.parametrize("room", [1, 200, 1500])
@pytest.mark.parametrize("n", [64, 70])
def test_b4_groups_of_any_size(monkeypatch, room, n):
    """Few scores at a time: groups within a lane, neighbouring queries as views, global rows one by one."""
    monkeypatch.setattr("methods.ops.tiles.CACHED_SCORES", room)
    method = make(n)
    inputs = draw(2, method.shape)
    weights = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found, wanted = method(*inputs), method.dense_reference(*inputs)
    assert torch.allclose(found, wanted, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(x, inputs, weights) for x in (found, wanted)), strict=True):
        assert torch.allclose(a, b, atol=1e-11)


def test_b4_the_dense_backend_is_the_same_function():
    tiles, dense = make(77), make(77, backend="dense")
    q, k, v = draw(2, tiles.shape)
    mask = torch.zeros(2, 77, dtype=torch.bool)
    mask[0, 50:] = True
    for padding in (None, mask):
        assert torch.allclose(
            tiles(q, k, v, key_padding_mask=padding), dense(q, k, v, key_padding_mask=padding), atol=1e-12
        )
    assert (tiles.backend, dense.backend) == ("tiles", "sdpa:flash")


def test_b5_the_prefix_range_draws_from_the_first_1024_tokens():
    method = BigBird(Shape(2, 8, 4096), random_range="prefix")
    drawn = [drawn_blocks(method, 4096, head) for head in range(2)]
    assert max(key for plan in drawn for keys in plan.values() for key in keys) == 15
    assert all(len(set(keys)) == 3 for plan in drawn for keys in plan.values())
    everywhere = BigBird(Shape(2, 8, 4096))
    assert max(key for keys in drawn_blocks(everywhere, 4096, 0).values() for key in keys) > 40
    with pytest.raises(Unsupported, match=r"^random_range=prefix: block=256 .*first 1024 tokens"):
        BigBird(Shape(2, 8, 8192), block=256, random_range="prefix")


def test_b9_a_length_too_short_for_the_pattern_is_refused():
    for n in (1, 256, 448):
        with pytest.raises(
            Unsupported, match=rf"^seq_len={n}: BigBird with block=64 .*at least 449 tokens"
        ) as error:
            BigBird(Shape(2, 8, n))
        assert "\n" not in str(error.value)
    assert not BigBird(Shape(2, 8, 449)).blocks.is_short(8)
    assert BigBird(Shape(2, 8, 64), random_blocks=0).degenerate(64)


def test_b9_a_short_input_gets_the_random_blocks_that_exist():
    method = BigBird(Shape(2, 4, 4096), generator=torch.Generator().manual_seed(0)).double()
    for n in (1, 64, 300, 420):
        inputs = [x.detach() for x in draw(1, method.shape, n=n)]
        blocks = -(-n // 64)
        assert method.blocks.drawn(blocks).tolist() == [max(0, min(3, free(blocks, i))) for i in range(blocks)]
        assert torch.allclose(method(*inputs), method.dense_reference(*inputs), atol=1e-12)
    assert method.degenerate(420)
    assert not method.degenerate(4096)


def free(blocks, row):
    if row in (0, blocks - 1):
        return 0
    return blocks - len({0, blocks - 1, row - 1, row, row + 1} & {*range(blocks)})


def test_b9_padding_ends_a_row_and_holes_are_no_keys():
    method = make(80, block=8, random_blocks=1)
    q, k, v = draw(3, method.shape)
    mask = torch.zeros(3, 80, dtype=torch.bool)
    mask[0, 53:] = True
    mask[1, 20:37] = True
    mask[2] = True
    out = method(q, k, v, key_padding_mask=mask)
    assert bool((out[mask[:, None].expand(out.shape[:3])] == 0).all())
    for row, end in ((0, 53), (1, 80)):
        allowed = by_loops(method, end, 3, 2) & ~mask[row, :end]
        part = [x[row : row + 1, :, :end] for x in (q, k, v)]
        wanted = masked(method, *part, allowed)[0]
        real = ~mask[row, :end]
        assert torch.allclose(out[row, :, :end][:, real], wanted[:, real], atol=1e-12)
    grads = torch.autograd.grad(out.sum(), [q, k, v])
    spoilt = [x.detach().masked_fill(mask[:, None, :, None], float("nan")).requires_grad_() for x in (q, k, v)]
    again = method(*spoilt, key_padding_mask=mask)  # not even a NaN in padding spreads
    assert torch.allclose(again, out)
    found = torch.autograd.grad(again.sum(), spoilt)
    assert all(torch.allclose(a, b) for a, b in zip(found, grads, strict=True))


def test_b10_nothing_is_dropped_in_training():
    method = make(80)
    q, k, v = draw(2, method.shape)
    assert torch.equal(method.train()(q, k, v), method.eval()(q, k, v))


def test_b12_finding_the_furthest_vector_separates_it_from_full_attention():
    """B12: Proposition 1's task, with its weights Q(x) = -x, K(x) = V(x) = x: full attention needs one layer."""
    n, dim = 256, 8
    x = F.normalize(
        torch.randn(1, 1, n, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=-1
    )
    furthest = (x @ x.transpose(-1, -2)).argmin(dim=-1)[0, 0]

    def solved(method):
        out = method(-1e6 * x, x, x)[0, 0]
        return torch.cdist(out, x[0, 0]).argmin(dim=-1) == furthest

    shape = Shape(1, dim, n)
    assert bool(solved(build("full", shape)).all())
    sparse = BigBird(shape, block=8, generator=torch.Generator().manual_seed(0))
    seen = sparse.attended(n)[0][torch.arange(n), furthest]
    assert torch.equal(solved(sparse), seen)
    assert 0.15 < float(seen.double().mean()) < 0.45  # the pattern's density is 0.29


def test_d7_no_random_block_is_a_global_one_at_1024():
    method = BigBird(Shape(2, 4, 1024), generator=torch.Generator().manual_seed(0)).double()
    for head in range(2):
        assert all(len(keys) == 3 for keys in drawn_blocks(method, 1024, head).values())
    q, k, v = (x.detach() for x in draw(1, method.shape))
    wanted = masked(method, q, k, v, method.attended(1024))
    assert torch.allclose(method(q, k, v), wanted, atol=1e-12)
    for part in method._plan(16):
        assert all(len(set(keys)) == len(keys) for head in part.keys.tolist() for keys in head)


def test_d8_evaluation_draws_the_same_and_no_global_generator_moves():
    np.random.seed(5)
    random.seed(5)
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
    method = make(160, random_blocks=3)
    q, k, v = draw(1, method.shape)
    trained = method.train()(q, k, v)
    assert torch.equal(method.eval()(q, k, v), trained)
    drawn = drawn_blocks(method, 160, 0)
    assert all(len(set(keys)) == 3 and 0 not in keys for keys in drawn.values())
    assert (np.random.get_state()[1] == before[0]).all()
    assert random.getstate() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_nan_reaches_the_rows_that_see_its_block_and_no_others():
    method = make(96, block=4)
    q, k, v = (x.detach() for x in draw(1, method.shape))
    seen = method.attended(96)
    for tensor, spoils in (
        (k, seen[:, :, 40:44].any(-1)),
        (v, seen[:, :, 40:44].any(-1)),
        (q, torch.arange(96) == 41),
    ):
        held = tensor[:, :, 41].clone()
        tensor[:, :, 41] = float("nan")
        assert torch.equal(method(q, k, v).isnan().any(-1)[0], spoils.expand(2, 96))
        tensor[:, :, 41] = held


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"block": 0}, "block=0: expected an integer >= 1"),
        ({"window_blocks": 2}, "window_blocks=2: expected an odd number >= 1"),
        ({"global_blocks": -1}, "global_blocks=-1: expected"),
        ({"random_blocks": -1}, "random_blocks=-1: expected"),
        ({"random_range": "some"}, "random_range=some: expected one of all, prefix"),
        ({"backend": "magic"}, "backend=magic: expected one of"),
    ],
)
def test_parameters_outside_their_range_are_refused(params, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make(64, **params)


def test_budgets_by_layer():
    layers = BigBird.layers(
        Shape(1, 4, 640), 2, torch.Generator().manual_seed(0), block=[16, 32], random_blocks=[3, 1]
    )
    assert [(layer.block, layer.blocks.random_blocks) for layer in layers] == [(16, 3), (32, 1)]


def test_no_scores_are_kept_for_the_backward():
    method = make(4096, head_dim=16, block=64, random_blocks=3, dtype=torch.float32)
    inputs = draw(1, method.shape, dtype=torch.float32)
    kept = []

    def pack(x):
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        method(*inputs)
    assert sum(kept) <= 2 * 4096 * (4 * 16 + 1)
