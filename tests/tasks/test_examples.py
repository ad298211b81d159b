from __future__ import annotations

import pytest
import torch

from tasks.base import Examples
from tasks.heads import pool

LENGTHS = torch.tensor([3, 4])


def examples(**masks: torch.Tensor) -> Examples:
    return Examples(torch.arange(8).reshape(2, 4), torch.tensor([0, 1]), LENGTHS, **masks)


def test_padding_is_what_lengths_leave_over() -> None:
    mask = examples().padding_mask()
    assert mask is not None
    assert mask.tolist() == [[False, False, False, True], [False] * 4]
    assert examples().rows(torch.tensor([1])).padding_mask() is None


def test_padding_given_takes_its_place_and_is_kept_by_rows() -> None:
    padding = torch.tensor([[True, False, True, True], [False, True, False, False]])
    assert torch.equal(examples(padding=padding).padding_mask(), padding)
    assert torch.equal(examples(padding=padding).rows(torch.tensor([1, 0])).padding_mask(), padding.flip(0))


@pytest.mark.parametrize("name", ["global_mask", "padding"])
def test_a_mask_is_shaped_like_the_tokens(name: str) -> None:
    with pytest.raises(ValueError, match=rf"tokens \(2, 4\), {name} \(2, 3\)"):
        examples(**{name: torch.ones(2, 3, dtype=torch.bool)})


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [1.5, 2.0]), ("first", [0.0, 0.0]), ("last", [2.0, 3.0])]
)
def test_pooling_with_padding_in_the_middle(pooling: str, expected: list[float]) -> None:
    hidden = torch.arange(4.0).repeat(2, 1)[..., None]
    padding = torch.tensor([[True, False, False, True], [True, False, True, False]])
    assert pool(hidden, padding, pooling).flatten().tolist() == expected
