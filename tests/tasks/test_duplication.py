from __future__ import annotations

import pytest

from tasks.duplication import Duplication
from tasks.registry import IGNORE

FEW = {"train_examples": 200, "dev_examples": 50, "test_examples": 50}


def test_the_second_half_repeats_the_first_and_only_it_is_asked_for() -> None:
    examples = Duplication(seq_len=16, seed=3, symbols=9, **FEW).examples("train")
    for tokens, targets in zip(examples.tokens.tolist(), examples.targets.tolist(), strict=True):
        word = tokens[1:8]
        assert tokens == [0, *word, 0, *word]
        assert all(1 <= symbol <= 9 for symbol in word)
        # the next token at every position, from the second 0 on
        following = [*tokens[1:], IGNORE]
        assert targets == [IGNORE] * 8 + following[8:]
        assert targets[8:15] == word
        assert all(targets[p] == tokens[p - 7] for p in range(8, 15))  # the answer stands seven back


def test_the_published_size() -> None:
    task = Duplication(seq_len=1024, seed=0, **FEW)
    examples = task.examples("test")
    assert (examples.targets != IGNORE).sum(1).tolist() == [511] * 50
    assert (task.num_classes, task.chance, task.causal) == (128, 1 / 127, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 2}, r"seq_len=2: expected at least 4"),
        ({"seq_len": 17}, r"seq_len=17: expected an even number"),
        ({"symbols": 1}, r"symbols=1: expected at least 2"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Duplication(**{"seq_len": 16, "seed": 0, **changes})
