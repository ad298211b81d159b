"""Where a first dash may begin, compiled."""

from __future__ import annotations

import numpy as np

from tasks.pathfinder.canvas import Rules, inside
from tasks.pathfinder.compiled import compiled
from tasks.pathfinder.sprites import DEGREES, Ints, Sprites

FREE = 0.3  # occupancy up to which a pixel is free for a first dash


@compiled
def _is_free(rules, sprites, occupancy, edge, degree, row, column):
    """Whether a first dash fits there; pixels nearer than `edge` to the border are taken."""
    low, high = edge, rules.size - edge
    for k in range(sprites.kernel_sizes[degree]):
        y, x = row + sprites.kernels[degree, k, 0], column + sprites.kernels[degree, k, 1]
        if not inside(rules, y, x):
            if rules.outside_is_free:
                continue
            return False
        if y < low or y >= high or x < low or x >= high or occupancy[y, x] > FREE:
            return False
    return True


@compiled
def free_places(rules, sprites, occupancy, edge, degree, free):
    """Where a first dash in a direction fits, written to free `[size * size, 2]`; their number."""
    count = 0
    for row in range(rules.size):
        for column in range(rules.size):
            if _is_free(rules, sprites, occupancy, edge, degree, row, column):
                free[count, 0], free[count, 1] = row, column
                count += 1
    return count


@compiled
def empty(rules, occupancy):
    """Free everything but the frame."""
    occupancy[:] = 1
    occupancy[rules.border : rules.size - rules.border, rules.border : rules.size - rules.border] = 0


@compiled
def _target_places(rules, sprites):
    """Where the first target may begin in an empty image: places `[DEGREES, most, 2]`, and how many are in use."""
    size = rules.size
    occupancy = np.empty((size, size), dtype=np.float32)
    empty(rules, occupancy)
    free = np.empty((size * size, 2), dtype=np.int64)
    counts = np.zeros(DEGREES, dtype=np.int64)
    for degree in range(DEGREES):
        if sprites.kernel_sizes[degree]:
            counts[degree] = free_places(rules, sprites, occupancy, 2 * rules.seed_distance, degree, free)
    places = np.zeros((DEGREES, max(1, counts.max()), 2), dtype=np.int64)
    for degree in range(DEGREES):
        if counts[degree]:
            free_places(rules, sprites, occupancy, 2 * rules.seed_distance, degree, free)
            places[degree, : counts[degree]] = free[: counts[degree]]
    return places, counts


def beginnings(rules: Rules, sprites: Sprites) -> tuple[Ints, Ints]:
    """Where the first target may begin: places int64 `[DEGREES, most, 2]`, and how many of them, `[DEGREES]`."""
    places: Ints
    counts: Ints
    places, counts = _target_places(rules, sprites)
    return places, counts
