"""Pathfinder images grown by compiled code: two target snakes in turns, short distractors, markers.

The rules are those of the original program, drewlinsley/pathfinder (snakes2.py, snakes.py; Linsley et al. 2018,
arXiv:1805.08315, Houtkamp and Roelfsema's task), told in docs/pathfinder.md. Everything compiled lives in this
module: numba's cache on disk does not see an edit in another one.

Each image has a random stream of its own, so images do not depend on threads, nor on each other.
"""

from __future__ import annotations

from math import ceil, cos, pi, sin
from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from tasks.pathfinder.sprites import DEGREES, Floats, Ints, Sprites

_FREE = 0.3  # occupancy up to which a pixel is free for a first dash
_CROSSING = 1.8  # occupancy and footprint together from which dashes cross
_DEAD_END = 1e-4  # sum of candidates' weights under which there is no way on
_FULL = 0.01  # share of free pixels under which no distractor is tried
_TRIES = 3  # of a dash
_ATTEMPTS = 5  # of a distractor


class Rules(NamedTuple):
    """Numbers that do not change from image to image; distances in pixels."""

    size: int  # side of the image
    border: int  # width of the frame that is taken from the start
    seed_distance: int  # between the tails of the two targets
    length: int  # of a dash
    margin: int  # kept free around it
    continuity: float  # 1 lets a snake turn by up to 90 degrees; larger is straighter
    contour_length: int  # dashes of a target
    distractor_length: int  # dashes of a distractor
    distractors: int  # at most
    target_contrast: float
    distractor_contrast: float
    outside_is_free: bool  # to a first dash, as in the original


