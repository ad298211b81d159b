"""Pathfinder images grown by compiled code: two target snakes in turns, short distractors, markers.

The rules are those of the original program, drewlinsley/pathfinder (snakes2.py, snakes.py; Linsley et al. 2018,
arXiv:1805.08315), told in docs/pathfinder.md.

Each image has a random stream of its own, so images do not depend on threads, nor on each other.
"""

from __future__ import annotations

from math import cos, pi, sin
from typing import NamedTuple

import numpy as np
from numba import prange
from numpy.typing import NDArray

from tasks.pathfinder.canvas import (
    Rules,
    below,
    crosses,
    draw,
    inside,
    mark,
    paste,
    step,
    stretch,
    turned,
    uniform,
)
from tasks.pathfinder.compiled import compiled, compiled_parallel
from tasks.pathfinder.places import FREE, empty, free_places
from tasks.pathfinder.sprites import DEGREES, Floats, Ints, Sprites

_DEAD_END = 1e-4  # sum of candidates' weights under which there is no way on
_FULL = 0.01  # share of free pixels under which no distractor is tried
_TRIES = 3  # of a dash
_ATTEMPTS = 5  # of a distractor


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


@compiled
def _begin(rules, degree, row, column, snake, angles, which):
    """Put a first dash at a tail, unless its head or its pivot would leave the image; whether it was put.

    snake: int64 `[snakes, 5]`: the pivot, and the newest dash: sprite, row and column.
    """
    angle = (degree - 180) * pi / 180
    head_row, head_column = step(row, column, angle, rules.length)
    pivot_row, pivot_column = step(head_row, head_column, turned(angle), rules.length + rules.margin)
    if not (inside(rules, head_row, head_column) and inside(rules, pivot_row, pivot_column)):
        return False
    snake[which] = (pivot_row, pivot_column, degree, row, column)
    angles[which] = angle
    return True


@compiled
def _begin_distractor(rules, sprites, occupancy, stream, snake, angles, free):
    """A first dash in a random direction at a random free place; whether one was found. free: scratch."""
    for _ in range(_TRIES):
        degree = below(stream, DEGREES)
        if sprites.kernel_sizes[degree] == 0:
            return False
        count = free_places(rules, sprites, occupancy, 1, degree, free)
        if count == 0:
            return False
        place = below(stream, count)
        if _begin(rules, degree, free[place, 0], free[place, 1], snake, angles, 0):
            return True
    return False


@compiled
def _begin_target(rules, places, counts, stream, snake, angles):
    """The first target's first dash, in the box in the middle; whether one was found."""
    for _ in range(_TRIES):
        degree = below(stream, DEGREES)
        if counts[degree] == 0:
            return False
        place = below(stream, counts[degree])
        if _begin(rules, degree, places[degree, place, 0], places[degree, place, 1], snake, angles, 0):
            return True
    return False


@compiled
def _begin_at_distance(rules, stream, row, column, snake, angles):
    """The second target's first dash, `seed_distance` from the first one's tail; only the borders are minded."""
    for _ in range(_TRIES):
        degree = below(stream, DEGREES)
        where = below(stream, 360) * pi / 180
        tail_row = round(row + rules.seed_distance * sin(where))
        tail_column = round(column + rules.seed_distance * cos(where))
        if _begin(rules, degree, tail_row, tail_column, snake, angles, 1):
            return True
    return False


