from __future__ import annotations

import numpy as np
import pytest

from tasks.furthest_vector import FurthestVector

FEW = {"train_examples": 60, "dev_examples": 20, "test_examples": 20}


def test_every_target_is_the_furthest_vector_of_its_sequence() -> None:
    task = FurthestVector(seq_len=24, seed=1, vectors=100, dim=3, **FEW)
    assert np.linalg.norm(task.book, axis=1) == pytest.approx(np.ones(100))
    examples = task.examples("train")
    for tokens, targets in zip(examples.tokens.tolist(), examples.targets.tolist(), strict=True):
        assert len(set(tokens)) == 24
        for token, target in zip(tokens, targets, strict=True):
            distances = {other: sum((task.book[token] - task.book[other]) ** 2) for other in tokens}
            assert target == max(distances, key=lambda other: distances[other])


def test_who_sees_only_his_own_token_is_right_as_often_as_stated() -> None:
    task = FurthestVector(seq_len=64, seed=0, vectors=256, dim=4, **FEW | {"train_examples": 300})
    examples = task.examples("train")
    in_book = ((task.book[:, None] - task.book[None]) ** 2).sum(-1).argmax(axis=1)
    right = float((in_book[examples.tokens.numpy()] == examples.targets.numpy()).mean())
    assert right == pytest.approx(task.alone, abs=0.01)
    assert task.alone == 0.25


def test_the_book_is_the_seed_s_and_the_same_for_all_splits() -> None:
    one, same, other = (FurthestVector(seq_len=8, seed=seed, vectors=32, **FEW).book for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 1}, r"seq_len=1: expected at least 2"),
        ({"vectors": 16}, r"vectors=16: expected at least 17 \(more than tokens, seq_len=16\)"),
        ({"dim": 1}, r"dim=1: expected at least 2"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FurthestVector(**{"seq_len": 16, "seed": 0, **changes})