class Images(NamedTuple):
    """What `grow` returns, a row an image.

    pixels: uint8 `[n, size, size]`, stretched over 0..255. labels: uint8 `[n]`, 1 when both markers are on one
    snake. starts: int64 `[n]`, how often the targets were begun; 0 when they never fitted, and then the rest means
    nothing. distractors: int64 `[n]`, how many fitted.
    markers: int64 `[n, 2, 2]`, (row, column) of both.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    starts: NDArray[np.int64]
    distractors: NDArray[np.int64]
    markers: NDArray[np.int64]


def beginnings(rules: Rules, sprites: Sprites) -> tuple[Ints, Ints]:
    """Where the first target may begin: places int64 `[DEGREES, most, 2]`, and how many of them, `[DEGREES]`."""
    places: Ints
    counts: Ints
    places, counts = _target_places(rules, sprites)
    return places, counts


#: How often targets are begun before an image is given up; 32 pixels need about 300.
GIVE_UP = 200_000


def grow(
    rules: Rules, sprites: Sprites, begin: tuple[Ints, Ints], discs: Floats, seeds: NDArray[np.uint64]
) -> Images:
    """One image a seed, on all cores; equal seeds give equal images.

    begin: from `beginnings`. discs: from `sprites.markers`.
    """
    n, size = len(seeds), rules.size
    images = Images(
        np.empty((n, size, size), dtype=np.uint8),
        np.empty(n, dtype=np.uint8),
        np.zeros(n, dtype=np.int64),
        np.empty(n, dtype=np.int64),
        np.empty((n, 2, 2), dtype=np.int64),
    )
    _grow_all(rules, sprites, begin, discs, seeds, images)
    return images


@njit(cache=True, nogil=True)
def _random(stream):  # type: ignore[no-untyped-def]
    """Uniform in [0, 1) (splitmix64: Steele, Lea and Flood 2014)."""
    stream[0] += np.uint64(0x9E3779B97F4A7C15)
    z = stream[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) * 2.0**-53


@njit(cache=True, nogil=True)
def _below(stream, n):  # type: ignore[no-untyped-def]
    return int(_random(stream) * n)


@njit(cache=True, nogil=True)
def _step(row, column, angle, distance):  # type: ignore[no-untyped-def]
    return ceil(row + distance * sin(angle)), ceil(column + distance * cos(angle))


@njit(cache=True, nogil=True)
def _turned(angle):  # type: ignore[no-untyped-def]
    return angle + pi if angle < 0 else angle - pi


@njit(cache=True, nogil=True)
def _inside(rules, row, column):  # type: ignore[no-untyped-def]
    return 0 <= row < rules.size and 0 <= column < rules.size


@njit(cache=True, nogil=True)
def _span(rules, centre, side):  # type: ignore[no-untyped-def]
    """Of a patch of `side` lines about `centre`: the lines that lie in the image, from, to, and its first line."""
    start = centre - side // 2
    return max(start, 0), min(start + side, rules.size), start


@njit(cache=True, nogil=True)
def _paste(rules, image, patch, contrast, row, column):  # type: ignore[no-untyped-def]
    """Raise the image to the patch, centred on a pixel, where it is higher."""
    top, bottom, first_row = _span(rules, row, patch.shape[0])
    left, right, first_column = _span(rules, column, patch.shape[1])
    for y in range(top, bottom):
        for x in range(left, right):
            value = patch[y - first_row, x - first_column] * np.float32(contrast)
            if value > image[y, x]:
                image[y, x] = value


@njit(cache=True, nogil=True)
def _crosses(rules, occupancy, footprint, row, column):  # type: ignore[no-untyped-def]
    top, bottom, first_row = _span(rules, row, footprint.shape[0])
    left, right, first_column = _span(rules, column, footprint.shape[1])
    for y in range(top, bottom):
        for x in range(left, right):
            if occupancy[y, x] + footprint[y - first_row, x - first_column] >= _CROSSING:
                return True
    return False


@njit(cache=True, nogil=True)
def _is_free(rules, sprites, occupancy, edge, degree, row, column):  # type: ignore[no-untyped-def]
    """Whether a first dash fits there; pixels nearer than `edge` to the border are taken."""
    low, high = edge, rules.size - edge
    for k in range(sprites.kernel_sizes[degree]):
        y, x = row + sprites.kernels[degree, k, 0], column + sprites.kernels[degree, k, 1]
        if not _inside(rules, y, x):
            if rules.outside_is_free:
                continue
            return False
        if y < low or y >= high or x < low or x >= high or occupancy[y, x] > _FREE:
            return False
    return True


@njit(cache=True, nogil=True)
def _begin(rules, degree, row, column, snake, angles, which):  # type: ignore[no-untyped-def]
    """Put a first dash at a tail, unless its head or its pivot would leave the image; whether it was put.

    snake: int64 `[snakes, 5]`: the pivot, and the newest dash: sprite, row and column.
    """
    angle = (degree - 180) * pi / 180
    head_row, head_column = _step(row, column, angle, rules.length)
    pivot_row, pivot_column = _step(head_row, head_column, _turned(angle), rules.length + rules.margin)
    if not (_inside(rules, head_row, head_column) and _inside(rules, pivot_row, pivot_column)):
        return False
    snake[which] = (pivot_row, pivot_column, degree, row, column)
    angles[which] = angle
    return True


@njit(cache=True, nogil=True)
def _free_places(rules, sprites, occupancy, edge, degree, free):  # type: ignore[no-untyped-def]
    """Where a first dash in a direction fits, written to free `[size * size, 2]`; their number."""
    count = 0
    for row in range(rules.size):
        for column in range(rules.size):
            if _is_free(rules, sprites, occupancy, edge, degree, row, column):
                free[count, 0], free[count, 1] = row, column
                count += 1
    return count


@njit(cache=True, nogil=True)
def _begin_distractor(rules, sprites, occupancy, stream, snake, angles, free):  # type: ignore[no-untyped-def]
    """A first dash in a random direction at a random free place; whether one was found. free: scratch."""
    for _ in range(_TRIES):
        degree = _below(stream, DEGREES)
        if sprites.kernel_sizes[degree] == 0:
            return False
        count = _free_places(rules, sprites, occupancy, 1, degree, free)
        if count == 0:
            return False
        place = _below(stream, count)
        if _begin(rules, degree, free[place, 0], free[place, 1], snake, angles, 0):
            return True
    return False


@njit(cache=True, nogil=True)
def _begin_target(rules, places, counts, stream, snake, angles):  # type: ignore[no-untyped-def]
    """The first target's first dash, in the box in the middle; whether one was found."""
    for _ in range(_TRIES):
        degree = _below(stream, DEGREES)
        if counts[degree] == 0:
            return False
        place = _below(stream, counts[degree])
        if _begin(rules, degree, places[degree, place, 0], places[degree, place, 1], snake, angles, 0):
            return True
    return False


@njit(cache=True, nogil=True)
def _empty(rules, occupancy):  # type: ignore[no-untyped-def]
    occupancy[:] = 1
    occupancy[rules.border : rules.size - rules.border, rules.border : rules.size - rules.border] = 0


