"""Image: grey CIFAR-10, one pixel a token (Long Range Arena).

Krizhevsky, Learning multiple layers of features from tiny images (2009); Tay et al., Long Range Arena (2020),
arXiv:2011.04006; google-research/long-range-arena, lra_benchmarks/image/input_pipeline.py.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.base import Examples, SplitName
from tasks.data import Table, cached, joined, row_digests
from tasks.files import FileTask, Rows
from tasks.sources import Batch, Source

CIFAR10 = Source(
    name="cifar10",
    files={"train": "train.parquet", "test": "test.parquet"},
    columns={"img": "image", "label": "class"},
    hub="uoft-cs/cifar10",
    config="plain_text",
)

SIDE = 32
_CLASSES = 10
_POOLS = (1, 2, 4, 8)


class Image(FileTask):
    """Ten-way classification of CIFAR-10: grey values 0..255, row by row, used as ids.

    pool: 1, 2, 4 or 8; averages squares of that side, halves rounded up, for shorter sequences.
    seq_len: (32 / pool)**2.
    mask_black: pixels of value 0 are padding, as in Long Range Arena, whose mask is "id is not 0". An image
    that is all black keeps its pixels.
    Grey is Pillow's `convert("L")`; TensorFlow's, in the original, may differ by 1.
    """

    held_out: ClassVar[int | None] = 5_000

    def __init__(
        self,
        *,
        seq_len: int,
        seed: int,
        data_dir: str | None = None,
        pool: int = 1,
        mask_black: bool = False,
        train_examples: int | None = None,
        dev_examples: int | None = None,
        test_examples: int | None = None,
    ) -> None:
        super().__init__(
            seq_len=seq_len,
            seed=seed,
            data_dir=data_dir,
            counts={"train": train_examples, "dev": dev_examples, "test": test_examples},
        )
        if pool not in _POOLS:
            raise ValueError(f"pool={pool}: expected one of {', '.join(map(str, _POOLS))}")
        if seq_len != (SIDE // pool) ** 2:
            raise ValueError(f"seq_len={seq_len}: expected {(SIDE // pool) ** 2}, (32 / pool)**2 with pool={pool}")
        self.pool, self.mask_black = pool, mask_black

    @property
    def vocab_size(self) -> int:
        """The grey values; 0 is black, and no padding is needed."""
        return 256

    @property
    def num_classes(self) -> int:
        """Airplane to truck."""
        return _CLASSES

    def sources(self) -> Sequence[Source]:
        """The images."""
        return (CIFAR10,)

    def rows(self, split: SplitName) -> Rows:
        """See `FileTask`."""
        table = self._table(split)
        return Rows(row_digests(table["tokens"]), table["targets"], lambda rows: self._take(table, rows))

    def _take(self, table: Table, rows: NDArray[np.int64]) -> Examples:
        tokens = torch.from_numpy(table["tokens"][rows])
        targets = torch.from_numpy(table["targets"][rows].astype(np.int64))
        lengths = torch.full((len(rows),), self.seq_len)
        padding = None
        if self.mask_black:
            padding = tokens == 0
            padding &= ~padding.all(dim=1, keepdim=True)
        return Examples(tokens, targets, lengths, padding=padding)

    def _table(self, split: SplitName) -> Table:
        source = CIFAR10.open(split, self.data_dir)

        def build() -> Table:
            return joined(
                {
                    "tokens": shrink(grey(batch, "img"), self.pool).reshape(-1, self.seq_len),
                    "targets": batch.labels("label", _CLASSES),
                }
                for batch in source.batches()
            )

        identity = {"pool": self.pool, "source": source.identity}
        return cached("image", identity, ("tasks.image", "tasks.sources"), build)


def grey(batch: Batch, column: str) -> NDArray[np.uint8]:
    """Grey values uint8 `[rows, 32, 32]`; ValueError for what is no image of that size."""
    return np.stack(
        [_decode(item, f"{batch.where}: {column} in row {row}") for row, item in batch.numbered(column)]
    )


def _decode(item: Any, where: str) -> NDArray[np.uint8]:
    from PIL import Image as Pillow

    try:
        image = Pillow.open(io.BytesIO(item["bytes"])).convert("L")
    except Exception as error:  # missing or damaged bytes, in any of Pillow's many ways
        raise ValueError(f"{where} is no readable image ({type(error).__name__})") from error
    if image.size != (SIDE, SIDE):
        raise ValueError(f"{where} has {image.size[0]} x {image.size[1]} pixels; expected {SIDE} x {SIDE}")
    pixels: NDArray[np.uint8] = np.asarray(image)
    return pixels


def shrink(images: NDArray[np.uint8], pool: int) -> NDArray[np.uint8]:
    """Means over squares of side `pool`, halves rounded up: `[n, s, s]` to `[n, s / pool, s / pool]`."""
    side = images.shape[1] // pool
    total = images.reshape(-1, side, pool, side, pool).sum(axis=(2, 4), dtype=np.int64)
    means: NDArray[np.uint8] = ((total + pool * pool // 2) // (pool * pool)).astype(np.uint8)
    return means
