from __future__ import annotations

from collections import Counter

import pytest

from tasks.needle import Needle
from tasks.registry import IGNORE

FEW = {"train_examples": 400, "dev_examples": 60, "test_examples": 60}
SMALL = {"seq_len": 25, "seed": 4, "vocab": 16, **FEW}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("filler", [0, 5])
def test_the_question_asks_for_the_value_of_the_one_marked_pair(filler: int, split: str) -> None:
    examples = Needle(**SMALL, lengths=[7, 12, 25], depths=3, filler=filler).examples(split)
    for tokens, targets, length, asks in zip(
        examples.tokens.tolist(),
        examples.targets.tolist(),
        examples.lengths.tolist(),
        examples.global_mask.tolist(),
        strict=True,
    ):
        assert length in (7, 12, 25)
        assert tokens[length:] == [0] * (25 - length)
        marks = [i for i, token in enumerate(tokens) if token == 1]
        assert len(marks) == 2
        needle, question = marks
        assert question == length - 2
        key, value = tokens[needle + 1 : needle + 3]
        assert 2 <= key < 10 <= value < 18
        assert tokens[question + 1] == key
        hay = tokens[:needle] + tokens[needle + 3 : question]
        assert all(18 <= token < 23 if filler else 2 <= token < 18 for token in hay)
        assert targets == [IGNORE] * (length - 1) + [value] + [IGNORE] * (25 - length)
        assert [i for i, asked in enumerate(asks) if asked] == [length - 2, length - 1]


def test_every_length_has_every_depth_equally_often() -> None:
    examples = Needle(**SMALL, lengths=[10, 25], depths=3).examples("test")
    seen = Counter()
    for tokens, length, depth in zip(
        examples.tokens.tolist(), examples.lengths.tolist(), examples.tags["depth"].tolist(), strict=True
    ):
        assert tokens.index(1) == depth * (length - 5) + (0.5 if depth == 0.5 and length == 10 else 0) * -1
        seen[length, depth] += 1
    assert seen == {(n, depth): 10 for n in (10, 25) for depth in (0.0, 0.5, 1.0)}
    assert examples.tags["length"].tolist() == examples.lengths.tolist()


def test_in_training_the_needle_is_anywhere() -> None:
    examples = Needle(**SMALL | {"train_examples": 4000}).examples("train")
    assert examples.tags is None
    places = Counter(tokens.index(1) for tokens in examples.tokens.tolist())
    assert sorted(places) == list(range(21))
    assert all(count == pytest.approx(4000 / 21, abs=4.5 * (4000 / 21) ** 0.5) for count in places.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 4}, r"seq_len=4: expected at least 5"),
        ({"lengths": [4, 25]}, r"lengths=\[4, 25\]: expected one or more from 5 to seq_len=25"),
        ({"lengths": [26]}, r"lengths=\[26\]: expected one or more from 5 to seq_len=25"),
        ({"lengths": []}, r"lengths=\[\]: expected one or more"),
        ({"depths": 1}, r"depths=1: expected at least 2"),
        ({"filler": -1}, r"filler=-1: expected at least 0"),
        ({"vocab": 7}, r"vocab=7: expected an even number"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Needle(**{**SMALL, **changes})
