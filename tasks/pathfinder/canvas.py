"""Random numbers, points and patches, compiled: what growing is written in."""

from __future__ import annotations

from math import ceil, cos, pi, sin
from typing import NamedTuple

import numpy as np

from tasks.pathfinder.compiled import compiled

_CROSSING = 1.8  # occupancy and footprint together from which dashes cross


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


@compiled
def uniform(stream):
    """Uniform in [0, 1) (splitmix64: Steele, Lea and Flood 2014)."""
    stream[0] += np.uint64(0x9E3779B97F4A7C15)
    z = stream[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) * 2.0**-53


@compiled
def below(stream, n):
    """A whole number from 0 to n - 1."""
    return int(uniform(stream) * n)


@compiled
def step(row, column, angle, distance):
    """The point a distance away in a direction, rounded up."""
    return ceil(row + distance * sin(angle)), ceil(column + distance * cos(angle))


@compiled
def turned(angle):
    """The opposite direction."""
    return angle + pi if angle < 0 else angle - pi


@compiled
def inside(rules, row, column):
    """Whether a pixel lies in the image."""
    return 0 <= row < rules.size and 0 <= column < rules.size


@compiled
def span(rules, centre, side):
    """Of a patch of `side` lines about `centre`: the lines that lie in the image, from, to, and its first line."""
    start = centre - side // 2
    return max(start, 0), min(start + side, rules.size), start


@compiled
def paste(rules, image, patch, contrast, row, column):
    """Raise the image to the patch, centred on a pixel, where it is higher."""
    top, bottom, first_row = span(rules, row, patch.shape[0])
    left, right, first_column = span(rules, column, patch.shape[1])
    for y in range(top, bottom):
        for x in range(left, right):
            value = patch[y - first_row, x - first_column] * np.float32(contrast)
            if value > image[y, x]:
                image[y, x] = value


@compiled
def crosses(rules, occupancy, footprint, row, column):
    """Whether a dash laid there would cross something."""
    top, bottom, first_row = span(rules, row, footprint.shape[0])
    left, right, first_column = span(rules, column, footprint.shape[1])
    for y in range(top, bottom):
        for x in range(left, right):
            if occupancy[y, x] + footprint[y - first_row, x - first_column] >= _CROSSING:
                return True
    return False


@compiled
def draw(rules, sprites, image, dashes, contrast):
    """Draw dashes `[n, 3]`: sprite, row, column."""
    for k in range(len(dashes)):
        paste(rules, image, sprites.dashes[dashes[k, 0]], contrast, dashes[k, 1], dashes[k, 2])


@compiled
def mark(rules, image, discs, row, column):
    """Draw a marker; discs: see `sprites.markers`."""
    side = discs.shape[0]
    top = min(max(row - side // 2, 0), rules.size - side)
    left = min(max(column - side // 2, 0), rules.size - side)
    disc = discs[row - top, column - left]
    for y in range(side):
        for x in range(side):
            image[top + y, left + x] = max(image[top + y, left + x], disc[y, x])


@compiled
def stretch(image, pixels):
    """8 bits, the smallest value 0 and the largest 255."""
    low, high = image.min(), image.max()
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            pixels[y, x] = np.uint8((image[y, x] - low) * (255.0 / (high - low)) + 0.5)
