"""What is pasted into a Pathfinder image, drawn once for every direction: dashes, their footprints, markers.

A direction is an angle `a` in radians, its step (sin a, cos a) in (row, column); `step` rounds each coordinate up,
as the original program does. drewlinsley/pathfinder, snakes.py: `draw_line_n_mask`, `get_coords_cmf`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, pi, sin
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

#: Directions of a first dash: whole degrees from -180 on.
DEGREES = 360
_LANCZOS = 3  # pixels on either side that the filter reaches


@dataclass(frozen=True)
class Dash:
    """Shape of a dash, in pixels: length, thickness, margin kept free around it; `scale` fine pixels make one."""

    length: int
    thickness: float
    margin: int
    scale: int

    @property
    def reach(self) -> int:
        """Half the side of a sprite."""
        return self.length + ceil(self.thickness) + self.margin


class Sprites(NamedTuple):
    """Everything that growing a snake looks up; arrays only, so that compiled code takes it as it is.

    The first `DEGREES` sprites are of first dashes, by direction, in degrees from -180 on: from the tail forwards.
    The others are of later ones, by candidate: from the head back towards the pivot.
    """

    dashes: Floats  # [sprites, side, side] intensities in [0, 1]
    footprints: Floats  # [sprites, side, side] occupancy in [0, 1]
    kernels: Ints  # [DEGREES, most, 2] offsets that must be free for a first dash
    kernel_sizes: Ints  # [DEGREES] offsets in use; 0: no place is ever free
    candidates: Ints  # [candidates, 2] offsets of possible heads from the pivot, by row, then column
    angles: NDArray[np.float64]  # [candidates] their directions
    disc: Ints  # [pixels, 2] offsets within the margin


def sprites(dash: Dash, *, isotropic: bool) -> Sprites:
    """All sprites of dashes of one shape. isotropic: first dashes may point anywhere (see `kernel`)."""
    first = [(degree - 180) * pi / 180 for degree in range(DEGREES)]
    offsets = circle(dash.length + dash.margin)
    angles = np.arctan2(offsets[:, 0], offsets[:, 1])
    drawn = [draw(dash, angle) for angle in [*first, *(turned(angle) for angle in angles)]]
    kernels = [kernel(dash, footprint, isotropic=isotropic) for _, footprint in drawn[:DEGREES]]
    table = np.zeros((DEGREES, max(1, *map(len, kernels)), 2), dtype=np.int64)
    for row, offset in zip(table, kernels, strict=True):
        row[: len(offset)] = offset
    return Sprites(
        np.stack([image for image, _ in drawn]),
        np.stack([footprint for _, footprint in drawn]),
        table,
        np.array(list(map(len, kernels)), dtype=np.int64),
        offsets,
        angles,
        np.argwhere(disc(dash.margin)) - dash.margin,
    )


def turned(angle: float) -> float:
    """The opposite direction."""
    return angle + pi if angle < 0 else angle - pi


def step(row: float, column: float, angle: float, distance: float) -> tuple[int, int]:
    """The point `distance` away, each coordinate rounded up."""
    return ceil(row + distance * sin(angle)), ceil(column + distance * cos(angle))


def disc(radius: float) -> NDArray[np.bool_]:
    """bool `[side, side]`: within `radius` of the middle."""
    reach = int(radius)
    rows, columns = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    inside: NDArray[np.bool_] = rows**2 + columns**2 <= radius**2
    return inside


def circle(radius: float) -> Ints:
    """int64 `[points, 2]`: the pixels of a circle about a pixel, one sample a pixel of arc, sorted, each once."""
    angles = np.arange(0, 360, 360 / (2 * radius * pi)) * pi / 180
    far = 1024  # as in the middle of a large image: coordinates are cut, not rounded
    points = far + radius * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    return np.unique(points.astype(np.int64), axis=0) - far


def draw(dash: Dash, angle: float) -> tuple[Floats, Floats]:
    """(intensity, footprint), each `[side, side]` in [0, 1], of a dash from the middle in a direction."""
    middle, scale = dash.reach * dash.scale, dash.scale
    canvas = Image.new("L", (2 * middle + 1, 2 * middle + 1), 0)
    row, column = step(middle, middle, angle, dash.length * scale)
    width = round(dash.thickness * scale)
    ImageDraw.Draw(canvas).line([(middle, middle), (column, row)], fill=255, width=width)
    line = np.asarray(canvas)
    side = 2 * dash.reach + 1
    return reduced(line, side), reduced(dilated(line, disc(dash.margin * scale)), side)


def dilated(image: NDArray[np.uint8], structure: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The largest value under the structure, centred on each pixel."""
    from scipy import ndimage  # 0.1 s: only here

    grown: NDArray[np.uint8] = ndimage.grey_dilation(image, footprint=structure, mode="constant", cval=0)
    return grown


def reduced(image: NDArray[np.uint8], side: int) -> Floats:
    """float32 `[side, side]` in [0, 1]: the image made smaller by Lanczos' filter, in 8 bits like the original."""
    small = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def kernel(dash: Dash, footprint: Floats, *, isotropic: bool) -> Ints:
    """int64 `[n, 2]`: the offsets from the tail of a first dash that must be free; none when no place ever is.

    They are the pixels that the footprint covers wholly. The original draws it one pixel down and right of
    where it belongs, and takes a place for full when, at an image's corner, no offset lies inside the image:
    the value it compares is then minus infinity. So only directions whose footprint reaches all four ways from
    the tail succeed: at a margin of 1, few. `isotropic` does neither.
    """
    offsets = np.argwhere(footprint == 1) - dash.reach
    if isotropic:
        return offsets
    half = dash.length + dash.margin  # of the original's kernel, which cuts the footprint off
    offsets = (offsets + 1)[(np.abs(offsets + 1) <= half).all(axis=1)]
    corners = [((offsets * signs) >= 0).all(axis=1).any() for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
    return offsets if all(corners) else offsets[:0]


def markers(radius: float, scale: int, size: int) -> Floats:
    """Discs of `radius` pixels about the first fine pixel of theirs, for every place in an image of side `size`.

    float32 `[side, side, side, side]`, by row and column of the marker in its window. Windows are `side` pixels
    square and lie centred on the marker where the image's edges allow: at an edge the filter differs.
    """
    side = min(size, 2 * (ceil(radius) + _LANCZOS + 1) + 1)
    fine = np.arange(side * scale)
    discs = np.empty((side, side, side, side), dtype=np.float32)
    for row, column in np.ndindex(side, side):
        distance = (fine[:, None] - row * scale) ** 2 + (fine - column * scale) ** 2
        inside = distance <= (radius * scale) ** 2
        discs[row, column] = reduced(inside.astype(np.uint8) * np.uint8(255), side)
    return discs
