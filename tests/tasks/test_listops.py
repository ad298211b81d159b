"""ListOps against a second evaluator and the statistics of Long Range Arena's generator."""

from __future__ import annotations

from statistics import median

import numpy as np
import pytest
import torch

from tasks import listops
from tasks.listops import SYMBOLS, ListOps, TreeShape, largest_tree, sample

MINI = {"min_length": 4, "max_length": 60, "max_depth": 4, "max_args": 5}
FEW = {"train_examples": 1500, "dev_examples": 200, "test_examples": 200}


def parse(words: list[str]) -> tuple[int, int, int]:
    """(value, largest number of arguments, depth) of the expression; consumes `words` from the front."""
    word = words.pop(0)
    if word.isdigit():
        return int(word), 0, 1
    arguments = []
    while words[0] != "]":
        arguments.append(parse(words))
    words.pop(0)
    values = [a[0] for a in arguments]
    assert len(values) >= 2
    result = {
        "[MIN": lambda: min(values),
        "[MAX": lambda: max(values),
        "[MED": lambda: int(median(values)),
        "[SM": lambda: sum(values) % 10,
    }[word]()
    return result, max(len(values), *(a[1] for a in arguments)), 1 + max(a[2] for a in arguments)


def test_every_label_is_the_value_of_its_expression() -> None:
    task = ListOps(seq_len=64, seed=3, **MINI, **FEW)
    deepest = widest = 0
    operators = set()
    for split in ("train", "dev", "test"):
        examples = task.examples(split)
        for tokens, target, length in zip(examples.tokens, examples.targets, examples.lengths, strict=True):
            assert 4 < length < 60
            words = [SYMBOLS[i] for i in tokens[:length]]
            operators |= {w for w in words if w.startswith("[")}
            value, args, depth = parse(words)
            assert words == []
            assert value == target
            widest, deepest = max(widest, args), max(deepest, depth)
    assert (widest, deepest) == (5, 4)  # both bounds are reached, neither passed
    assert operators == {"[MIN", "[MAX", "[MED", "[SM"}


@pytest.mark.parametrize(
    ("operator", "arguments", "value"),
    [
        ("[MED", [1, 2], 1),
        ("[MED", [9, 0, 4, 5], 4),
        ("[MED", [8, 1, 3], 3),
        ("[SM", [9, 9, 9], 7),
        ("[SM", [5, 5], 0),
        ("[MIN", [3, 2, 9], 2),
        ("[MAX", [3, 2, 9], 9),
    ],
)
def test_operators(operator: str, arguments: list[int], value: int) -> None:
    index = np.array([SYMBOLS.index(operator) - SYMBOLS.index("[MIN")])
    got = listops.evaluate(index, np.array(arguments), np.array([0]), np.array([len(arguments)]))
    assert got.tolist() == [value]


def test_statistics_of_the_published_generator() -> None:
    """Acceptance 8.1 %, mean length 1048, shares of the labels: measured elsewhere on 3,000 accepted trees."""
    trees = sample(np.random.default_rng(7), 6000, TreeShape(500, 2000, 10, 10))
    n = len(trees.values)
    assert n == 6000
    # the last batch is used in part only, so attempts are counted a little too high
    accepted = 0.081
    tolerance = (
        4 * (accepted * (1 - accepted) / trees.attempts) ** 0.5 + accepted * listops._BATCH / trees.attempts
    )
    assert n / trees.attempts == pytest.approx(accepted, abs=tolerance)

    spread = trees.lengths.std()
    error = spread * (1 / n + 1 / 3000) ** 0.5
    assert trees.lengths.mean() == pytest.approx(1048, abs=4 * error)
    assert np.quantile(trees.lengths, [0.1, 0.5, 0.9]) == pytest.approx([584, 968, 1645], rel=0.04)
    assert trees.lengths.min() > 500
    assert trees.lengths.max() < 2000

    published = np.array([0.169, 0.092, 0.069, 0.075, 0.096, 0.088, 0.080, 0.074, 0.088, 0.168])
    error = (published * (1 - published) * (1 / n + 1 / 3000)) ** 0.5
    assert np.all(np.abs(np.bincount(trees.values) / n - published) < 4 * error)


def test_operators_and_digits_are_uniform_and_a_quarter_of_nodes_are_operators() -> None:
    # no length bound below, none in effect above: every attempt is accepted but for duplicates
    shape = TreeShape(0, 10**3, 3, 4)
    rng = np.random.default_rng(0)
    written = [listops.write(rng, listops.grow(rng, shape), 64) for _ in range(4)]
    tokens = np.concatenate([trees.tokens for trees in written])
    assert len(tokens) == 4 * listops._BATCH
    first = tokens[:, 0]
    n = len(first)
    share = np.mean(first >= SYMBOLS.index("[MIN"))
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / n) ** 0.5)
    digits = np.bincount(first, minlength=16)[1:11] / (n * 0.75)
    assert digits == pytest.approx(np.full(10, 0.1), abs=4 * (0.09 / (n * 0.75)) ** 0.5)
    operators = np.bincount(first, minlength=16)[11:15] / (n * 0.25)
    assert operators == pytest.approx(np.full(4, 0.25), abs=4 * (0.19 / (n * 0.25)) ** 0.5 + 0.02)


def test_all_expressions_differ() -> None:
    trees = sample(np.random.default_rng(0), 110, TreeShape(3, 5, 2, 2))  # of 4 * 100 possible
    assert len(np.unique(trees.tokens, axis=0)) == 110


def test_padding_is_not_a_symbol_and_longer_rows_hold_the_same_data() -> None:
    short, long = (ListOps(seq_len=n, seed=0, **MINI, **FEW).examples("dev") for n in (59, 80))
    assert torch.equal(short.tokens, long.tokens[:, :59])
    assert (long.tokens[:, 59:] == 0).all()
    assert torch.equal(short.lengths, long.lengths)
    assert torch.equal((short.tokens != 0).sum(1), short.lengths)


def test_chance_is_the_majority_of_the_test_split() -> None:
    task = ListOps(seq_len=64, seed=0, **MINI, **FEW)
    labels = task.examples("test").targets
    assert task.chance == max(int((labels == c).sum()) for c in range(10)) / 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 58}, r"seq_len=58: expected at least 59"),
        ({"seq_len": 59, "max_length": 5}, r"max_length=5: expected at least 6"),
        ({"max_depth": 2, "min_length": 7}, r"min_length=7: expected at most 6"),
        ({"max_args": 1}, r"max_args=1: expected at least 2"),
        ({"max_depth": 0}, r"max_depth=0: expected at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ListOps(**{"seq_len": 64, "seed": 0, **MINI, **FEW, **changes})


def test_seq_len_need_not_exceed_the_fullest_tree() -> None:
    assert largest_tree(2, 5, stop=100) == 7
    ListOps(seq_len=7, seed=0, **MINI | {"max_depth": 2}, **FEW)


def test_too_few_expressions_is_an_error_not_a_hang() -> None:
    with pytest.raises(ValueError, match="only 10 of 11 different expressions"):
        sample(np.random.default_rng(0), 11, TreeShape(0, 2, 3, 3))
