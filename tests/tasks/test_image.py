from __future__ import annotations

from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from tasks.image import Image, shrink
from tests.tasks import folders

RNG = np.random.default_rng(0)


def image(data_dir: Path | str, **changes: Any) -> Image:
    return Image(**{"seq_len": 1024, "seed": 0, "data_dir": str(data_dir), "dev_examples": 100} | changes)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, list[np.ndarray[Any, Any]]]:
    """Colour images in train and test: random, and partly or wholly black."""
    images = [RNG.integers(1, 256, size=(32, 32, 3)).astype(np.uint8) for _ in range(4)]
    images[1][:, :16] = 0
    images[2][:] = 0
    for split, rows in (("train", images[::-1]), ("test", images)):
        columns = {"img": [folders.png(pixels) for pixels in rows], "label": list(range(len(rows)))}
        folders.write(tmp_path / f"{split}.parquet", columns, img=datasets.Image())
    return tmp_path, images


def test_pixels_are_grey_row_by_row(two: tuple[Path, list[np.ndarray[Any, Any]]]) -> None:
    folder, images = two
    tokens = image(folder).rows("test").take(np.arange(4)).tokens
    for row, pixels in zip(tokens, images, strict=True):
        exact = pixels.astype(float) @ [0.299, 0.587, 0.114]
        assert np.abs(row.reshape(32, 32).numpy() - exact).max() <= 1
    assert tokens[1].reshape(32, 32)[:, :16].max() == 0


def test_grey_and_colour_files_come_to_the_same(
    two: tuple[Path, list[np.ndarray[Any, Any]]], tmp_path: Path
) -> None:
    from PIL import Image as Pillow

    folder, images = two
    grey = [folders.png(np.asarray(Pillow.fromarray(pixels).convert("L"))) for pixels in images]
    folders.write(tmp_path / "grey" / "test.parquet", {"img": grey, "label": [0, 1, 2, 3]}, img=datasets.Image())
    folders.write(tmp_path / "grey" / "train.parquet", {"img": grey, "label": [0, 1, 2, 3]}, img=datasets.Image())
    both = [image(where).rows("test").take(np.arange(4)).tokens for where in (folder, tmp_path / "grey")]
    assert torch.equal(*both)


def test_a_file_without_the_hub_s_metadata_will_do(
    two: tuple[Path, list[np.ndarray[Any, Any]]], tmp_path: Path
) -> None:
    folder, images = two
    bare = tmp_path / "bare"
    for split in ("train", "test"):
        columns = {"img": [folders.png(pixels) for pixels in images], "label": [0, 1, 2, 3]}
        folders.write(bare / f"{split}.parquet", columns)
    both = [image(where).rows("test").take(np.arange(4)).tokens for where in (folder, bare)]
    assert torch.equal(*both)


@pytest.mark.parametrize("pool", [1, 2, 4, 8])
def test_pooling_rounds_halves_up(pool: int) -> None:
    pixels = RNG.integers(256, size=(2, 32, 32)).astype(np.uint8)
    found = shrink(pixels, pool)
    for n, i, j in np.ndindex(found.shape):
        square = pixels[n, i * pool : (i + 1) * pool, j * pool : (j + 1) * pool]
        assert found[n, i, j] == floor(Fraction(int(square.astype(int).sum()), pool * pool) + Fraction(1, 2))


def test_splits_are_stratified(data_dir: str) -> None:
    task = image(data_dir, seq_len=256, pool=2)
    assert task.examples("train").targets.bincount().tolist() == [70] * 10
    assert task.examples("dev").targets.bincount().tolist() == [10] * 10
    assert len(task.examples("test")) == 300
    assert task.examples("train").tokens.shape == (700, 256)
    assert task.examples("train").padding_mask() is None


def test_mask_black(two: tuple[Path, list[np.ndarray[Any, Any]]]) -> None:
    folder, _ = two
    mask = image(folder, mask_black=True).rows("test").take(np.arange(4)).padding_mask()
    assert mask is not None
    half = (torch.arange(1024) % 32 < 16).expand(1024)
    assert torch.equal(mask, torch.stack([torch.zeros(1024), half, torch.zeros(1024), torch.zeros(1024)]).bool())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": 3}, "pool=3: expected one of 1, 2, 4, 8"),
        ({"seq_len": 1000}, r"seq_len=1000: expected 1024, \(32 / pool\)\*\*2 with pool=1"),
        ({"pool": 2}, r"seq_len=1024: expected 256, \(32 / pool\)\*\*2 with pool=2"),
    ],
)
def test_bad_parameters(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        image("nowhere", **changes)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (folders.png(np.zeros((28, 28), dtype=np.uint8)), "img in row 1 has 28 x 28 pixels; expected 32 x 32"),
        ({"bytes": b"\x89PNG no more", "path": None}, r"img in row 1 is no readable image \(Unidentified"),
        (None, "img in row 1 is no readable image"),
    ],
)
def test_bad_images(tmp_path: Path, cell: Any, message: str) -> None:
    folders.cifar10(tmp_path, train=10, test=10)
    good = folders.png(np.zeros((32, 32), dtype=np.uint8))
    folders.write(tmp_path / "test.parquet", {"img": [good, cell], "label": [0, 1]}, img=datasets.Image())
    with pytest.raises(ValueError, match=rf"test\.parquet: {message}"):
        image(tmp_path).examples("test")


def test_labels_out_of_range(tmp_path: Path) -> None:
    folders.cifar10(tmp_path, train=10, test=10)
    good = folders.png(np.zeros((32, 32), dtype=np.uint8))
    folders.write(tmp_path / "test.parquet", {"img": [good], "label": [10]}, img=datasets.Image())
    with pytest.raises(ValueError, match=r"test\.parquet: label 10 in row 0; expected 0\.\.9"):
        image(tmp_path).examples("test")
