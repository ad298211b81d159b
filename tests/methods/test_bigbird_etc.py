"""BigBird-ETC: global tokens before the others, relative positions, the contrastive loss, the graph."""

import math

import numpy as np
import pytest
import torch

from methods.bigbird import BigBird, BigBirdETC
from methods.bigbird.cpc import cpc_loss, masked_sentences, mixed_loss
from methods.bigbird.graph import diagnose
from methods.registry import Shape
from tests.methods.conftest import draw


def make(n, heads=2, head_dim=3, **params):
    params = {"block": 4, "global_tokens": 3, "max_distance": 2, **params}
    return BigBirdETC(Shape(heads, head_dim, n), generator=torch.Generator().manual_seed(0), **params).double()


def adjacency(n, globals_, block, window, drawn):
    """B of section 2: g rows and columns of ones before the pattern of the others."""
    mask = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(n):
            row, key = (i - globals_) // block, (j - globals_) // block
            mask[i, j] = i < globals_ or j < globals_ or abs(row - key) <= window // 2 or key in drawn.get(row, ())
    return mask


@pytest.mark.parametrize(("globals_", "drawn"), [(3, 0), (4, 2), (0, 2), (6, 1), (50, 0)])
@pytest.mark.parametrize("n", [2, 45, 67])
def test_b6_equals_the_dense_mask_over_global_and_other_tokens(n, globals_, drawn):
    method = make(n, global_tokens=globals_, random_blocks=drawn, max_distance=0, allow_short=True)
    q, k, v = draw(2, method.shape)
    front = -(-globals_ // 4)
    chosen = [{}, {}]
    for part in method._plan(method.layout(n).blocks):
        for head in range(2):
            for row, keys in zip(part.rows.tolist(), part.keys[head].tolist(), strict=True):
                near = (row - 1, row, row + 1)
                chosen[head][row - front] = [key - front for key in keys if key >= front and key not in near]
                assert row < front or len(chosen[head][row - front]) <= drawn
    mask = torch.stack([adjacency(n, globals_, 4, 3, held) for held in chosen])
    assert torch.equal(method.attended(n), mask)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert torch.allclose(method(q, k, v), wanted, atol=1e-12)


def test_b6_without_global_tokens_it_is_window_and_random_blocks():
    etc = make(64, global_tokens=0, random_blocks=2, max_distance=0)
    itc = BigBird(
        Shape(2, 3, 64), block=4, global_blocks=0, random_blocks=2, generator=torch.Generator().manual_seed(0)
    ).double()
    inputs = draw(2, etc.shape)
    assert torch.equal(etc(*inputs), itc(*inputs))


def relative_by_loops(method, q, k, v):
    """A pair at a time: q_i . (k_j + a[label]) / sqrt(D), and one softmax a row."""
    n, reach, globals_ = q.shape[2], method.reach, method.front_tokens
    allowed = method.attended(n)
    out = torch.zeros_like(q)
    for head in range(q.shape[1]):
        for i in range(n):
            keys = [j for j in range(n) if allowed[head, i, j]]
            labels = []
            for j in keys:
                if (i < globals_) == (j < globals_):
                    labels.append(max(-reach, min(reach, j - i)) + reach)
                else:
                    labels.append(2 * reach + (1 if i < globals_ else 2))
            shifted = k[0, head, keys] + method.table[head, labels]
            weights = (shifted @ q[0, head, i] / math.sqrt(q.shape[3])).softmax(dim=0)
            out[0, head, i] = weights @ v[0, head, keys]
    return out


@pytest.mark.parametrize(("globals_", "reach", "window"), [(3, 2, 3), (0, 6, 3), (5, 1, 1), (4, 9, 5)])
def test_b7_relative_vectors_are_added_to_the_keys(globals_, reach, window):
    method = make(
        43, global_tokens=globals_, max_distance=reach, window_blocks=window, random_blocks=1, allow_short=True
    )
    with torch.no_grad():
        method.table.mul_(50)  # 0.02 at initialisation would hide a wrong label
    q, k, v = draw(1, method.shape)
    found, wanted = method(q, k, v), relative_by_loops(method, q, k, v)
    assert torch.allclose(found, wanted, atol=1e-12)
    weights = torch.randn(q.shape, generator=torch.Generator().manual_seed(3), dtype=q.dtype)
    own, loops = (torch.autograd.grad(x, [q, k, v, method.table], weights) for x in (found, wanted))
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(own, loops, strict=True))


