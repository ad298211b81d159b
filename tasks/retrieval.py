"""Retrieval: do two documents belong together? Byte by byte, with one encoder for both (Long Range Arena).

Radev et al., The ACL Anthology Network corpus (2013); Tay et al., Long Range Arena (2020), arXiv:2011.04006;
google-research/long-range-arena, lra_benchmarks/matching/input_pipeline.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tasks.base import Examples, SplitName
from tasks.data import Table, cached, joined, row_digests
from tasks.files import FileTask, Ints, Rows
from tasks.heads import PairHead
from tasks.sources import Batch, Kind, Source
from tasks.text import BYTE_VOCAB, IMDB, encode, reviews

PairSource = Literal["aan", "acl_citations", "same_film"]

AAN = Source(
    name="aan",
    files={split: f"new_aan_pairs.{split}.tsv" for split in ("train", "eval", "test")},
    columns={
        "label": "class",
        "input1_id": "string",
        "input2_id": "string",
        "text1": "string",
        "text2": "string",
    },
    hub="OpenNLPLab/lra",
    hub_folder="data/aan",
)


def _pair_files(name: str, first: str, second: str, kind: Kind) -> Source:
    files = {split: f"{split}.parquet" for split in ("train", "validation", "test")}
    return Source(name, files, {"label": "class", first: kind, second: kind})


CITATIONS = _pair_files("aan_citations", "id1", "id2", "string")
PAPERS = Source("aan_citations", {"docs": "docs.parquet"}, {"id": "string", "text": "string"})
FILMS = _pair_files("imdb_same_film", "row1", "row2", "integer")

_SOURCES: dict[PairSource, tuple[Source, ...]] = {
    "aan": (AAN,),
    "acl_citations": (CITATIONS, PAPERS),
    "same_film": (FILMS, IMDB),
}
#: Names of our splits in the files.
_FILE_OF: dict[str, dict[SplitName, str]] = {
    "aan": {"train": "train", "dev": "eval", "test": "test"},
    "acl_citations": {"train": "train", "dev": "validation", "test": "test"},
    "same_film": {"train": "train", "dev": "validation", "test": "test"},
}


class Retrieval(FileTask):
    """Two-way classification of pairs of documents, UTF-8 bytes, each cut and padded to seq_len alone.

    source: `aan`, Long Range Arena's pairs (does the first paper cite the second?); `acl_citations`, the same
    question on fewer papers of the ACL Anthology; `same_film`, do two IMDB reviews speak of the same film?
    interaction: the head sees [a, b, a b, a - b], as in Nystromformer's and Skyformer's experiments, or [a, b],
    Long Range Arena's default.

    Pairs never stand in two splits, in either order; single documents may.
    """

    documents: ClassVar[int] = 2

    def __init__(
        self,
        *,
        seq_len: int,
        seed: int,
        data_dir: str | None = None,
        source: PairSource = "aan",
        interaction: bool = True,
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
        if source not in _SOURCES:
            raise ValueError(f"source={source!r}: expected one of {', '.join(_SOURCES)}")
        self.source, self.interaction = source, interaction

    @property
    def vocab_size(self) -> int:
        """256 bytes and padding."""
        return BYTE_VOCAB

    @property
    def num_classes(self) -> int:
        """Apart and together."""
        return 2

    def head(self, width: int, pooling: str, hidden_dim: int | None = None, norm: str = "none") -> nn.Module:
        """See `Task`."""
        return PairHead(width, self.num_classes, pooling, self.interaction, hidden_dim, norm)

    def sources(self) -> Sequence[Source]:
        """The pairs and, where they are apart, the documents."""
        return _SOURCES[self.source]

    def rows(self, split: SplitName) -> Rows:
        """See `FileTask`."""
        name = _FILE_OF[self.source][split]
        if self.source == "aan":
            table = self._written_out(name)
            documents = table["tokens"].reshape(-1, self.seq_len)
            lengths = table["lengths"].reshape(-1)
            members, labels = np.arange(len(documents)).reshape(-1, 2), table["targets"]
        elif self.source == "acl_citations":
            papers, number = self._papers
            documents, lengths = papers["tokens"], papers["lengths"]
            members, labels = self._members(CITATIONS, name, ("id1", "id2"), number)
        else:
            table = reviews("test" if split == "test" else "train", self.seq_len, self.data_dir)
            documents, lengths = table["tokens"], table["lengths"]
            itself = {row: row for row in range(len(documents))}
            members, labels = self._members(FILMS, name, ("row1", "row2"), itself)
        return _pairs(documents, lengths, members, labels)

    def _written_out(self, name: str) -> Table:
        """The pairs of a file with both texts of each: tokens `[n, 2 * seq_len]`, lengths `[n, 2]`, targets."""
        source = AAN.open(name, self.data_dir)

        def encoded(batch: Batch) -> Table:
            both = [encode(batch.documents(column), self.seq_len) for column in ("text1", "text2")]
            return {
                "tokens": np.concatenate([tokens for tokens, _ in both], axis=1),
                "lengths": np.stack([lengths for _, lengths in both], axis=1),
                "targets": batch.labels("label", 2),
            }

        identity = {"seq_len": self.seq_len, "source": source.identity}
        modules = ("tasks.retrieval", "tasks.text", "tasks.sources")
        return cached("retrieval", identity, modules, lambda: joined(map(encoded, source.batches())))

    @cached_property
    def _papers(self) -> tuple[Table, dict[str, int]]:
        """The papers' tokens and lengths, and the row of each id."""
        number: dict[str, int] = {}
        parts: list[Table] = []
        for batch in PAPERS.open("docs", self.data_dir).batches():
            number |= {name: row for row, name in batch.numbered("id")}
            tokens, lengths = encode(batch.documents("text"), self.seq_len)
            parts.append({"tokens": tokens, "lengths": lengths})
        return joined(parts), number

    def _members(
        self, source: Source, split: str, columns: tuple[str, str], number: Mapping[Any, int]
    ) -> tuple[Ints, NDArray[np.uint8]]:
        """Document numbers int64 `[n, 2]` and labels `[n]` of a file of pairs."""
        members, labels = [], []
        for batch in source.open(split, self.data_dir).batches():
            for column in columns:
                for row, name in batch.numbered(column):
                    if name not in number:
                        raise ValueError(f"{batch.where}: {column} {name!r} in row {row} is no document")
            members.append([[number[name] for name in batch.columns[column]] for column in columns])
            labels.append(batch.labels("label", 2))
        return np.concatenate([np.array(part).T for part in members]), np.concatenate(labels)


def _pairs(
    documents: NDArray[np.uint8], lengths: NDArray[np.int32], members: Ints, labels: NDArray[np.uint8]
) -> Rows:
    """Pairs of rows of `documents`; a pair is what it is in either order."""
    digests = row_digests(documents)
    keys = [b"".join(sorted((digests[a], digests[b]))) for a, b in members]

    def take(rows: Ints) -> Examples:
        chosen = members[rows]
        return Examples(
            torch.from_numpy(documents[chosen]),
            torch.from_numpy(labels[rows].astype(np.int64)),
            torch.from_numpy(lengths[chosen].astype(np.int64)),
        )

    return Rows(keys, labels, take)
