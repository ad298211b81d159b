"""Third-party code beside ours: equal where the definitions agree, and each deviation of theirs at work."""

from __future__ import annotations

import inspect
import math
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.adapters.lsh import pair_counts
from methods.adapters.seams import seeded
from methods.registry import METHODS, Shape
from tests.methods.conftest import build, draw, padding
from tests.methods.deviations import DEVIATIONS
from tests.methods.test_contract import gap


def package(name: str) -> ModuleType:
    return pytest.importorskip(name, exc_type=ImportError)


def agree(ours, theirs, inputs, tolerance, mask=None):
    """Values and gradients of q, k, v at real tokens; a gradient that one side does not have is not compared."""
    real = torch.ones(len(inputs[0]), inputs[0].shape[2], dtype=torch.bool) if mask is None else ~mask
    weights = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(inputs[0].dtype)
    weights = weights * real[:, None, :, None]
    results = []
    for method in (ours, theirs):
        out = method(*inputs, key_padding_mask=mask) * real[:, None, :, None]
        results.append((out, *torch.autograd.grad(out, inputs, weights, allow_unused=True)))
    gaps = [gap(a, b) for a, b in zip(*results, strict=True) if a is not None and b is not None]
    assert len(gaps) >= 3
    assert max(gaps) < tolerance


def effective(method, q, k) -> Tensor:
    """A_eff `[B, H, N, N]` of what is linear in v, column block by column block."""
    n, dim = q.shape[-2:]
    columns = []
    for start in range(0, n, dim):
        width = min(dim, n - start)
        probe = torch.zeros_like(q)
        probe[..., start + torch.arange(width), torch.arange(width)] = 1.0
        columns.append(method(q, k, probe).detach()[..., :width])
    return torch.cat(columns, dim=-1)


def test_every_listed_deviation_is_of_a_registered_method():
    assert {name.removesuffix("-causal") for name in DEVIATIONS} <= set(METHODS)


# Equal to ours


@pytest.mark.parametrize("padded", [False, True])
def test_hf_longformer_equals_ours(padded):
    shape = Shape(2, 8, 96)
    params = {"window": 16, "global_tokens": 3}
    ours, theirs = (build(name, shape, torch.float32, **params) for name in ("longformer", "hf_longformer"))
    inputs = draw(2, shape, dtype=torch.float32)
    agree(ours, theirs, inputs, 1e-5, padding(2, 96) if padded else None)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_lucidrains_local_equals_longformer_without_globals(causal, padded):
    shape = Shape(2, 8, 100, causal)
    ours = build("longformer", shape, window=16, global_tokens=0)
    agree(
        ours,
        build("lucidrains_local", shape, window=16),
        draw(2, shape),
        1e-11,
        padding(2, 100) if padded else None,
    )


def test_hf_bigbird_in_training_equals_ours_under_its_plan():
    shape = Shape(2, 8, 64)
    params = {"block": 4, "random_blocks": 2}
    theirs, ours = build("hf_bigbird", shape, **params).train(), build("bigbird", shape, **params)
    counts = theirs.counts(64)
    assert int(counts.max()) == 1  # at this length its plan is without repetition
    rows = type(ours._plan(16)[0])
    table = [  # the two global rows, the two beside them, the others
        rows(
            torch.tensor(at),
            torch.stack([torch.stack([held[i].nonzero()[:, 0] for i in at]) for held in counts]),
            whole,
            None,
        )
        for at, whole in (([0, 15], True), ([1, 14], False), (list(range(2, 14)), False))
    ]
    ours._plans[16, torch.device("cpu")] = table
    agree(ours, theirs, draw(2, shape), 1e-11)


