"""Small folders in the layouts that tasks read: one builder a set, all under one parent as users may keep them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

WORDS = [
    "a",
    "bad",
    "good",
    "film",
    "the",
    "plot",
    "of",
    "this",
    "was",
    "very",
    "dull",
    "great",
    "fun",
    "and",
    "I",
    "saw",
    "it",
    "naïve",
]
datasets.disable_progress_bars()

CIFAR_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def text(rng: np.random.Generator, words: int = 12) -> str:
    """A sentence that hardly comes twice."""
    return " ".join([*rng.choice(WORDS, words), str(rng.integers(10**9))])


def png(pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The hub's image struct of uint8 `[h, w]` or `[h, w, 3]`."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return {"bytes": stream.getvalue(), "path": None}


def write(file: Path, columns: dict[str, list[Any]], **features: Any) -> None:
    """A Parquet file; `features` for columns whose type is not that of their values."""
    file.parent.mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_dict(columns)
    for name, feature in features.items():
        data = data.cast_column(name, feature)
    data.to_parquet(file)


def imdb(folder: Path, train: int = 900, test: int = 300) -> None:
    """As on the hub: sorted by label."""
    for split, rows in (("train", train), ("test", test)):
        rng = np.random.default_rng(len(split))
        labels = [0] * (rows // 2) + [1] * (rows - rows // 2)
        texts = [text(rng, int(rng.integers(1, 40))) for _ in labels]
        write(
            folder / f"{split}.parquet",
            {"text": texts, "label": labels},
            label=datasets.ClassLabel(names=["neg", "pos"]),
        )


def cifar10(folder: Path, train: int = 800, test: int = 300) -> None:
    """Train in colour, test in grey: both come up in practice."""
    for split, rows, shape in (("train", train, (32, 32, 3)), ("test", test, (32, 32))):
        rng = np.random.default_rng(rows)
        images = [png(rng.integers(256, size=shape).astype(np.uint8)) for _ in range(rows)]
        labels = [row % 10 for row in range(rows)]
        write(
            folder / f"{split}.parquet",
            {"img": images, "label": labels},
            img=datasets.Image(),
            label=datasets.ClassLabel(names=CIFAR_NAMES),
        )


def aan(folder: Path, rows: int = 450) -> None:
    """Tab-separated, without a header or quoting."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, split in enumerate(("train", "eval", "test")):
        rng = np.random.default_rng(seed)
        lines = [f'{row % 2}.0\tP{row}\tQ{row}\t"{text(rng)}\tNA {text(rng)}' for row in range(rows)]
        (folder / f"new_aan_pairs.{split}.tsv").write_text("\n".join(lines) + "\n")


def aan_citations(folder: Path, documents: int = 120, rows: int = 450) -> None:
    """Papers by id, and pairs of ids."""
    rng = np.random.default_rng(0)
    ids = [f"P{number}" for number in range(documents)]
    write(folder / "docs.parquet", {"id": ids, "title": ids, "text": [text(rng) for _ in ids]})
    pairs = _pairs(documents, 3 * rows)
    for i, split in enumerate(("train", "validation", "test")):
        mine = pairs[i * rows : (i + 1) * rows]
        columns = {
            "label": [n % 2 for n in range(rows)],
            "id1": [ids[a] for a, _ in mine],
            "id2": [ids[b] for _, b in mine],
        }
        write(folder / f"{split}.parquet", columns, label=datasets.ClassLabel(names=["unrelated", "cites"]))


def imdb_same_film(folder: Path, rows: int = 450) -> None:
    """Pairs of row numbers of `imdb` beside it: of train for train and validation, of test for test."""
    pairs, test_pairs = _pairs(900, 2 * rows), _pairs(300, rows)
    for split, mine in (("train", pairs[:rows]), ("validation", pairs[rows:]), ("test", test_pairs)):
        columns = {
            "label": [n % 2 for n in range(rows)],
            "row1": [a for a, _ in mine],
            "row2": [b for _, b in mine],
        }
        write(folder / f"{split}.parquet", columns, label=datasets.ClassLabel(names=["different", "same"]))


def _pairs(documents: int, count: int) -> list[tuple[int, int]]:
    """Different pairs, none of them the other way round."""
    rng = np.random.default_rng(documents)
    chosen = rng.choice(documents * (documents - 1) // 2, count, replace=False)
    upper = np.stack(np.triu_indices(documents, 1), axis=1)
    return [(int(a), int(b)) for a, b in upper[chosen]]


#: Name of the folder of a set -> what fills it. A task that reads another set adds its builder.
BUILDERS: dict[str, Callable[[Path], None]] = {
    "imdb": imdb,
    "cifar10": cifar10,
    "aan": aan,
    "aan_citations": aan_citations,
    "imdb_same_film": imdb_same_film,
}


def build_all(parent: Path) -> Path:
    """All sets under `parent`."""
    for name, builder in BUILDERS.items():
        builder(parent / name)
    return parent
