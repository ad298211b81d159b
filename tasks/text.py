"""Text: the sentiment of film reviews, read byte by byte (Long Range Arena).

Maas et al., Large Movie Review Dataset (ACL 2011); Tay et al., Long Range Arena (2020), arXiv:2011.04006;
google-research/long-range-arena, lra_benchmarks/text_classification/input_pipeline.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.base import Examples, SplitName
from tasks.data import Table, cached, joined, row_digests
from tasks.files import FileTask, Rows
from tasks.sources import Source

IMDB = Source(
    name="imdb",
    files={"train": "train.parquet", "test": "test.parquet"},
    columns={"text": "string", "label": "class"},
    hub="stanfordnlp/imdb",
    config="plain_text",
)

#: Ids of byte-level tasks: 0 is padding, byte b is b + 1.
BYTE_VOCAB = 257


class Text(FileTask):
    """Two-way classification of IMDB reviews: their UTF-8 bytes, markup included, in one sequence.

    seq_len: the first bytes that are kept; shorter reviews are padded.
    Long Range Arena chooses its model on test, as IMDB has no dev split; here dev is held out of train,
    unless dev_from_test says so.
    """

    held_out: ClassVar[int | None] = 2_500

    def __init__(
        self,
        *,
        seq_len: int,
        seed: int,
        data_dir: str | None = None,
        train_examples: int | None = None,
        dev_examples: int | None = None,
        test_examples: int | None = None,
        dev_from_test: bool = False,
    ) -> None:
        super().__init__(
            seq_len=seq_len,
            seed=seed,
            data_dir=data_dir,
            counts={"train": train_examples, "dev": dev_examples, "test": test_examples},
            dev_from_test=dev_from_test,
        )

    @property
    def vocab_size(self) -> int:
        """256 bytes and padding."""
        return BYTE_VOCAB

    @property
    def num_classes(self) -> int:
        """Negative and positive."""
        return 2

    def sources(self) -> Sequence[Source]:
        """The reviews."""
        return (IMDB,)

    def rows(self, split: SplitName) -> Rows:
        """See `FileTask`."""
        table = reviews(split, self.seq_len, self.data_dir)
        return Rows(row_digests(table["tokens"]), table["targets"], lambda rows: examples_of(table, rows))


def encode(documents: Sequence[bytes], seq_len: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Ids uint8 `[n, seq_len]` and lengths int32 `[n]` of UTF-8 texts, cut at seq_len bytes.

    uint8 is enough: no byte of UTF-8 is above 244.
    """
    tokens = np.zeros((len(documents), seq_len), dtype=np.uint8)
    lengths = np.zeros(len(documents), dtype=np.int32)
    for row, document in enumerate(documents):
        cut = np.frombuffer(document[:seq_len], dtype=np.uint8)
        tokens[row, : len(cut)] = cut + 1
        lengths[row] = len(cut)
    return tokens, lengths


def reviews(split: str, seq_len: int, data_dir: str | None) -> Table:
    """All reviews of IMDB's train or test, in the file's order: tokens, lengths, targets."""
    source = IMDB.open(split, data_dir)

    def build() -> Table:
        parts: list[Table] = []
        for batch in source.batches():
            tokens, lengths = encode(batch.documents("text"), seq_len)
            parts.append({"tokens": tokens, "lengths": lengths, "targets": batch.labels("label", 2)})
        return joined(parts)

    identity = {"seq_len": seq_len, "source": source.identity}
    return cached("text", identity, ("tasks.text", "tasks.sources"), build)


def examples_of(table: Table, rows: NDArray[np.int64]) -> Examples:
    """The examples of some rows of a table of tokens, lengths and targets."""
    return Examples(
        torch.from_numpy(table["tokens"][rows]),
        torch.from_numpy(table["targets"][rows].astype(np.int64)),
        torch.from_numpy(table["lengths"][rows].astype(np.int64)),
    )
