"""Reformer against loops over candidates, the paper's equations and its claims (spec R2 to R12, R15, R17, D1)."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from methods.ops.tiles import Workspace
from methods.reformer import Reformer
from methods.reformer.hashing import hash_buckets, sort_by_bucket
from methods.reformer.recall import recall
from methods.registry import Encoder, Mixer, Shape, Unsupported
from tests.methods.conftest import draw


def made(shape: Shape, *, seed: int = 0, **params) -> Reformer:
    return Reformer(shape, generator=torch.Generator().manual_seed(seed), **params).double().eval()


def matrix(method: Reformer, q: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
    """The effective attention matrix `[B, H, N, N]`, read out through V = identity; head_dim must be N."""
    n = q.shape[-2]
    return method(
        q, q, torch.eye(n, dtype=q.dtype).expand(*q.shape[:2], n, n).contiguous(), key_padding_mask=padding
    )


def queries(n: int, heads: int = 2, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """`[batch, heads, n, n]`: vectors with similar ones among them, so that rounds find pairs again."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(batch, heads, 5, n, generator=generator, dtype=torch.float64)
    which = torch.randint(0, 5, (n,), generator=generator)
    return centres[:, :, which] + torch.randn(batch, heads, n, n, generator=generator, dtype=torch.float64)


def found_pairs(method: Reformer, q: torch.Tensor) -> list[list[list[list[int]]]]:
    """By loops: `[b][h][i]` -> every j that i may see, once for each time that a round holds the pair."""
    rules, n = method.rules, q.shape[-2]
    buckets = hash_buckets(q, method.frozen, method.factors, Workspace(q.device, q.dtype))
    orders = sort_by_bucket(buckets, 999, None)
    pairs = [[[[] for _ in range(n)] for _ in range(q.shape[1])] for _ in range(q.shape[0])]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            rounds = orders[b, h].tolist()
            chunks = [[order[i : i + rules.chunk] for i in range(0, n, rules.chunk)] for order in rounds]
            for r, cut in enumerate(chunks):
                ring = [chunk for each in chunks for chunk in each]
                for c, chunk in enumerate(cut):
                    for step in range(-rules.back, rules.ahead + 1):
                        if 0 <= c + step < len(cut):
                            keys = cut[c + step]
                        elif rules.wrap:
                            keys = ring[(r * len(cut) + c + step) % len(ring)]
                        else:
                            continue
                        for i in chunk:
                            for j in keys:
                                same = buckets[b, h, r, i] == buckets[b, h, r, j]
                                if j < i or (j > i and not rules.causal):
                                    pairs[b][h][i] += [j] if same or not rules.bucket_mask else []
    return pairs


def oracle(method: Reformer, q: torch.Tensor) -> torch.Tensor:
    """Rows proportional to N_ij exp(q_i . q_j / |q_j|), or with N_ij cut to one under deduplication."""
    out = torch.zeros(*q.shape[:-1], q.shape[-2], dtype=q.dtype)
    for b, heads in enumerate(found_pairs(method, q)):
        for h, rows in enumerate(heads):
            for i, keys in enumerate(rows):
                for j in set(keys) if method.rules.deduplicate else keys:
                    out[b, h, i, j] += math.exp(
                        float(q[b, h, i] @ q[b, h, j] / q[b, h, j].norm()) * method.rules.scale
                    )
                if not keys:
                    out[b, h, i, i] = 1.0
    return out / out.sum(dim=-1, keepdim=True)