def test_b7_logits_do_not_change_when_both_tokens_move():
    """With one query and one key everywhere, the logit is the label's alone: equal along every diagonal."""
    n, globals_ = 60, 5
    method = make(n, global_tokens=globals_)
    q = torch.ones(1, 2, 1, 3, dtype=torch.float64).expand(1, 2, n, 3)
    labels = method.labels(n)[globals_:, globals_:]
    logits = (q @ method.table.transpose(1, 2))[0, 0, globals_:].gather(1, labels)
    for shift in (1, 7, 20):
        assert torch.equal(logits[shift:, shift:], logits[:-shift, :-shift])
    whole = make(n, global_tokens=0, window_blocks=31)  # every block in the window
    eye = torch.eye(n, dtype=torch.float64)
    parts = [whole(q, q, eye[:, at : at + 3].expand(1, 2, n, 3))[0, 0] for at in range(0, n, 3)]
    log = torch.cat(parts, dim=1).log()
    log = log - log.diagonal()[:, None]  # relative to the own logit
    assert torch.allclose(log[1:, 1:], log[:-1, :-1], atol=1e-12)


def test_b7_parameters_do_not_grow_with_the_length():
    counts = {sum(p.numel() for p in make(n, max_distance=12).parameters()) for n in (64, 640)}
    assert counts == {2 * (2 * 12 + 3) * 3}


def test_b8_constant_sentences_cost_the_log_of_the_batch():
    same = torch.ones(7, 5, dtype=torch.float64)
    assert cpc_loss(same, same).item() == pytest.approx(math.log(7), abs=1e-12)


def test_b8_identical_pairs_cost_nothing_at_low_temperature():
    x = torch.randn(9, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = [cpc_loss(x, x, temperature=t, normalise=True).item() for t in (1.0, 0.1, 0.01)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 1e-9


def test_b8_the_order_of_the_negatives_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randn(8, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    order = torch.randperm(8, generator=generator)
    assert torch.allclose(cpc_loss(one, two), cpc_loss(one[order], two[order]), atol=1e-12)
    by_hand = -sum((one @ two.T).log_softmax(dim=1)[i, i] for i in range(8)) / 8
    assert torch.allclose(cpc_loss(one, two), by_hand)


def test_b8_mixture_share_and_refusals():
    assert mixed_loss(torch.tensor(1.0), torch.tensor(2.0)).item() == pytest.approx(0.8 + 0.4)
    assert [int(masked_sentences(n, torch.Generator().manual_seed(0)).sum()) for n in (1, 10, 100)] == [1, 1, 10]
    with pytest.raises(ValueError, match=r"^temperature=0: expected"):
        cpc_loss(torch.ones(2, 2), torch.ones(2, 2), temperature=0)
    for bad in (torch.ones(3, 2), torch.ones(2)):
        with pytest.raises(ValueError, match=r"^predicted="):
            cpc_loss(torch.ones(2, 2), bad)


def ring(nodes, each_side):
    at = np.arange(nodes)
    apart = np.abs(at[:, None] - at)
    return np.minimum(apart, nodes - apart) <= each_side


def test_b11_diagnostics_of_graphs_with_known_numbers():
    whole = diagnose(np.ones((6, 6), dtype=bool))
    assert (whole.path_length, whole.clustering) == (1.0, pytest.approx(1.0))
    assert whole.spectral_gap == pytest.approx(1.0)
    lattice = diagnose(ring(20, 2))  # Watts and Strogatz: clustering 3 (k - 2) / (4 (k - 1)) at degree k = 4
    assert lattice.clustering == pytest.approx(0.5)
    assert lattice.path_length == pytest.approx(np.mean([math.ceil(min(d, 20 - d) / 2) for d in range(1, 20)]))
    top = max(abs((1 + 2 * math.cos(w) + 2 * math.cos(2 * w)) / 5) for w in [2 * math.pi / 20])
    assert lattice.spectral_gap == pytest.approx(1 - top)
    assert diagnose(np.eye(3, dtype=bool)).path_length == math.inf
    with pytest.raises(ValueError, match=r"^adjacency=\[2, 3\]"):
        diagnose(np.ones((2, 3)))


def test_b11_the_union_has_short_paths_and_still_clusters():
    shape, blocks = Shape(1, 4, 64 * 64), 64

    def graph(**params):
        method = BigBird(shape, generator=torch.Generator().manual_seed(0), **params)
        return diagnose(method.blocks.matrix(blocks, 1, (0, 0))[0].numpy())

    window = graph(global_blocks=0, random_blocks=0, window_blocks=5)
    random = graph(global_blocks=0, random_blocks=3, window_blocks=1)
    union = graph(global_blocks=0, random_blocks=3, window_blocks=5)
    complete = graph()
    assert union.path_length < 0.4 * window.path_length
    assert union.clustering > 2 * random.clustering
    assert union.spectral_gap > 10 * window.spectral_gap
    assert complete.path_length < 2  # a global block is one step from everything


@pytest.mark.parametrize(
    ("params", "message"),
    [({"global_tokens": -1}, "global_tokens=-1: expected"), ({"max_distance": -1}, "max_distance=-1: expected")],
)
def test_parameters_outside_their_range_are_refused(params, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make(64, **params)