@njit(cache=True, nogil=True)
def _target_places(rules, sprites):  # type: ignore[no-untyped-def]
    """Where the first target may begin in an empty image: places `[DEGREES, most, 2]`, and how many are in use."""
    size = rules.size
    occupancy = np.empty((size, size), dtype=np.float32)
    _empty(rules, occupancy)
    free = np.empty((size * size, 2), dtype=np.int64)
    counts = np.zeros(DEGREES, dtype=np.int64)
    for degree in range(DEGREES):
        if sprites.kernel_sizes[degree]:
            counts[degree] = _free_places(rules, sprites, occupancy, 2 * rules.seed_distance, degree, free)
    places = np.zeros((DEGREES, max(1, counts.max()), 2), dtype=np.int64)
    for degree in range(DEGREES):
        if counts[degree]:
            _free_places(rules, sprites, occupancy, 2 * rules.seed_distance, degree, free)
            places[degree, : counts[degree]] = free[: counts[degree]]
    return places, counts


@njit(cache=True, nogil=True)
def _begin_at_distance(rules, stream, row, column, snake, angles):  # type: ignore[no-untyped-def]
    """The second target's first dash, `seed_distance` from the first one's tail; only the borders are minded."""
    for _ in range(_TRIES):
        degree = _below(stream, DEGREES)
        where = _below(stream, 360) * pi / 180
        tail_row = round(row + rules.seed_distance * sin(where))
        tail_column = round(column + rules.seed_distance * cos(where))
        if _begin(rules, degree, tail_row, tail_column, snake, angles, 1):
            return True
    return False


@njit(cache=True, nogil=True)
def _extend(rules, sprites, occupancy, stream, snake, angles, which, weights):  # type: ignore[no-untyped-def]
    """One more dash for a snake; whether there was room. weights: scratch, one a candidate."""
    angle = angles[which]
    row, column = _step(snake[which, 0], snake[which, 1], angle, rules.length + 2 * rules.margin)
    total = 0.0
    for c in range(len(sprites.candidates)):
        y, x = row + sprites.candidates[c, 0], column + sprites.candidates[c, 1]
        weights[c] = 0.0
        if not _inside(rules, y, x):
            continue
        turn = abs(sprites.angles[c] - angle)
        turn = min(min(turn, 2 * pi - turn) * rules.continuity, pi / 2)
        taken = np.float32(0)
        for d in range(len(sprites.disc)):
            near_y, near_x = y + sprites.disc[d, 0], x + sprites.disc[d, 1]
            if _inside(rules, near_y, near_x):
                taken = max(taken, occupancy[near_y, near_x])
        weights[c] = max(cos(turn), 0.0) ** 2 * (1.0 - taken)
        total += weights[c]
    if total < _DEAD_END:
        return False
    for _ in range(_TRIES):
        left = _random(stream) * total
        chosen = -1
        for c in range(len(sprites.candidates)):
            if weights[c] > 0:
                chosen = c
                left -= weights[c]
                if left < 0:
                    break
        y, x = row + sprites.candidates[chosen, 0], column + sprites.candidates[chosen, 1]
        if not _crosses(rules, occupancy, sprites.footprints[DEGREES + chosen], y, x):
            # the newest dash stays out of the map, so that the next one may begin beside it
            old = snake[which]
            _paste(rules, occupancy, sprites.footprints[old[2]], 1.0, old[3], old[4])
            snake[which] = (row, column, DEGREES + chosen, y, x)
            angles[which] = sprites.angles[chosen]
            return True
    return False


@njit(cache=True, nogil=True)
def _grow_targets(rules, sprites, begin, occupancy, stream, snake, angles, weights, dashes, tips):  # type: ignore[no-untyped-def]
    """Both targets in an empty image; whether they fitted. dashes `[2 * contour_length, 3]`, tips `[2, 2, 2]`."""
    places, counts = begin
    if not _begin_target(rules, places, counts, stream, snake, angles):
        return False
    _empty(rules, occupancy)
    if not _begin_at_distance(rules, stream, snake[0, 3], snake[0, 4], snake, angles):
        return False
    for which in range(2):
        tips[which, 0] = snake[which, 3:]
        dashes[which] = snake[which, 2:]
    for n in range(1, rules.contour_length):
        for which in range(2):
            if not _extend(rules, sprites, occupancy, stream, snake, angles, which, weights):
                return False
            dashes[2 * n + which] = snake[which, 2:]
            tips[which, 1] = snake[which, 3:]
    # the original keeps the last dash of the first target out of the map
    _paste(rules, occupancy, sprites.footprints[snake[1, 2]], 1.0, snake[1, 3], snake[1, 4])
    return True


