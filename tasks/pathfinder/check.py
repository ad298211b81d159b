"""Own images beside the original program's.

    python -m tasks.pathfinder.check REFERENCE.parquet --task pathfinder

The reference is a Parquet file with the columns image (PNG, grey) and label (1: same curve), of images that
drewlinsley/pathfinder wrote with the same parameters. Prints each statistic of docs/pathfinder.md for both, by
label, with the difference in standard errors; exits 1 when one is further off than `LIMIT` of them, or when a
linear classifier tells the two apart.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.pathfinder.task import Pathfinder

Floats = NDArray[np.float64]
Images = NDArray[np.uint8]

#: Standard errors by which a statistic may differ; 30 of them are compared.
LIMIT = 4.0
VISIBLE = 60  # of 255: above what Lanczos' filter leaves beside a dash
BANDS = ((1, 6), (6, 61), (61, 128), (128, 192), (192, 256))


def quadrant(vertical: slice, horizontal: slice) -> Callable[[Images], Floats]:
    """Share of visible pixels in a part of the images."""
    return lambda images: (images[:, vertical, horizontal] > VISIBLE).mean(axis=(1, 2))


def grey(low: int, high: int) -> Callable[[Images], Floats]:
    """Share of pixels from `low` to under `high`."""
    return lambda images: ((images >= low) & (images < high)).mean(axis=(1, 2))


def components(images: Images) -> Floats:
    """Connected parts of the visible pixels, diagonal neighbours included."""
    from scipy import ndimage

    return np.array([ndimage.label(image > VISIBLE, np.ones((3, 3)))[1] for image in images], dtype=np.float64)


def marker_distance(images: Images) -> Floats:
    """Pixels between the two largest parts of what is left when dashes are worn away; nan where one is left."""
    from scipy import ndimage

    distances = np.full(len(images), np.nan)
    for i, image in enumerate(images):
        solid = ndimage.binary_erosion(image > VISIBLE, iterations=max(1, images.shape[1] // 64))
        parts, count = ndimage.label(solid, np.ones((3, 3)))
        if count < 2:
            continue
        sizes = ndimage.sum_labels(solid, parts, np.arange(1, count + 1))
        largest = np.argsort(sizes)[-2:] + 1
        centres = np.array(ndimage.center_of_mass(solid, parts, largest))
        distances[i] = np.hypot(*(centres[0] - centres[1]))
    return distances


def statistics(size: int) -> dict[str, Callable[[Images], Floats]]:
    """Name -> one number an image."""
    upper, lower = slice(0, size // 2), slice(size // 2, size)
    bands = {f"share of grey {low} to {high - 1}": grey(low, high) for low, high in BANDS}
    return {
        "share above 0": lambda images: (images > 0).mean(axis=(1, 2)),
        f"share above {VISIBLE}": quadrant(slice(None), slice(None)),
        "mean": lambda images: images.mean(axis=(1, 2)),
        **bands,
        "above 60, upper left": quadrant(upper, upper),
        "above 60, upper right": quadrant(upper, lower),
        "above 60, lower left": quadrant(lower, upper),
        "above 60, lower right": quadrant(lower, lower),
        "connected parts": components,
        "distance of markers": marker_distance,
    }


def standard_errors(ours: Floats, theirs: Floats) -> float:
    """Difference of the means (nan left out) in standard errors of that difference."""
    a, b = ours[~np.isnan(ours)], theirs[~np.isnan(theirs)]
    error = np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    return float((a.mean() - b.mean()) / error) if error else 0.0


def told_apart(ours: Images, theirs: Images, seed: int = 0) -> tuple[float, int]:
    """(accuracy, images tested): ridge regression on pixels, as many of both, half to fit and half to test."""
    n = min(len(ours), len(theirs)) // 2 * 2
    rng = np.random.default_rng(seed)
    chosen = [images[rng.permutation(len(images))[:n]] for images in (ours, theirs)]
    pixels = np.stack(chosen).reshape(2, n, -1) / 255.0
    half = n // 2
    fit, test = pixels[:, :half].reshape(n, -1), pixels[:, half:].reshape(n, -1)
    target = np.repeat([1.0, -1.0], half)
    middle = fit.mean(axis=0)
    gram = (fit - middle) @ (fit - middle).T  # n x n: pixels may be more than images
    weights = (fit - middle).T @ np.linalg.solve(gram + n * np.eye(n), target)
    return float((((test - middle) @ weights > 0) == (target > 0)).mean()), n


def read(path: Path) -> tuple[Images, NDArray[np.int64]]:
    """(images, labels) of a Parquet file."""
    import pandas as pd
    from PIL import Image

    frame = pd.read_parquet(path, columns=["image", "label"])
    images = [np.asarray(Image.open(io.BytesIO(item["bytes"])).convert("L")) for item in frame["image"]]
    return np.stack(images), frame["label"].to_numpy()


def own(name: str, count: int, seed: int) -> tuple[Images, NDArray[np.int64]]:
    """(images, labels) of the generator with the parameters of `conf/task/NAME.yaml`."""
    from omegaconf import OmegaConf

    file = Path(__file__).parents[2] / "conf" / "task" / f"{name}.yaml"
    conf: Any = OmegaConf.to_container(OmegaConf.load(file))
    task = Pathfinder(seq_len=conf["seq_len"], seed=seed, **conf["params"])
    parts = list(task.chunks(count))
    return np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts]).astype(np.int64)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Compare Pathfinder images with the original program's.")
    parser.add_argument("reference", type=Path, help="Parquet file with the columns image and label")
    parser.add_argument("--task", default="pathfinder", help="preset in conf/task; default: pathfinder")
    parser.add_argument("--images", type=int, help="own images; default: as many as the reference has")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    theirs, their_labels = read(options.reference)
    ours, our_labels = own(options.task, options.images or len(theirs), options.seed)
    if ours.shape[1:] != theirs.shape[1:]:
        sizes = [f"{images.shape[1]} x {images.shape[2]}" for images in (theirs, ours)]
        print(
            f"{options.reference}: images are {sizes[0]} pixels, those of {options.task} {sizes[1]}; "
            "choose another --task",
            file=sys.stderr,
        )
        return 2

    print(f"{len(ours)} own images ({options.task}), {len(theirs)} of {options.reference.name}")
    print(f"{'':34}{'own':>10}{'reference':>12}{'difference / standard error':>30}")
    rows = {"share of label 1": (our_labels.astype(np.float64), their_labels.astype(np.float64))}
    for name, statistic in statistics(ours.shape[1]).items():
        for label in (0, 1):
            pair = statistic(ours[our_labels == label]), statistic(theirs[their_labels == label])
            rows[f"{name}, label {label}"] = pair
    bad = 0
    for name, (mine, reference) in rows.items():
        off = standard_errors(mine, reference)
        bad += abs(off) > LIMIT
        mark = "  !" if abs(off) > LIMIT else ""
        print(f"{name:34}{np.nanmean(mine):10.4f}{np.nanmean(reference):12.4f}{off:+30.1f}{mark}")
    accuracy, tested = told_apart(ours, theirs)
    above = (accuracy - 0.5) / np.sqrt(0.25 / tested)
    bad += above > LIMIT
    print(f"told apart by a linear classifier: {accuracy:.3f} of {tested} ({above:+.1f} standard errors over 0.5)")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
