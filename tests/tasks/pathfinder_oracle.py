"""Pathfinder once more, plainly: whole maps, one image at a time, from the rules in docs/pathfinder.md.

It draws the same random numbers in the same order as the compiled generator, so that images must be equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

MASK = 2**64 - 1


@dataclass
class Plain:
    """One image; call `make`. Parameters as in `conf/task/pathfinder.yaml`, one margin."""

    size: int = 32
    length: int = 2
    thickness: float = 0.5
    margin: int = 1
    border: int = 1
    scale: int = 2
    seed_distance: int = 7
    marker_radius: float = 1.5
    continuity: float = 1.0
    contour_length: int = 14
    distractor_length: int = 4
    distractors: int = 5
    target_contrast: float = 1.5
    distractor_contrast: float = 2.0
    faithful: bool = True
    state: int = 0
    starts: int = field(default=0, init=False)
    fitted: int = field(default=0, init=False)

    def random(self) -> float:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return ((z ^ (z >> 31)) >> 11) * 2.0**-53

    def below(self, n: int) -> int:
        return int(self.random() * n)

    def inside(self, *point: int) -> bool:
        return all(0 <= p < self.size for p in point)

    def disc(self, radius: int) -> np.ndarray:
        y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        return y * y + x * x <= radius * radius

    def dash(self, angle: float) -> tuple[np.ndarray, np.ndarray]:
        reach = self.length + ceil(self.thickness) + self.margin
        middle = reach * self.scale
        canvas = Image.new("F", (2 * middle + 1,) * 2, 0)
        end = step((middle, middle), angle, self.length * self.scale)
        ImageDraw.Draw(canvas).line(
            [(middle, middle), end[::-1]], fill=255, width=round(self.thickness * self.scale)
        )
        line = np.asarray(canvas).astype(np.uint8)
        footprint = ndimage.grey_dilation(line, footprint=self.disc(self.margin * self.scale))
        small = (2 * reach + 1,) * 2
        a, b = (Image.fromarray(x).resize(small, Image.Resampling.LANCZOS) for x in (line, footprint))
        return np.float32(a) / np.float32(255), np.float32(b) / np.float32(255)

    def whole(self, patch: np.ndarray, at: tuple[int, int]) -> np.ndarray:
        """The patch, centred on a pixel of an empty image."""
        reach = len(patch) // 2
        wide = np.zeros((self.size + 4 * reach,) * 2, dtype=np.float32)
        y, x = at[0] + 2 * reach, at[1] + 2 * reach
        wide[y - reach : y + reach + 1, x - reach : x + reach + 1] = patch
        return wide[2 * reach : -2 * reach, 2 * reach : -2 * reach]

    def begin_anywhere(self, occupancy: np.ndarray, edge: int) -> tuple | None:
        for _ in range(3):
            degree = self.below(360)
            angle = (degree - 180) * pi / 180
            footprint = self.dash(angle)[1]
            taken = occupancy.copy()
            for side in (taken, taken.T):
                side[:edge] = side[self.size - edge :] = 1
            offsets = np.argwhere(footprint == 1) - len(footprint) // 2
            if self.faithful:
                half = self.length + self.margin
                offsets = np.array([o + 1 for o in offsets if abs(o + 1).max() <= half]).reshape(-1, 2)
            worst = np.full((self.size, self.size), -np.inf if self.faithful else 0.0)
            for place in np.ndindex(worst.shape):
                for dy, dx in offsets:
                    y, x = place[0] + dy, place[1] + dx
                    if self.inside(y, x):
                        worst[place] = max(worst[place], taken[y, x])
                    elif not self.faithful:
                        worst[place] = 1
            free = np.argwhere(worst <= np.float32(0.3))
            if np.isneginf(worst).any() or not len(free):
                return None
            tail = tuple(int(v) for v in free[self.below(len(free))])
            if snake := self.begin(tail, angle):
                return snake
        return None

    def begin(self, tail: tuple[int, int], angle: float) -> tuple | None:
        head = step(tail, angle, self.length)
        pivot = step(head, turned(angle), self.length + self.margin)
        return (pivot, angle, self.dash(angle), tail) if self.inside(*head, *pivot) else None

    def extend(self, occupancy: np.ndarray, snake: tuple) -> tuple | None:
        old_pivot, angle, newest, place = snake
        pivot = step(old_pivot, angle, self.length + 2 * self.margin)
        grown = ndimage.grey_dilation(occupancy, footprint=self.disc(self.margin), mode="constant", cval=0)
        radius = self.length + self.margin
        heads = set()
        for around in np.arange(0, 360, 360 / (2 * pi * radius)) * pi / 180:
            y, x = pivot[0] + radius * sin(around), pivot[1] + radius * cos(around)
            if 0 <= y < self.size and 0 <= x < self.size:
                heads.add((int(y), int(x)))
        choices = sorted(heads)
        angles = [float(np.arctan2(y - pivot[0], x - pivot[1])) for y, x in choices]
        turns = [min(abs(a - angle), 2 * pi - abs(a - angle)) * self.continuity for a in angles]
        weights = [
            max(cos(min(t, pi / 2)), 0.0) ** 2 * (1 - grown[c]) for t, c in zip(turns, choices, strict=True)
        ]
        if sum(weights) < 1e-4:
            return None
        for _ in range(3):
            chosen = int(np.argmax(np.cumsum(weights) > self.random() * sum(weights)))
            dash = self.dash(turned(angles[chosen]))
            if (occupancy + self.whole(dash[1], choices[chosen])).max() < 1.8:
                np.maximum(occupancy, self.whole(newest[1], place), out=occupancy)
                return pivot, angles[chosen], dash, choices[chosen]
        return None

    def targets(self) -> tuple | None:
        occupancy = np.ones((self.size, self.size), dtype=np.float32)
        occupancy[self.border : -self.border, self.border : -self.border] = 0
        image = np.zeros_like(occupancy)
        first = self.begin_anywhere(occupancy, 2 * self.seed_distance)
        if first is None:
            return None
        second = None
        for _ in range(3):
            degree, where = self.below(360), self.below(360) * pi / 180
            y, x = first[3]
            tail = (round(y + self.seed_distance * sin(where)), round(x + self.seed_distance * cos(where)))
            if second := self.begin(tail, (degree - 180) * pi / 180):
                break
        if second is None:
            return None
        snakes = [first, second]
        origins = [snake[3] for snake in snakes]
        drawn = list(snakes)
        for _ in range(self.contour_length - 1):
            for which in range(2):
                snake = self.extend(occupancy, snakes[which])
                if snake is None:
                    return None
                snakes[which] = snake
                drawn.append(snake)
        for snake in drawn:
            image = np.maximum(image, self.whole(snake[2][0], snake[3]) * np.float32(self.target_contrast))
        occupancy = np.maximum(occupancy, self.whole(snakes[1][2][1], snakes[1][3]))
        return image, occupancy, origins, [snake[3] for snake in snakes]

    def distractor(self, occupancy: np.ndarray) -> tuple | None:
        if (occupancy <= np.float32(0.3)).mean() < 0.01:
            return None
        occupancy = occupancy.copy()
        snake = self.begin_anywhere(occupancy, 1)
        drawn = [snake]
        while snake is not None and len(drawn) < self.distractor_length:
            snake = self.extend(occupancy, snake)
            drawn.append(snake)
        if snake is None:
            return None
        return np.maximum(occupancy, self.whole(snake[2][1], snake[3])), drawn

    def marker(self, at: tuple[int, int]) -> np.ndarray:
        y, x = np.mgrid[: self.size * self.scale, : self.size * self.scale]
        inside = (y - at[0] * self.scale) ** 2 + (x - at[1] * self.scale) ** 2 <= (
            self.marker_radius * self.scale
        ) ** 2
        fine = Image.fromarray(inside.astype(np.uint8) * 255)
        return np.float32(fine.resize((self.size, self.size), Image.Resampling.LANCZOS)) / np.float32(255)

    def make(self) -> tuple[np.ndarray, int]:
        """(pixels uint8 `[size, size]`, label)."""
        grown = None
        while grown is None:
            self.starts += 1
            grown = self.targets()
        image, occupancy, origins, ends = grown
        for _ in range(self.distractors):
            for _ in range(5):
                if (made := self.distractor(occupancy)) is not None:
                    occupancy, drawn = made
                    self.fitted += 1
                    for snake in drawn:
                        dash = self.whole(snake[2][0], snake[3]) * np.float32(self.distractor_contrast)
                        image = np.maximum(image, dash)
                    break
        label, origin = self.below(2), self.below(2)
        for at in (origins[origin], ends[origin if label else 1 - origin]):
            image = np.maximum(image, self.marker(at))
        image = image.astype(np.float64)
        low, high = image.min(), image.max()
        return ((image - low) * (255.0 / (high - low)) + 0.5).astype(np.uint8), label


def step(point: tuple[int, int], angle: float, distance: float) -> tuple[int, int]:
    return ceil(point[0] + distance * sin(angle)), ceil(point[1] + distance * cos(angle))


def turned(angle: float) -> float:
    return angle + pi if angle < 0 else angle - pi