def rotations(theirs, shape, heads, buckets) -> Tensor:
    """What their hash draws, as ours holds it: `[H, rounds, D, buckets / 2]`."""
    with seeded(theirs.seed):
        drawn = torch.randn(heads, shape.head_dim, theirs.rounds, buckets // 2, dtype=torch.float64)
    return drawn.transpose(1, 2).expand(shape.heads, -1, -1, -1).clone()


@pytest.mark.parametrize("causal", [False, True])
def test_hf_reformer_equals_ours_under_its_rotations_and_rules(causal):
    shape = Shape(2, 8, 64, causal)
    params = {"rounds": 2, "chunk": 8}
    theirs = build("hf_reformer", shape, **params).eval()
    ours = build("reformer", shape, **params, deduplicate=False, wrap=True).eval()
    ours.frozen = rotations(theirs, shape, 2, 16)
    agree(ours, theirs, draw(2, shape), 5e-5)  # it adds 1e-6 to the mean square of a key


@pytest.mark.parametrize("clean", [False, True], ids=["as shipped", "dedupe and own bucket"])
@pytest.mark.parametrize("causal", [False, True])
def test_lucidrains_reformer_equals_ours_under_its_rotations_and_rules(causal, clean):
    shape = Shape(2, 8, 64, causal)
    params = {"rounds": 3, "chunk": 8}
    theirs = build("lucidrains_reformer", shape, **params, dedupe=clean, own_bucket=clean).eval()
    rules = {"deduplicate": clean, "bucket_mask": clean, "wrap": not clean, "scale": "sqrt", "buckets": 8}
    ours = build("reformer", shape, **params, **rules).eval()
    ours.frozen = rotations(theirs, shape, 1, 8)
    agree(ours, theirs, draw(2, shape), 1e-7 if clean else 1e-11)  # it adds 1e-9 to a count, in float32


def test_lucidrains_linformer_equals_ours_with_its_projections():
    shape = Shape(2, 8, 40)
    ours, theirs = (
        build("linformer", shape, rank=6, sharing="headwise"),
        build("lucidrains_linformer", shape, rank=6),
    )
    with torch.no_grad():
        ours.E.copy_(theirs.attention.proj_k.T[None])
        ours.F.copy_(theirs.attention.proj_v.T[None])
    agree(ours, theirs, draw(2, shape), 1e-11)
    shorter = [x[:, :, :29] for x in draw(2, shape)]
    assert gap(ours(*shorter), theirs(*shorter)) < 1e-11


def test_lucidrains_performer_equals_ours_with_its_features():
    performer = package("performer_pytorch.performer_pytorch")
    shape = Shape(2, 8, 40)
    theirs, ours = (
        build("lucidrains_performer", shape, features=24),
        build("performer", shape, features=24, eps=0.0),
    )
    ours.projection.copy_(theirs.attention.projection_matrix)
    ours.eval()
    inputs = draw(2, shape)
    q, k, v = inputs
    features = [
        performer.softmax_kernel(x, projection_matrix=ours.projection, is_query=x is q, eps=0.0) for x in (q, k)
    ]
    assert gap(performer.linear_attention(*features, v), ours(*inputs)) < 1e-11
    assert 1e-3 < gap(theirs(*inputs), ours(*inputs)) < 0.2  # its eps of 1e-4, under one maximum for all keys


@pytest.mark.parametrize("name", ["hf_nystromformer", "lucidrains_nystromformer"])
def test_nystromformers_equal_ours_where_nothing_is_coupled(name):
    shape = Shape(1, 8, 48)
    agree(build("nystromformer", shape, landmarks=6), build(name, shape, landmarks=6), draw(1, shape), 1e-10)


# How they deviate: Longformer


def test_hf_longformer_has_no_dilation_no_causal_form_and_softmax_in_float32():
    longformer = package("transformers.models.longformer.modeling_longformer")
    source = inspect.getsource(longformer.LongformerSelfAttention)
    assert not [word for word in ("dilat", "causal", "autoregressive") if word in source]
    shape = Shape(1, 8, 32)
    method = build("hf_longformer", shape, torch.float32, window=8).double()
    inputs = draw(1, shape)
    error = gap(method(*inputs), method.dense_reference(*inputs))
    assert 1e-9 < error < 1e-5


def test_local_attention_sees_whole_blocks_by_default_and_attends_to_the_zeros_it_pads_with():
    local = package("local_attention")
    q, k = torch.randn(2, 1, 12, 4, generator=torch.Generator().manual_seed(0))
    seen = [0, 0]
    for exact in (False, True):
        attention = local.LocalAttention(4, exact_windowsize=exact, use_rotary_pos_emb=False)
        weights = attention(q, k, torch.eye(12)[None])
        seen[exact] = int((weights[0, 4] > 0).sum()), int((weights[0, 7] > 0).sum())
    assert seen == [(12, 12), (9, 9)]  # rows 4 and 7 at exactly 4 a side; by default 4 or 7 to the left
    padded = local.LocalAttention(4, autopad=True, use_rotary_pos_emb=False)
    assert float(padded(q[:, :6], k[:, :6], torch.ones(1, 6, 4)).min()) < 0.9  # a mean of ones


# BigBird


def test_d8_hf_bigbird_counts_block_0_again_for_every_random_block_in_evaluation():
    shape = Shape(2, 8, 64)
    method = build("hf_bigbird", shape, block=4, random_blocks=2).eval()
    q = k = torch.zeros(1, 2, 64, 8, dtype=torch.float64)
    middle = effective(method, q, k)[:, :, 8 * 4]
    assert torch.allclose(middle[..., :4].sum(-1), torch.tensor(3 / 7, dtype=torch.float64))  # 1 + r of 5 + r
    assert torch.allclose(effective(method.train(), q, k)[:, :, 8 * 4, :4].sum(-1), torch.tensor(1 / 7).double())


def test_d8_hf_bigbird_reseeds_numpy_in_training_which_the_adapter_keeps_to_itself(monkeypatch):
    shape = Shape(2, 8, 64)
    method = build("hf_bigbird", shape, block=4, random_blocks=2).train()
    seeds = []
    real = np.random.seed
    monkeypatch.setattr(np.random, "seed", lambda seed: (seeds.append(seed), real(seed)))
    before = np.random.get_state()[1].copy()
    method(*draw(1, shape))
    method(*draw(1, shape))
    assert seeds.count(method.seed) >= 2  # each forward, always the same
    assert np.array_equal(before, np.random.get_state()[1])


def test_hf_bigbird_draws_from_a_prefix_and_makes_all_probabilities():
    method = build("hf_bigbird", Shape(2, 8, 3072), block=64, random_blocks=3).train()
    assert int(method.random_plan(3072).max()) < 1024 // 64
    assert int(method.random_plan(2048).max()) < 2 * 3 + 5
    small = build("hf_bigbird", Shape(2, 8, 64), block=4, random_blocks=2)
    made = []
    small.attention.register_forward_hook(lambda module, args, out: made.append(out[1].shape))
    small(*draw(1, small.shape))
    assert made == [(1, 2, 64, 64)]


def test_b9_hf_bigbird_s_model_falls_back_to_full_attention_and_stays_there():
    bigbird = package("transformers.models.big_bird.modeling_big_bird")
    config = bigbird.BigBirdConfig(
        vocab_size=9,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
        block_size=2,
        num_random_blocks=1,
        attention_type="block_sparse",
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        sep_token_id=3,
    )
    with seeded(0):
        model = bigbird.BigBirdModel(config).eval()
    for tokens in (40, 14, 40):
        model(torch.full((1, tokens), 5))
        expected = "block_sparse" if tokens == 40 and not hasattr(model, "was_short") else "original_full"
        assert model.attention_type == expected
        if tokens == 14:
            model.was_short = True


# Reformer


def seam_pairs(buckets, chunk):
    """Pairs that meet only across the seam of two rounds."""
    all_pairs = pair_counts(buckets, chunk)
    return (all_pairs > 0) & (pair_counts(buckets, chunk, same_round=True) == 0)


def test_lucidrains_reformer_wraps_counts_twice_and_blows_up_pairs_of_the_seam():
    shape = Shape(1, 8, 64)
    params = {"rounds": 2, "chunk": 4}
    plain, dedupe = (build("lucidrains_reformer", shape, **params, dedupe=d).eval() for d in (False, True))
    q = draw(1, shape)[0].detach()
    with seeded(plain.seed):
        buckets = plain.attention.hash_vectors(16, q[0], set_cache=False).view(1, 1, 2, 64)
    seam = seam_pairs(buckets, 4)
    assert bool(seam.any())
    weights = effective(plain, q, q)
    assert bool((weights[seam] > 0).all())  # chunk 0 of a round looks back at the last of another round
    times = pair_counts(buckets, 4)
    logits = (q @ torch.nn.functional.normalize(q, dim=-1).transpose(-1, -2)) * 8**-0.5
    twice = (times == 2) & (~torch.eye(64, dtype=torch.bool))
    row, once, double = next(
        (i, int((times[0, 0, i] == 1).nonzero()[0]), int(twice[0, 0, i].nonzero()[0]))
        for i in range(64)
        if bool(twice[0, 0, i].any()) and bool((times[0, 0, i] == 1).any())
    )
    ratio = weights[0, 0, row, double] / weights[0, 0, row, once]
    assert float(ratio) == pytest.approx(2 * float((logits[0, 0, row, double] - logits[0, 0, row, once]).exp()))
    rows = seam[0, 0].any(-1)
    share = (effective(dedupe, q, q)[0, 0] * seam[0, 0]).sum(-1)
    assert float(share[rows].min()) > 0.99  # e^20.7 each: log(0 + 1e-9) is subtracted
    assert bool((share[~rows] == 0).all())


def test_hf_reformer_keeps_the_first_number_of_buckets_and_reseeds_torch():
    method = build("hf_reformer", Shape(2, 8, 256), rounds=2, chunk=8).eval()
    method(*draw(1, method.shape, n=64))
    assert method.attention.num_buckets == 16
    q = draw(1, method.shape)[0].detach().transpose(1, 2).flatten(2)
    method.attention.query_key.give(q)
    method.attention.value.give(q)
    with seeded(0):
        method.attention(q)  # the module itself, with 256 tokens now
        assert method.attention.num_buckets == 16
        method(*draw(1, method.shape))
        assert method.attention.num_buckets == [8, 8]  # what it would have chosen, and the adapter lets it
        method.attention.hash_seed = 7
        states = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            method.attention.query_key.give(q)
            method.attention.value.give(q)
            method.attention(q)
            states.append(torch.get_rng_state())
        assert torch.equal(*states)


def test_reformers_lose_weight_of_a_lone_token_in_float32():
    for name, logit in (("hf_reformer", -1e5), ("lucidrains_reformer", -5e4)):
        shape = Shape(1, 8, 64, causal=True)
        method = build(name, shape, torch.float32, rounds=3, chunk=8)
        q, k, v = (x.detach() for x in draw(1, shape, dtype=torch.float32))
        share = float(method(q, k, torch.ones_like(v))[0, 0, 0, 0])  # the first token sees itself alone, weight 1
        step = torch.finfo(torch.float32).eps * 2 ** math.floor(math.log2(-logit))
        assert 1e-4 < abs(share - 1) < 3 * step


def test_reformers_hash_anew_in_training_and_a_draw_can_be_replayed():
    for name in ("hf_reformer", "lucidrains_reformer"):
        method = build(name, Shape(2, 8, 64), rounds=1, chunk=4).train()
        inputs = draw(1, method.shape)
        first, second = method(*inputs), method(*inputs)
        method.draw_index = 0
        assert torch.equal(first, method(*inputs))
        assert not torch.equal(first, second)
        method.eval()
        assert torch.equal(method(*inputs), method(*inputs))


# Linformer, Performer


def test_linformer_swallows_a_mask():
    linformer = package("linformer")
    with seeded(0):
        module = linformer.LinformerSelfAttention(8, 10, k=4, heads=2)
        x = torch.randn(1, 10, 8)
    mask = torch.arange(10)[None] < 6
    assert torch.equal(module(x), module(x, mask=mask))


def test_p7_performer_pytorch_is_biased_without_the_sign_fix():
    performer = package("performer_pytorch.performer_pytorch")
    with seeded(0):
        drawn = performer.gaussian_orthogonal_random_matrix(8 * 400, 8).view(400, 8, 8)
    assert bool((drawn[:, 0, 0] < 0).all())  # a Gaussian is positive half the time
    estimate = drawn[..., 0].exp().mean() / torch.tensor(0.5).exp()  # of E exp(w . e_1) = e^(1/2)
    assert -0.14 < float(estimate) - 1 < -0.03  # exactly -8.5 %


def test_p10_performer_pytorch_gives_padding_a_share_of_the_normaliser():
    performer = package("performer_pytorch")
    with seeded(0):
        module = performer.SelfAttention(8, heads=1, dim_head=8, nb_features=16).eval()
        x = torch.randn(1, 12, 8)
    mask = torch.arange(12)[None] < 8
    assert gap(module(x, mask=mask)[:, :8], module(x[:, :8])) > 1e-2


def test_d12_performer_pytorch_takes_chunk_size_for_a_count(monkeypatch):
    performer = package("performer_pytorch.performer_pytorch")
    q, k, v = torch.rand(3, 1, 1, 16, 4, generator=torch.Generator().manual_seed(0))
    pieces = []
    real = torch.einsum
    monkeypatch.setattr(torch, "einsum", lambda *args: (pieces.append(args[2].shape[-2]), real(*args))[1])
    performer.causal_linear_attention_noncuda(q, k, v, chunk_size=2)
    assert set(pieces) == {8}  # two chunks of 8 tokens, not eight of 2


# Nystromformer


@pytest.mark.parametrize("name", ["hf_nystromformer", "lucidrains_nystromformer"])
def test_d5_nystromformers_couple_the_rows_of_a_batch(name):
    method = build(name, Shape(1, 8, 48), landmarks=6)
    q, k, v = (x.detach() for x in draw(2, method.shape))
    alone = method(q[:1], k[:1], v[:1])
    q[1], k[1], k[1, :, :8] = 1.0, 0.0, 5.0  # every landmark on the first: the largest column sum there is
    assert gap(method(q, k, v)[:1], alone) > 1e-9


@pytest.mark.parametrize("name", ["hf_nystromformer", "lucidrains_nystromformer"])
def test_nystromformers_fail_in_half_precision(name):
    method = build(name, Shape(1, 8, 48), torch.float32, landmarks=6).bfloat16()
    with pytest.raises(RuntimeError, match=r"scalar type|dtype"):
        method(*draw(1, method.shape, dtype=torch.bfloat16))


def test_nystrom_attention_attends_to_the_zeros_it_pads_with_unless_it_gets_a_mask():
    nystrom = package("nystrom_attention")
    with seeded(0):
        module = nystrom.NystromAttention(8, 8, heads=1, num_landmarks=4, residual=False)
        x = torch.randn(1, 10, 8)
    real = torch.ones(1, 10, dtype=torch.bool)
    assert gap(module(x), module(x, mask=real)) > 1e-3


def test_hf_nystromformer_means_include_padding():
    method = build("hf_nystromformer", Shape(1, 8, 48), landmarks=6)
    inner = method.attention
    q = draw(1, method.shape)[0].detach().transpose(1, 2)
    mask = torch.zeros(1, 1, 1, 48, dtype=torch.float64)
    mask[..., 40:] = torch.finfo(torch.float64).min
    inner.seq_len = 48
    found = []
    for content in (0.0, 3.0):
        padded = q.clone()
        padded[:, 40:] = content
        for projection in (inner.query, inner.key, inner.value):
            projection.give(padded)
        found.append(inner(padded.flatten(2), attention_mask=mask)[0][:, :40])
    assert gap(*found) > 1e-3
