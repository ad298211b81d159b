from __future__ import annotations

import numpy as np
import pytest

from tasks.copying import Copying
from tasks.registry import IGNORE

FEW = {"train_examples": 600, "dev_examples": 50, "test_examples": 50}


@pytest.mark.parametrize("selective", [False, True])
def test_targets_are_the_data_tokens_at_the_markers(selective: bool) -> None:
    task = Copying(seq_len=20, seed=2, tokens=5, alphabet=9, selective=selective, **FEW)
    examples = task.examples("train")
    for tokens, targets in zip(examples.tokens.tolist(), examples.targets.tolist(), strict=True):
        front, markers = tokens[:15], tokens[15:]
        assert markers == [8] * 5
        data = [t for t in front if t != 0]
        assert len(data) == 5
        assert all(1 <= t <= 7 for t in data)
        assert targets == [IGNORE] * 15 + data
        if not selective:
            assert front == data + [0] * 10


def test_selective_positions_are_uniform() -> None:
    task = Copying(seq_len=12, seed=0, tokens=2, alphabet=16, selective=True, **FEW | {"train_examples": 9000})
    front = task.examples("train").tokens[:, :10].numpy() != 0
    _, counts = np.unique(front, axis=0, return_counts=True)
    assert len(counts) == 45  # 2 places in 10
    assert counts == pytest.approx(np.full(45, 200), abs=4.5 * 200**0.5)


def test_no_blanks_is_allowed_and_less_is_not() -> None:
    task = Copying(seq_len=8, seed=0, tokens=4, alphabet=16, **FEW)
    assert (task.examples("dev").tokens != 0).all()
    with pytest.raises(ValueError, match=r"seq_len=7: expected at least 8"):
        Copying(seq_len=7, seed=0, tokens=4)


def test_too_few_different_sequences_is_an_error() -> None:
    task = Copying(seq_len=4, seed=0, tokens=2, alphabet=4, **FEW)  # 4 sequences in all
    with pytest.raises(ValueError, match="dev_examples=50: only 0 different examples"):
        task.examples("train")


def test_held_out_rows_are_replaced_until_the_counts_hold() -> None:
    # 196 sequences: train repeats, and dev and test share none with it nor with each other
    task = Copying(seq_len=4, seed=0, tokens=2, alphabet=16, train_examples=150, dev_examples=20, test_examples=20)
    train, dev, test = ({tuple(r) for r in task.examples(s).tokens.tolist()} for s in ("train", "dev", "test"))
    assert len(train) < 150
    assert len(dev) == len(test) == 20
    assert not train & dev
    assert not train & test
    assert not dev & test