VARIANTS = {
    "paper": {"bucket_mask": True},
    "chunks": {},
    "multiset": {"deduplicate": False},
    "multiset-of-buckets": {"deduplicate": False, "bucket_mask": True},
    "wrap": {"deduplicate": False, "wrap": True},
    "ahead": {"look_ahead": 1},
    "far": {"look_back": 2, "look_ahead": 1, "bucket_mask": True, "buckets": 4},
    "own-chunk": {"look_back": 0},
    "sqrt": {"scale": "sqrt"},
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_r6_r7_r8_r9_one_softmax_over_what_the_rounds_hold(variant, causal):
    """R6 chunks and their predecessors, R7 bucket mask, R8 multiset, R9 set: weights and support by loops."""
    n = 29
    method = made(Shape(2, n, n, causal), rounds=3, chunk=4, **VARIANTS[variant])
    q = queries(n)
    got, want = matrix(method, q), oracle(method, q)
    assert float((got - want).abs().max()) < 1e-12
    assert torch.equal(got > 0, want > 0)
    times = [len(keys) - len(set(keys)) for head in found_pairs(method, q)[0] for keys in head]
    assert sum(times) > 0  # pairs were found again, so that multiset and set differ


def test_r2_a_key_has_no_length():
    n = 12
    method = made(Shape(1, n, n), chunk=n)
    q = queries(n, heads=1)
    longer = q.clone()
    longer[0, 0, 5] *= 3.0
    before, after = matrix(method, q)[0, 0], matrix(method, longer)[0, 0]
    others = [i for i in range(n) if i != 5]
    assert float((after - before)[others].abs().max()) < 1e-14
    rest = before[5][others]
    assert float((after[5][others] - rest**3 / (rest**3).sum()).abs().max()) < 1e-12  # its logits times three


def test_r2_forward_ignores_k_and_gives_it_zeros():
    method = made(Shape(2, 8, 20), chunk=8)
    q, k, v = draw(1, method.shape)
    assert torch.equal(method(q, k, v), method(q, 2 * k + 1, v))
    gradient = torch.autograd.grad(method(q, k, v).sum(), k)[0]
    assert gradient.shape == k.shape
    assert not bool(gradient.any())
    assert gradient.untyped_storage().nbytes() == 8


def test_r2_the_mixer_projects_no_keys():
    mixer = Mixer(Reformer(Shape(2, 4, 12), chunk=4, generator=torch.Generator().manual_seed(0))).eval()
    assert mixer.qkv.weight.shape == (16, 8)
    hidden = torch.randn(3, 12, 8)
    q, v = (x.unflatten(-1, (2, 4)).transpose(1, 2) for x in mixer.qkv(hidden).split(8, dim=-1))
    assert torch.allclose(mixer(hidden), mixer.out(mixer.attention(q, q, v).transpose(1, 2).flatten(2)))
    assert mixer.flops(3, 12) - mixer.attention.flops(3, 12) == 2 * 3 * 12 * (16 * 8 + 8 * 8)


@pytest.mark.parametrize("scale", ["unit", "sqrt"])
def test_r3_d1_the_logit_scale(scale):
    """R3: q . k / |k|, on request over sqrt(D). D1: keys are normalised, logits not multiplied by sqrt(D)."""
    n = 16
    method = made(Shape(1, n, n), chunk=n, scale=scale)
    q = queries(n, heads=1)
    keys = q / q.norm(dim=-1, keepdim=True)
    logits = q @ keys.transpose(-1, -2) / (math.sqrt(n) if scale == "sqrt" else 1.0)
    want = logits.masked_fill(torch.eye(n, dtype=torch.bool), -math.inf).softmax(-1)
    assert float((matrix(method, q) - want).abs().max()) < 1e-13


@pytest.mark.parametrize("length", [0.01, 1.0, 400.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_r4_itself_only_when_alone(dtype, length):
    """Exact at any size of the logits: 400 is past the bound up to which |q| alone stabilises the softmax."""
    n = 40
    method = made(Shape(2, n, n, causal=True), chunk=8, rounds=2).to(dtype)
    q = (queries(n) * length).to(dtype)
    weights = matrix(method, q)
    assert bool((weights[:, :, 0, 0] == 1).all())
    assert float((weights.sum(-1) - 1).abs().max()) < 1e-5
    itself = weights.diagonal(dim1=-2, dim2=-1)
    alone = torch.tensor([[not keys for keys in head] for head in found_pairs(method, q)[0]])
    assert torch.equal(itself[0] == 1, alone | (weights.amax(-1)[0] == 1) & (itself[0] > 0.5))
    assert not bool(itself[0][~alone].any())
    assert 2 < int(alone.sum()) < n  # the first tokens of the first chunks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_r4_large_logits_are_as_exact_as_the_reference(dtype):
    shape = Shape(2, 8, 70)
    method = made(shape, chunk=16, rounds=2).to(dtype)
    q, k, v = draw(2, shape, dtype=dtype)
    q = (400 * q).detach().requires_grad_()
    got, want = method(q, k, v), method.dense_reference(q, k, v)
    close = 1e-11 if dtype == torch.float64 else 3e-4  # logits of 1000 have 1e-4 of rounding
    assert float((got - want).detach().abs().max()) < close
    gradients = [torch.autograd.grad(out.square().sum(), [q, v]) for out in (got, want)]
    for a, b in zip(*gradients, strict=True):
        assert float((a - b).abs().max() / b.abs().max()) < close


def test_c2_one_chunk_is_full_attention_of_shared_queries_without_itself():
    n = 33
    q = queries(n)
    want = F.normalize(q, dim=-1)
    logits = (q @ want.transpose(-1, -2)).masked_fill(torch.eye(n, dtype=torch.bool), -math.inf)
    for params in ({"rounds": 1}, {"rounds": 3}, {"rounds": 3, "deduplicate": False}, {"buckets": 2}):
        assert float((matrix(made(Shape(2, n, n), chunk=n, **params), q) - logits.softmax(-1)).abs().max()) < 1e-12


def leak(n: int, **params) -> tuple[float, float]:
    """(share of past rows that change when all tokens from n / 2 on change, largest change of a weight)."""
    method = made(Shape(2, n, n, causal=True), **params)
    q = queries(n)
    later = q.clone()
    later[:, :, n // 2 :] = queries(n, seed=9)[:, :, n // 2 :]
    change = (matrix(method, q) - matrix(method, later))[:, :, : n // 2].abs().amax(-1)
    return float((change > 1e-9).double().mean()), float(change.max())


def test_r10_which_keys_are_candidates_leaks_and_values_do_not():
    """The gradient from later tokens is exactly zero (the contract tests it); the choice of candidates is not free
    of them, unless buckets are masked and no larger than a chunk."""
    share, most = leak(64, chunk=8, rounds=2)
    assert 0.05 < share <= 1.0
    assert 0.01 < most <= 1.0
    assert leak(64, chunk=64, rounds=2, bucket_mask=True)[1] < 1e-12
    method = made(Shape(2, 64, 64, causal=True), chunk=32, rounds=2, buckets=16, bucket_mask=True)
    sizes = [
        hash_buckets(q, method.frozen, (16,), Workspace(q.device, q.dtype)).flatten(0, 2)
        for q in (queries(64), queries(64, seed=9))
    ]
    assert max(int(row.bincount().max()) for found in sizes for row in found) <= 32
    assert leak(64, chunk=32, rounds=2, buckets=16, bucket_mask=True)[1] < 1e-12


def test_r11_recall_grows_with_the_rounds():
    method = made(Shape(2, 16, 256), chunk=16)
    q = 2 * torch.randn(2, 2, 256, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = recall(method, q, [1, 2, 4, 8, 16], top_k=8)
    for one, more in pairwise(found):
        assert more.mass > one.mass
        assert more.top >= one.top
    by_chance = 32 / 256
    assert found[0].mass > 1.5 * by_chance
    assert found[-1].mass > 0.9
    everything = recall(made(Shape(2, 16, 64, causal=True), chunk=64), q[:, :, :64], [1])[0]
    assert everything.mass == pytest.approx(1.0)
    assert everything.top == pytest.approx(1.0)


def test_r11_recall_leaves_padding_out():
    method = made(Shape(2, 16, 64), chunk=8)
    q = torch.randn(1, 2, 64, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    padding = torch.zeros(1, 64, dtype=torch.bool)
    padding[:, 50:] = True
    spoilt = q.clone()
    spoilt[:, :, 50:] = 100.0
    alone = recall(method, q[:, :, :50], [2])[0]
    padded = recall(method, spoilt, [2], padding=padding)[0]
    assert (padded.mass, padded.top) == pytest.approx((alone.mass, alone.top))


def test_r12_evaluation_may_use_other_rounds_than_training():
    shape = Shape(2, 8, 64)
    method = made(shape, rounds=2, eval_rounds=6, chunk=8)
    q, k, v = draw(1, shape)
    assert method.frozen.shape[1] == 6
    more = made(shape, rounds=6, chunk=8)
    assert torch.equal(method(q, k, v), more(q, k, v))
    assert method.flops(1, 64) == 3 * method.train().flops(1, 64)
    assert method.rotations().shape[1] == 2
    assert not torch.equal(method(q, k, v), more(q, k, v))


def test_r13_draws_replay_and_are_frozen_in_evaluation():
    """D1: other hashes in each layer and step. A draw set back is the same draw (reversible layers need that)."""
    shape = Shape(2, 8, 64)
    method = made(shape, chunk=8, rounds=1).train()
    q, k, v = draw(1, shape)
    first, second = method(q, k, v), method(q, k, v)
    assert method.draw_index == 2
    assert not torch.equal(first, second)
    method.draw_index = 0
    assert torch.equal(method.dense_reference(q, k, v), method.dense_reference(q, k, v))
    assert torch.allclose(method.dense_reference(q, k, v), first)
    assert torch.equal(method(q, k, v), first)
    method.eval()
    assert torch.equal(method(q, k, v), method(q, k, v))
    assert method.draw_index == 1
    layers = Reformer.layers(shape, 2, torch.Generator().manual_seed(0))
    assert not torch.equal(layers[0].frozen, layers[1].frozen)
    assert layers[0].seed != layers[1].seed


def test_r15_pads_anywhere_are_as_if_absent():
    n = 40
    real = [i for i in range(n) if i % 3 and i not in (38, 39)]
    padding = torch.ones(1, n, dtype=torch.bool)
    padding[:, real] = False
    for causal in (False, True):
        for rules in ({}, {"bucket_mask": True}, {"deduplicate": False, "look_ahead": 1}):
            method = made(Shape(2, 8, n, causal), rounds=3, chunk=4, **rules)
            q, k, v = (x.detach() for x in draw(1, method.shape))
            q[:, :, padding[0]], v[:, :, padding[0]] = 1e4, math.nan
            out = method(q, k, v, key_padding_mask=padding)
            assert torch.allclose(out[:, :, real], method(q[:, :, real], k[:, :, real], v[:, :, real]))
            assert not bool(out[:, :, padding[0]].any())


def test_d1_cost_grows_with_the_length_and_not_with_its_square():
    """The number of buckets follows N, so that a chunk stays a chunk."""
    costs = [Reformer(Shape(8, 64, n)).flops(1, n) for n in (1024, 4096, 16384, 65536)]
    for one, more in pairwise(costs):
        assert 3.3 < more / one < 4.9  # 4^0.86 to 4^1.15
    quadratic = 4 * 8 * 65536**2 * 64
    assert costs[-1] < 0.02 * quadratic


def test_small_heads_and_long_ones_agree():
    """Short inputs are handled several heads and batch rows at a time, long ones head by head."""
    shape = Shape(3, 4, 1100)
    method = made(shape, chunk=16, rounds=2)
    q, k, v = (x.detach() for x in draw(2, shape))
    for n in (5, 100, 1100):
        part = [x[:, :, :n] for x in (q, k, v)]
        together = method(*part)
        for b in range(2):
            assert torch.allclose(method(*(x[b : b + 1] for x in part)), together[b : b + 1])


def test_parameters_out_of_range_are_refused():
    shape = Shape(1, 4, 16)
    for name, value in (("rounds", 0), ("chunk", 0), ("eval_rounds", 0), ("look_back", -1), ("look_ahead", -1)):
        with pytest.raises(ValueError, match=rf"^{name}={value}: expected an integer >="):
            Reformer(shape, **{name: value})
    with pytest.raises(ValueError, match=r"^scale=half: expected unit or sqrt"):
        Reformer(shape, scale="half")
    for name, params in (("deduplicate", {}), ("bucket_mask", {"deduplicate": False, "bucket_mask": True})):
        with pytest.raises(Unsupported, match=f"wrap=true.*{name}=false"):
            Reformer(shape, wrap=True, **params)


def test_nan_stays_in_its_head():
    shape = Shape(3, 8, 32)
    method = made(shape, chunk=8)
    q, k, v = (x.detach() for x in draw(2, shape))
    clean = method(q, k, v)
    v[0, 1, 7] = math.nan
    q[1, 2, 3] = math.inf
    out = method(q, k, v)
    assert bool(out[0, 1].isnan().any())
    assert bool(out[1, 2].isnan().any())
    for b, h in ((0, 0), (0, 2), (1, 0), (1, 1)):
        assert torch.allclose(out[b, h], clean[b, h])


def test_r17_learns_to_repeat_a_word():
    """R17: 0w0w, the paper's duplication task, small: the second w from the first."""
    word, symbols, chunk = 23, 12, 8
    n = 2 * word + 2
    torch.manual_seed(0)
    attention = Reformer.layers(
        Shape(2, 32, n, causal=True), 1, torch.Generator().manual_seed(0), rounds=4, chunk=chunk, eval_rounds=8
    )
    model = Encoder(attention, vocab_size=symbols + 1, ff_dim=64)
    head = torch.nn.Linear(64, symbols + 1)
    optimiser = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=1e-2)
    generator = torch.Generator().manual_seed(1)

    def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        w = torch.randint(1, symbols + 1, (size, word), generator=generator)
        zero = torch.zeros(size, 1, dtype=torch.long)
        return torch.cat([zero, w, zero, w], dim=1), w

    for _ in range(120):
        tokens, w = batch(16)
        loss = F.cross_entropy(head(model(tokens))[:, word + 1 : -1].flatten(0, 1), w.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    tokens, w = batch(32)
    with torch.no_grad():
        right = head(model(tokens))[:, word + 1 : -1].argmax(-1) == w
    assert float(right.double().mean()) > 0.95
