"""Pathfinder (Long Range Arena; Path-X at 128 pixels): two dots, one dashed curve through both or not.

Houtkamp and Roelfsema (2010); Linsley et al. (2018), arXiv:1805.08315; Kim et al. (2019), arXiv:1906.01558;
Tay et al., Long Range Arena (2020), arXiv:2011.04006, lra_benchmarks/data/pathfinder.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from math import isqrt
from typing import Literal, get_args

import numpy as np
import torch
from tqdm import tqdm

from tasks.base import Examples, SplitName, Task, majority_share
from tasks.data import Table, cached, row_digests
from tasks.pathfinder import sprites
from tasks.seeds import generator
from tasks.splits import check_at_least, split_counts

Mode = Literal["faithful", "isotropic"]

_CHUNK = 500  # images between two looks at progress
_MODULES = ("task", "sprites", "canvas", "places", "growth")
_SOURCES = (*(f"tasks.pathfinder.{name}" for name in _MODULES), "tasks.seeds")


class Pathfinder(Task):
    """Whether both marked dots lie on the same dashed curve (1) or not (0); grey values 0..255 used as ids.

    seq_len: pixels, a square number: 1024 are 32 x 32. Defaults are Long Range Arena's at that size.
    mode: `faithful` to the original program, in which a first dash at a margin of 1 or 2 succeeds in few
    directions only, or `isotropic`, as its paper describes it, with all directions and fuller images.
    dash_length, dash_thickness, margins: a dash in pixels, and the distance kept around it, drawn from `margins`
    for each image. border: of the frame that stays empty. scale: fine pixels a pixel, of antialiasing.
    seed_distance: between the beginnings of the two targets. marker_radius. continuity: larger is straighter.
    contour_length: dashes of a target, 6, 9 or 14 in the published levels; distractors have a third of that, and
    there are at most as many as `distractor_dashes` make. snake_contrast, dash_contrast: of the snakes, and of the
    targets' dashes on top of it.
    mask_black: pixels of value 0 are padding, as in Long Range Arena, whose mask is "id is not 0".

    Like the original, one set is drawn and cut into train, dev and test, with no image twice. Made once, then
    read from the cache.
    """

    def __init__(
        self,
        *,
        seq_len: int,
        seed: int,
        mode: Mode = "faithful",
        dash_length: int = 2,
        dash_thickness: float = 0.5,
        margins: Sequence[int] = (1,),
        border: int = 1,
        scale: int = 2,
        seed_distance: int = 7,
        marker_radius: float = 1.5,
        continuity: float = 1.0,
        contour_length: int = 14,
        distractor_dashes: int = 20,
        snake_contrast: float = 2.0,
        dash_contrast: float = 0.75,
        mask_black: bool = False,
        train_examples: int = 160_000,
        dev_examples: int = 20_000,
        test_examples: int = 20_000,
    ) -> None:
        super().__init__(seq_len=seq_len, seed=seed)
        self.size = isqrt(seq_len) if seq_len > 0 else 0
        if self.size**2 != seq_len or self.size < 8:
            raise ValueError(f"seq_len={seq_len}: expected a square number from 64 on, the pixels of an image")
        if mode not in get_args(Mode):
            raise ValueError(f"mode={mode}: expected one of {', '.join(get_args(Mode))}")
        check_at_least(dash_length, 1, "dash_length")
        check_at_least(scale, 1, "scale")
        if dash_thickness <= 0 or (dash_thickness * scale) % 1:
            raise ValueError(
                f"dash_thickness={dash_thickness}: expected a positive multiple of 1 / scale, scale={scale}"
            )
        if not margins or min(margins) < 1:
            raise ValueError(f"margins={list(margins)}: expected whole numbers of at least 1")
        if not 0 <= border < self.size // 2:
            raise ValueError(f"border={border}: expected 0 to {self.size // 2 - 1}, less than half the image")
        farthest = (self.size - 1) // 4
        if not 1 <= seed_distance <= farthest:
            raise ValueError(
                f"seed_distance={seed_distance}: expected 1 to {farthest}, under a quarter of the image"
            )
        check_at_least(contour_length, 3, "contour_length", "distractors have a third of it")
        check_at_least(distractor_dashes, 0, "distractor_dashes")
        for name, value in {
            "marker_radius": marker_radius,
            "continuity": continuity,
            "snake_contrast": snake_contrast,
            "dash_contrast": dash_contrast,
        }.items():
            if not value > 0:
                raise ValueError(f"{name}={value}: expected a positive number")
        self._counts = split_counts(train_examples, dev_examples, test_examples)
        self.mode, self.margins, self.mask_black = mode, tuple(margins), mask_black
        self.dash_length, self.dash_thickness, self.scale = dash_length, dash_thickness, scale
        self.border, self.seed_distance, self.marker_radius = border, seed_distance, marker_radius
        self.continuity, self.contour_length = continuity, contour_length
        self.distractor_dashes = distractor_dashes
        self.snake_contrast, self.dash_contrast = snake_contrast, dash_contrast

    @property
    def vocab_size(self) -> int:
        """The grey values; 0 is black, and no padding is needed."""
        return 256

    @property
    def num_classes(self) -> int:
        """Two curves, or one."""
        return 2

    @property
    def chance(self) -> float:
        """Share of the more frequent label of the test split."""
        return majority_share(self.examples("test").targets)

    def examples(self, split: SplitName) -> Examples:
        """The whole split; tokens uint8 `[n, seq_len]`, row by row, targets int64 `[n]`."""
        return self._splits[split]

    @cached_property
    def _splits(self) -> dict[SplitName, Examples]:
        total = sum(self._counts.values())
        identity = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if not name.startswith("_") and name != "mask_black"
        }
        sources = (*_SOURCES, type(self).__module__)
        table = cached("pathfinder", {**identity, "total": total}, sources, lambda: self._generate(total))
        splits, end = {}, 0
        for name, count in self._counts.items():
            rows, end = slice(end, end + count), end + count
            tokens = torch.from_numpy(table["tokens"][rows].copy())  # the cache's memory cannot be written to
            splits[name] = Examples(
                tokens,
                torch.from_numpy(table["targets"][rows].astype(np.int64)),
                torch.full((count,), self.seq_len, dtype=torch.int32),
                padding=tokens == 0 if self.mask_black else None,
            )
        return splits

    def _generate(self, total: int) -> Table:
        tokens = np.empty((total, self.seq_len), dtype=np.uint8)
        targets = np.empty(total, dtype=np.uint8)
        have = 0
        with tqdm(total=total, desc=f"pathfinder {self.size} x {self.size}", unit=" images", disable=None) as bar:
            for images, labels in self.chunks(total):
                rows = images[: total - have].reshape(-1, self.seq_len)
                tokens[have : have + len(rows)] = rows
                targets[have : have + len(rows)] = labels[: len(rows)]
                have += len(rows)
                bar.update(len(rows))
        return {"tokens": tokens, "targets": targets}

    def chunks(self, total: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(images uint8 `[n, size, size]`, labels uint8 `[n]`) until there are `total` or a few more, none twice.

        ValueError when targets do not fit into the image.
        """
        from tasks.pathfinder import growth  # compiles: only to make images
        from tasks.pathfinder.canvas import Rules
        from tasks.pathfinder.places import beginnings

        discs = sprites.markers(self.marker_radius, self.scale, self.size)
        distractor_length = self.contour_length // 3
        kinds = []
        for margin in self.margins:
            dash = sprites.Dash(self.dash_length, self.dash_thickness, margin, self.scale)
            rules = Rules(
                size=self.size,
                border=self.border,
                seed_distance=self.seed_distance,
                length=self.dash_length,
                margin=margin,
                continuity=float(self.continuity),
                contour_length=self.contour_length,
                distractor_length=distractor_length,
                distractors=self.distractor_dashes // distractor_length,
                target_contrast=float(self.snake_contrast * self.dash_contrast),
                distractor_contrast=float(self.snake_contrast),
                outside_is_free=self.mode == "faithful",
            )
            shape = sprites.sprites(dash, isotropic=self.mode == "isotropic")
            kinds.append((rules, shape, beginnings(rules, shape)))

        rng = generator(self.seed, "images")
        seen: set[bytes] = set()
        while len(seen) < total:
            count = min(_CHUNK, total - len(seen)) if seen else min(8, total)  # a few first: do they fit?
            seeds = rng.integers(2**64, size=count, dtype=np.uint64)
            chosen = rng.integers(len(kinds), size=count)
            images = np.empty((count, self.size, self.size), dtype=np.uint8)
            labels = np.empty(count, dtype=np.uint8)
            for which, (rules, shape, begin) in enumerate(kinds):
                mine = np.flatnonzero(chosen == which)
                grown = growth.grow(rules, shape, begin, discs, seeds[mine])
                if (grown.starts == 0).any():
                    raise ValueError(
                        f"contour_length={self.contour_length}: no two targets of that many dashes fit in "
                        f"{self.size} x {self.size} pixels in {growth.GIVE_UP} attempts; expected fewer, "
                        "shorter dashes or a larger seq_len"
                    )
                images[mine], labels[mine] = grown.pixels, grown.labels
            new = []
            for row, digest in enumerate(row_digests(images.reshape(count, -1))):
                if digest not in seen:
                    seen.add(digest)
                    new.append(row)
            yield images[new], labels[new]