@njit(cache=True, nogil=True)
def _grow_distractor(rules, sprites, occupancy, stream, snake, angles, free, weights, dashes):  # type: ignore[no-untyped-def]
    """One distractor; whether it fitted. Leaves its marks in the map either way."""
    room = 0
    for row in range(rules.size):
        for column in range(rules.size):
            room += occupancy[row, column] <= _FREE
    if room < _FULL * rules.size**2:
        return False
    if not _begin_distractor(rules, sprites, occupancy, stream, snake, angles, free):
        return False
    dashes[0] = snake[0, 2:]
    for n in range(1, rules.distractor_length):
        if not _extend(rules, sprites, occupancy, stream, snake, angles, 0, weights):
            return False
        dashes[n] = snake[0, 2:]
    _paste(rules, occupancy, sprites.footprints[snake[0, 2]], 1.0, snake[0, 3], snake[0, 4])
    return True


@njit(cache=True, nogil=True)
def _draw(rules, sprites, image, dashes, contrast):  # type: ignore[no-untyped-def]
    for k in range(len(dashes)):
        _paste(rules, image, sprites.dashes[dashes[k, 0]], contrast, dashes[k, 1], dashes[k, 2])


@njit(cache=True, nogil=True)
def _mark(rules, image, discs, row, column):  # type: ignore[no-untyped-def]
    side = discs.shape[0]
    top = min(max(row - side // 2, 0), rules.size - side)
    left = min(max(column - side // 2, 0), rules.size - side)
    disc = discs[row - top, column - left]
    for y in range(side):
        for x in range(side):
            image[top + y, left + x] = max(image[top + y, left + x], disc[y, x])


@njit(cache=True, nogil=True)
def _stretch(image, pixels):  # type: ignore[no-untyped-def]
    """8 bits, the smallest value 0 and the largest 255."""
    low, high = image.min(), image.max()
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            pixels[y, x] = np.uint8((image[y, x] - low) * (255.0 / (high - low)) + 0.5)


@njit(cache=True, nogil=True)
def _grow_one(rules, sprites, begin, discs, stream, images, i):  # type: ignore[no-untyped-def]
    size = rules.size
    occupancy = np.empty((size, size), dtype=np.float32)
    kept = np.empty_like(occupancy)
    free = np.empty((size * size, 2), dtype=np.int64)
    weights = np.empty(len(sprites.candidates))
    snake = np.empty((2, 5), dtype=np.int64)
    angles = np.empty(2)
    tips = np.empty((2, 2, 2), dtype=np.int64)
    targets = np.empty((2 * rules.contour_length, 3), dtype=np.int64)
    distractor = np.empty((rules.distractor_length, 3), dtype=np.int64)
    image = np.zeros((size, size), dtype=np.float32)

    starts, grown = 0, False
    while not grown and starts < GIVE_UP:
        starts += 1
        grown = _grow_targets(rules, sprites, begin, occupancy, stream, snake, angles, weights, targets, tips)
    if not grown:
        return
    _draw(rules, sprites, image, targets, rules.target_contrast)

    fitted = 0
    for _ in range(rules.distractors):
        kept[:] = occupancy
        for _ in range(_ATTEMPTS):
            if _grow_distractor(rules, sprites, occupancy, stream, snake, angles, free, weights, distractor):
                _draw(rules, sprites, image, distractor, rules.distractor_contrast)
                fitted += 1
                break
            occupancy[:] = kept

    label, origin = _below(stream, 2), _below(stream, 2)
    images.markers[i, 0] = tips[origin, 0]
    images.markers[i, 1] = tips[origin if label else 1 - origin, 1]
    for k in range(2):
        _mark(rules, image, discs, images.markers[i, k, 0], images.markers[i, k, 1])
    _stretch(image, images.pixels[i])
    images.labels[i], images.starts[i], images.distractors[i] = label, starts, fitted


@njit(cache=True, parallel=True, nogil=True)
def _grow_all(rules, sprites, begin, discs, seeds, images):  # type: ignore[no-untyped-def]
    for i in prange(len(seeds)):
        stream = np.empty(1, dtype=np.uint64)
        stream[0] = seeds[i]
        _grow_one(rules, sprites, begin, discs, stream, images, i)
