from __future__ import annotations

import numpy as np
import pytest

from tasks.drawn import distinct
from tasks.mqar import MQAR
from tasks.registry import IGNORE

FEW = {"train_examples": 1000, "dev_examples": 50, "test_examples": 50}


@pytest.mark.parametrize("filler", [True, False])
def test_every_target_is_the_value_of_the_key_before_it(filler: bool) -> None:
    task = MQAR(seq_len=48, seed=5, pairs=6, vocab=101, random_non_queries=filler, **FEW)
    examples = task.examples("train")
    for tokens, targets in zip(examples.tokens.tolist(), examples.targets.tolist(), strict=True):
        keys, values = tokens[0:12:2], tokens[1:12:2]
        assert len(set(keys)) == len(set(values)) == 6
        assert all(1 <= k < 50 for k in keys)
        assert all(50 <= v < 101 for v in values)
        book = dict(zip(keys, values, strict=True))
        labelled = [i for i, t in enumerate(targets) if t != IGNORE]
        assert all(i >= 12 and i % 2 == 0 for i in labelled)
        assert sorted(tokens[i] for i in labelled) == sorted(keys)  # each key is asked for once
        assert all(targets[i] == book[tokens[i]] for i in labelled)
        if not filler:
            rest = [t for i, t in enumerate(tokens) if i >= 12 and i not in labelled]
            assert set(rest) == {0}


def test_slots_follow_the_power_law() -> None:
    task = MQAR(seq_len=64, seed=0, pairs=1, vocab=128, **FEW | {"train_examples": 8000})
    position = (task.examples("train").targets != IGNORE).int().argmax(dim=1).numpy()
    slot = (position - 2) // 2
    weight = np.arange(1, 32) ** (0.01 - 1)
    expected = weight / weight.sum()
    error = (expected * (1 - expected) / 8000) ** 0.5
    assert np.all(np.abs(np.bincount(slot, minlength=31) / 8000 - expected) < 4.5 * error)

    even = MQAR(seq_len=64, seed=0, pairs=1, vocab=128, power=1.0, **FEW)
    assert abs((even.examples("train").targets != IGNORE).int().argmax(dim=1).float().mean() - 32) < 2.5


def test_several_queries_are_drawn_one_after_the_other_by_weight() -> None:
    """Key 1 takes its slot first: its slot has the single-draw law, the second the law without the first's."""
    task = MQAR(seq_len=16, seed=0, pairs=2, vocab=32, random_non_queries=False, **FEW | {"train_examples": 9000})
    tokens = task.examples("train").tokens.numpy()
    first = (tokens[:, 4:] == tokens[:, :1]).argmax(axis=1) // 2
    second = (tokens[:, 4:] == tokens[:, 2:3]).argmax(axis=1) // 2
    p = np.arange(1, 7) ** (0.01 - 1)
    p /= p.sum()
    joint = p[:, None] * p[None, :] / (1 - p[:, None])
    np.fill_diagonal(joint, 0)
    n = len(tokens)
    seen = np.zeros((6, 6))
    np.add.at(seen, (first, second), 1 / n)
    assert np.all(np.abs(seen - joint) <= 4.5 * (joint * (1 - joint) / n) ** 0.5)


def test_filler_is_uniform_over_the_whole_vocabulary() -> None:
    task = MQAR(seq_len=20, seed=0, pairs=1, vocab=21, **FEW)
    examples = task.examples("train")
    filler = examples.tokens[:, 2:][examples.targets[:, 2:] == IGNORE].numpy()
    shares = np.bincount(filler, minlength=21) / filler.size
    assert shares == pytest.approx(np.full(21, 1 / 21), abs=4.5 * (1 / 21 / filler.size) ** 0.5)


def test_distinct_is_uniform() -> None:
    drawn = distinct(np.random.default_rng(0), 24_000, 4, 3)
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 24  # all ordered choices of 3 in 4
    assert counts == pytest.approx(np.full(24, 1000), abs=4.5 * 1000**0.5)


def test_the_published_size_is_made_in_seconds() -> None:
    task = MQAR(seq_len=256, seed=0, pairs=64, vocab=8192, train_examples=2000)
    assert task.causal
    assert task.chance == 1 / 4096
    assert len(task.examples("train")) == 2000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 31}, r"seq_len=31: expected at least 32 \(4 \* pairs"),
        ({"vocab": 32}, r"vocab=32: expected at least 33"),
        ({"pairs": 0}, r"pairs=0: expected at least 1"),
        ({"power": 0.0}, r"power=0\.0: expected a number above 0"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MQAR(**{"seq_len": 32, "seed": 0, "pairs": 8, "vocab": 33, **changes})


@pytest.mark.parametrize("kind", [[33, 8, 1], [16, 5, 1], [16, 0, 1], [16, 4, 0]])
@pytest.mark.parametrize("name", ["pairs", "eval_pairs"])
def test_a_mixture_that_does_not_fit_is_refused(name: str, kind: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"^{name}=.*4 \* pairs <= length <= seq_len=32 .*got \[{kind[0]}, "):
        MQAR(seq_len=32, seed=0, vocab=33, **{"pairs": 2, name: [[16, 2, 1], kind]})
    with pytest.raises(ValueError, match=rf"^{name}=\[\]: expected a number or at least one"):
        MQAR(seq_len=32, seed=0, vocab=33, **{"pairs": 2, name: []})


def test_a_mixture_trains_at_some_lengths_and_tests_at_others() -> None:
    task = MQAR(
        seq_len=40, seed=0, pairs=[[16, 2, 3], [24, 2, 1]], eval_pairs=[[16, 4, 1], [40, 4, 1]], vocab=64, **FEW
    )
    train, test = task.examples("train"), task.examples("test")
    assert train.lengths.bincount().nonzero().flatten().tolist() == [16, 24]
    assert (train.lengths == 16).sum() == 750
    assert test.tags is not None
    assert test.tags["length"].tolist() == test.lengths.tolist() == [16] * 25 + [40] * 25
    assert test.tags["pairs"].tolist() == [4.0] * 50
    for examples, pairs in ((train, 2), (test, 4)):
        assert ((examples.targets != IGNORE).sum(1) == pairs).all()
        padding = examples.padding_mask()
        assert padding is not None
        assert (examples.tokens[padding] == 0).all()
        assert (examples.targets[padding] == IGNORE).all()
        for row, target, length in zip(examples.tokens, examples.targets, examples.lengths, strict=True):
            book = dict(zip(row[0 : 2 * pairs : 2].tolist(), row[1 : 2 * pairs : 2].tolist(), strict=True))
            asked = (target != IGNORE).nonzero().flatten()
            assert ((asked >= 2 * pairs) & (asked < length)).all()
            assert [book[int(row[i])] for i in asked] == target[asked].tolist()


def test_the_tightest_fit_is_accepted() -> None:
    task = MQAR(seq_len=32, seed=0, pairs=8, vocab=33, **FEW)
    assert (task.examples("test").targets != IGNORE).sum(1).tolist() == [8] * 50
