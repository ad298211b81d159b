from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.base import IGNORE, Examples, joined
from tasks.drawn import narrowest
from tasks.needle import Needle
from tasks.splits import apportion


@pytest.mark.parametrize(
    ("smallest", "largest", "dtype"),
    [
        (0, 255, np.uint8),
        (0, 256, np.int16),
        (IGNORE, 127, np.int8),
        (IGNORE, 128, np.int16),
        (0, 2**15, np.int32),
        (0, 2**31, np.int64),
    ],
)
def test_the_narrowest_dtype_that_holds_both_ends(smallest: int, largest: int, dtype: type) -> None:
    assert narrowest(smallest, largest) is dtype


@pytest.mark.parametrize(
    ("total", "shares", "counts"),
    [
        (180, [10, 2, 2, 2, 2], [100, 20, 20, 20, 20]),
        (10, [1, 1, 1], [4, 3, 3]),
        (2, [1, 1, 1], [1, 1, 0]),
        (7, [0.5, 0.25, 0.25], [3, 2, 2]),
    ],
)
def test_a_number_is_cut_up_without_losing_any(total: int, shares: list[float], counts: list[int]) -> None:
    assert apportion(total, shares) == counts


def test_rows_and_joined_keep_masks_and_tags() -> None:
    whole = Needle(
        seq_len=9, seed=0, depths=2, vocab=8, train_examples=4, dev_examples=8, test_examples=8
    ).examples("test")
    parts = [whole.rows(torch.tensor([1, 0])), whole.rows(torch.arange(2, 8))]
    again = joined(parts)
    order = torch.tensor([1, 0, *range(2, 8)])
    for name in ("tokens", "targets", "lengths", "global_mask"):
        assert torch.equal(getattr(again, name), getattr(whole, name)[order])
    assert again.tags is not None
    assert whole.tags is not None
    assert {n: t.tolist() for n, t in again.tags.items()} == {n: t[order].tolist() for n, t in whole.tags.items()}


def test_a_tag_has_one_value_a_row() -> None:
    rows = Examples(torch.zeros(3, 2), torch.zeros(3), torch.full((3,), 2))
    assert rows.rows(torch.arange(2)).tags is None
    with pytest.raises(ValueError, match=r"examples disagree: tokens \(3, 2\), tag depth \(2,\)"):
        replace(rows, tags={"depth": torch.zeros(2)})
