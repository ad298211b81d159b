from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from tasks.base import Examples
from tasks.data import content_hashes
from tasks.text import Text, encode
from tests.tasks import folders


def text(data_dir: Path | str, **changes: Any) -> Text:
    return Text(**{"seq_len": 64, "seed": 0, "data_dir": str(data_dir), "dev_examples": 20} | changes)


def decoded(examples: Examples) -> list[str]:
    """The texts again, by Python's own means."""
    rows = zip(examples.tokens.tolist(), examples.lengths.tolist(), strict=True)
    return [bytes(token - 1 for token in row[:length]).decode(errors="replace") for row, length in rows]


def test_ids_are_bytes_plus_one() -> None:
    tokens, lengths = encode(["Aé<br />".encode(), b"xyz"], 5)
    assert tokens.tolist() == [[66, 196, 170, 61, 99], [121, 122, 123, 0, 0]]
    assert lengths.tolist() == [5, 3]
    last = "\U0010ffff".encode()  # the largest bytes that UTF-8 has begin a character of plane 16
    assert encode([last], 4)[0].tolist() == [[245, 144, 192, 192]]


def test_every_review_is_there_once_with_its_label(data_dir: str) -> None:
    task = text(data_dir, seq_len=400)
    found: dict[str, int] = {}
    for split in ("train", "dev"):
        examples = task.examples(split)
        found |= dict(zip(decoded(examples), examples.targets.tolist(), strict=True))
    file = Path(data_dir) / "imdb" / "train.parquet"
    truth = datasets.Dataset.from_parquet(str(file), cache_dir=str(Path(data_dir) / "hf"))
    assert found == dict(zip(truth["text"], truth["label"], strict=True))
    assert task.vocab_size == 257
    assert task.examples("train").tokens.numpy().dtype == np.uint8


def test_dev_is_balanced_and_drawn_by_the_seed(data_dir: str) -> None:
    devs = [text(data_dir, seed=seed).examples("dev") for seed in (0, 0, 1)]
    assert [dev.targets.bincount().tolist() for dev in devs] == [[10, 10]] * 3
    assert content_hashes(devs[0]) == content_hashes(devs[1])
    assert len(set(content_hashes(devs[0])) & set(content_hashes(devs[2]))) < 5


def test_prefixes_are_balanced_and_nested_in_the_whole(data_dir: str) -> None:
    whole, part = text(data_dir), text(data_dir, train_examples=31, test_examples=30)
    assert part.examples("train").targets.bincount().tolist() in ([15, 16], [16, 15])
    assert part.examples("test").targets.bincount().tolist() == [15, 15]
    for split in ("train", "test"):
        assert set(content_hashes(part.examples(split))) < set(content_hashes(whole.examples(split)))


@pytest.fixture
def repeated(tmp_path: Path) -> Path:
    """Rows 0 and 1 of train are equal; row 2 of train begins as row 0 of test; test rows 1 and 2 are equal."""
    train = [f"{n:02} train" for n in range(40)]
    test = [f"{n:02} test" for n in range(10)]
    train[1], train[2], test[2] = train[0], f"{test[0]} and more", test[1]
    for name, texts in (("train", train), ("test", test)):
        folders.write(tmp_path / f"{name}.parquet", {"text": texts, "label": [n % 2 for n in range(len(texts))]})
    return tmp_path


def test_what_encodes_alike_never_stands_in_two_splits(repeated: Path) -> None:
    whole_test = [f"{n:02} test" for n in (0, 1, 1, 3, 4, 5, 6, 7, 8, 9)]
    for seed in range(10):
        task = text(repeated, seq_len=7, seed=seed)
        train, dev, test = (decoded(task.examples(split)) for split in ("train", "dev", "test"))
        assert test == whole_test
        assert not set(test) & {*train, *dev}  # the row that is cut to one of test is dropped
        assert not set(train) & set(dev)
        assert len(set(dev)) == len(dev) == 20
    longer = text(repeated, seq_len=30)
    assert "00 test and more" in decoded(longer.examples("train")) + decoded(longer.examples("dev"))


def test_dev_from_test(data_dir: str) -> None:
    task = text(data_dir, dev_from_test=True, dev_examples=None)
    assert content_hashes(task.examples("dev")) == content_hashes(task.examples("test"))
    assert len(task.examples("train")) == 900
    part = text(data_dir, dev_from_test=True, dev_examples=10).examples("dev")
    assert set(content_hashes(part)) < set(content_hashes(task.examples("test")))
    assert len(part) == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 0}, "seq_len=0: expected at least 1"),
        ({"dev_examples": 0}, "dev_examples=0: expected at least 1"),
        ({"dev_examples": None}, "dev_examples=2500: expected at most 900, the rows left for it in imdb"),
        ({"dev_examples": 900}, "train_examples=1: expected at most 0, the rows left for it in imdb"),
        ({"train_examples": 881}, "train_examples=881: expected at most 880, the rows left for it in imdb"),
        ({"test_examples": 301}, "test_examples=301: expected at most 300, the rows left for it in imdb"),
    ],
)
def test_bad_parameters(data_dir: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        text(data_dir, **changes).examples("train")