@compiled
def _extend(rules, sprites, occupancy, stream, snake, angles, which, weights):
    """One more dash for a snake; whether there was room. weights: scratch, one a candidate."""
    angle = angles[which]
    row, column = step(snake[which, 0], snake[which, 1], angle, rules.length + 2 * rules.margin)
    total = 0.0
    for c in range(len(sprites.candidates)):
        y, x = row + sprites.candidates[c, 0], column + sprites.candidates[c, 1]
        weights[c] = 0.0
        if not inside(rules, y, x):
            continue
        turn = abs(sprites.angles[c] - angle)
        turn = min(min(turn, 2 * pi - turn) * rules.continuity, pi / 2)
        taken = np.float32(0)
        for d in range(len(sprites.disc)):
            near_y, near_x = y + sprites.disc[d, 0], x + sprites.disc[d, 1]
            if inside(rules, near_y, near_x):
                taken = max(taken, occupancy[near_y, near_x])
        weights[c] = max(cos(turn), 0.0) ** 2 * (1.0 - taken)
        total += weights[c]
    if total < _DEAD_END:
        return False
    for _ in range(_TRIES):
        left = uniform(stream) * total
        chosen = -1
        for c in range(len(sprites.candidates)):
            if weights[c] > 0:
                chosen = c
                left -= weights[c]
                if left < 0:
                    break
        y, x = row + sprites.candidates[chosen, 0], column + sprites.candidates[chosen, 1]
        if not crosses(rules, occupancy, sprites.footprints[DEGREES + chosen], y, x):
            # the newest dash stays out of the map, so that the next one may begin beside it
            old = snake[which]
            paste(rules, occupancy, sprites.footprints[old[2]], 1.0, old[3], old[4])
            snake[which] = (row, column, DEGREES + chosen, y, x)
            angles[which] = sprites.angles[chosen]
            return True
    return False


@compiled
def _grow_targets(rules, sprites, begin, occupancy, stream, snake, angles, weights, dashes, tips):
    """Both targets in an empty image; whether they fitted. dashes `[2 * contour_length, 3]`, tips `[2, 2, 2]`."""
    places, counts = begin
    if not _begin_target(rules, places, counts, stream, snake, angles):
        return False
    empty(rules, occupancy)
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
    paste(rules, occupancy, sprites.footprints[snake[1, 2]], 1.0, snake[1, 3], snake[1, 4])
    return True


@compiled
def _grow_distractor(rules, sprites, occupancy, stream, snake, angles, free, weights, dashes):
    """One distractor; whether it fitted. Leaves its marks in the map either way."""
    room = 0
    for row in range(rules.size):
        for column in range(rules.size):
            room += occupancy[row, column] <= FREE
    if room < _FULL * rules.size**2:
        return False
    if not _begin_distractor(rules, sprites, occupancy, stream, snake, angles, free):
        return False
    dashes[0] = snake[0, 2:]
    for n in range(1, rules.distractor_length):
        if not _extend(rules, sprites, occupancy, stream, snake, angles, 0, weights):
            return False
        dashes[n] = snake[0, 2:]
    paste(rules, occupancy, sprites.footprints[snake[0, 2]], 1.0, snake[0, 3], snake[0, 4])
    return True


@compiled
def _grow_one(rules, sprites, begin, discs, stream, images, i):
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
    draw(rules, sprites, image, targets, rules.target_contrast)

    fitted = 0
    for _ in range(rules.distractors):
        kept[:] = occupancy
        for _ in range(_ATTEMPTS):
            if _grow_distractor(rules, sprites, occupancy, stream, snake, angles, free, weights, distractor):
                draw(rules, sprites, image, distractor, rules.distractor_contrast)
                fitted += 1
                break
            occupancy[:] = kept

    label, origin = below(stream, 2), below(stream, 2)
    images.markers[i, 0] = tips[origin, 0]
    images.markers[i, 1] = tips[origin if label else 1 - origin, 1]
    for k in range(2):
        mark(rules, image, discs, images.markers[i, k, 0], images.markers[i, k, 1])
    stretch(image, images.pixels[i])
    images.labels[i], images.starts[i], images.distractors[i] = label, starts, fitted


@compiled_parallel
def _grow_all(rules, sprites, begin, discs, seeds, images):
    for i in prange(len(seeds)):
        stream = np.empty(1, dtype=np.uint64)
        stream[0] = seeds[i]
        _grow_one(rules, sprites, begin, discs, stream, images, i)
