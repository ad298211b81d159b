from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from tasks.base import Examples, SplitName
from tasks.retrieval import PairSource, Retrieval
from tests.tasks import folders


def retrieval(data_dir: Path | str, source: PairSource, **changes: Any) -> Retrieval:
    return Retrieval(**{"seq_len": 32, "seed": 0, "data_dir": str(data_dir), "source": source} | changes)


def encoded(first: str, second: str, seq_len: int = 32) -> tuple[list[int], list[int]]:
    """Ids by hand."""
    one, two = ([byte + 1 for byte in text.encode()[:seq_len]] for text in (first, second))
    return one + [0] * (seq_len - len(one)), two + [0] * (seq_len - len(two))


def read(file: Path) -> datasets.Dataset:
    return datasets.Dataset.from_parquet(str(file), cache_dir=str(file.parents[1] / "hf"))


def truth(folder: Path, source: PairSource, split: SplitName) -> list[tuple[int, str, str]]:
    """(label, text, text) of a split's file, by other means than the task's."""
    if source == "aan":
        name = {"train": "train", "dev": "eval", "test": "test"}[split]
        lines = (folder / "aan" / f"new_aan_pairs.{name}.tsv").read_text().splitlines()
        fields = [line.split("\t") for line in lines]
        return [(int(float(label)), first, second) for label, _, _, first, second in fields]
    name = {"train": "train", "dev": "validation", "test": "test"}[split]
    if source == "acl_citations":
        papers = read(folder / "aan_citations" / "docs.parquet")
        texts: dict[Any, str] = dict(zip(papers["id"], papers["text"], strict=True))
        pairs, columns = read(folder / "aan_citations" / f"{name}.parquet"), ("id1", "id2")
    else:
        texts = dict(
            enumerate(read(folder / "imdb" / f"{'test' if split == 'test' else 'train'}.parquet")["text"])
        )
        pairs, columns = read(folder / "imdb_same_film" / f"{name}.parquet"), ("row1", "row2")
    return [(row["label"], texts[row[columns[0]]], texts[row[columns[1]]]) for row in pairs]


def rows(examples: Examples) -> list[tuple[int, tuple[list[int], list[int]]]]:
    return [
        (label, (pair[0], pair[1]))
        for label, pair in zip(examples.targets.tolist(), examples.tokens.tolist(), strict=True)
    ]


@pytest.mark.parametrize("source", ["aan", "acl_citations", "same_film"])
def test_pairs_are_those_of_the_files(data_dir: str, source: PairSource) -> None:
    task = retrieval(data_dir, source)
    for split in ("train", "dev", "test"):
        expected = [(label, encoded(a, b)) for label, a, b in truth(Path(data_dir), source, split)]
        examples = task.examples(split)
        assert rows(examples) == expected
        real = (examples.tokens != 0).sum(-1)
        assert torch.equal(examples.lengths, real)
        assert examples.tokens.dtype == torch.uint8


def test_the_folder_of_the_set_itself(data_dir: str) -> None:
    for source, name in (("aan", "aan"), ("acl_citations", "aan_citations")):
        own, above = retrieval(f"{data_dir}/{name}", source), retrieval(data_dir, source)
        assert torch.equal(own.examples("dev").tokens, above.examples("dev").tokens)


def test_pairs_stand_in_one_split_in_either_order(tmp_path: Path) -> None:
    texts = {f"P{n}": f"paper {n}" for n in range(8)}
    folders.write(tmp_path / "docs.parquet", {"id": list(texts), "text": list(texts.values())})
    files = {
        "test": ["P0 P1", "P0 P1", "P2 P3"],
        "validation": ["P1 P0", "P4 P5", "P4 P5", "P4 P6"],
        "train": ["P3 P2", "P5 P4", "P0 P2", "P6 P7", "P6 P7"],
    }
    for name, pairs in files.items():
        first, second = zip(*(pair.split() for pair in pairs), strict=True)
        columns = {"label": [n % 2 for n in range(len(pairs))], "id1": list(first), "id2": list(second)}
        folders.write(tmp_path / f"{name}.parquet", columns)
    task = retrieval(tmp_path, "acl_citations")
    found = {split: [pair for _, pair in rows(task.examples(split))] for split in ("train", "dev", "test")}
    assert found == {
        "test": [encoded("paper 0", "paper 1")] * 2 + [encoded("paper 2", "paper 3")],
        "dev": [encoded("paper 4", "paper 5"), encoded("paper 4", "paper 6")],
        "train": [encoded("paper 0", "paper 2")] + [encoded("paper 6", "paper 7")] * 2,
    }


def test_the_head_has_the_interaction_or_not(data_dir: str) -> None:
    wide, narrow = (retrieval(data_dir, "aan", interaction=choice).head(8, "mean") for choice in (True, False))
    assert [head.hidden.in_features for head in (wide, narrow)] == [32, 16]


def test_documents_that_are_not_there(data_dir: str, tmp_path: Path) -> None:
    folders.aan_citations(tmp_path / "aan_citations", rows=4)
    pair = {"label": [0, 1], "id1": ["P1", "P1"], "id2": ["P2", "X"]}
    folders.write(tmp_path / "aan_citations" / "test.parquet", pair)
    with pytest.raises(ValueError, match=r"aan_citations/test\.parquet: id2 'X' in row 1 is no document"):
        retrieval(tmp_path, "acl_citations").examples("test")
    folders.imdb(tmp_path / "imdb", train=10, test=10)
    folders.imdb_same_film(tmp_path / "imdb_same_film")
    folders.write(tmp_path / "imdb_same_film" / "test.parquet", {"label": [0], "row1": [9], "row2": [10]})
    with pytest.raises(ValueError, match=r"test\.parquet: row2 10 in row 0 is no document"):
        retrieval(tmp_path, "same_film").examples("test")


def test_what_is_missing_is_said_for_each_part(tmp_path: Path) -> None:
    assert "task.data_dir: not given; imdb_same_film is not on" in str(
        Retrieval(seq_len=8, seed=0, source="same_film").why_missing()
    )
    folders.imdb_same_film(tmp_path / "imdb_same_film")
    assert "no train.parquet of imdb;" in str(retrieval(tmp_path, "same_film").why_missing())
    folders.imdb(tmp_path / "imdb", train=10, test=10)
    assert retrieval(tmp_path, "same_film").why_missing() is None
    assert Retrieval(seq_len=8, seed=0).why_missing() is None


def test_an_unknown_source() -> None:
    with pytest.raises(ValueError, match=r"^source='acl': expected one of aan, acl_citations, same_film"):
        retrieval("nowhere", "acl")  # type: ignore[arg-type]
