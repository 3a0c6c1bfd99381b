"""How well a shape explains the pixels: laid over them as well as can be, what remains must be noise.

A hexagon has the area and the centroid of a circle, and nine tenths of its pixels. What gives it away is what is left
of the difference: a strip along the outline, as wide as the two are apart. So the measure is the squared remainder for
each pixel of the outline, less what the noise of the image makes of it.

What lies nearer to a shape than the pixels tell is not found out: at 32 pixels a small octagon, 3.5 in radius, is
a circle. Limits are those of an image of 32 pixels; larger ones are looked at from a little farther away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .render import RING_HOLE, SQUARE_SIDE, SUBSAMPLES, TRIANGLE_HEIGHT, coverage

Floats = NDArray[np.float64]
Blur = tuple[float, float]
"""Weight of each neighbour along y, and along x."""

OUTLINES = {
    "circle": math.tau,
    "square": 8 * SQUARE_SIDE,
    "triangle": 2 + 2 * math.hypot(1, 2 * TRIANGLE_HEIGHT),
    "cross": 8.0,
    "ring": math.tau * (1 + RING_HOLE),
}
"""Length of the outline of each shape of radius 1."""
SIDE, GROWTH = 32, 0.75
"""Shorter side of an image, in pixels, for which the limits are; the power of the side with which they grow."""
MOST_REMAINS = {"circle": 0.009, "square": 0.02, "triangle": 0.011, "cross": 0.02, "ring": 0.009}
"""Largest squared remainder, as a share of the colour's, for each pixel of outline; edges along
the pixels' are drawn in quarters of a pixel."""
BLURS: tuple[Blur, ...] = tuple((y, x) for y, x in product((0.0, 0.125, 0.25), repeat=2))
"""By which a shape's edges may be softened: up to 0.7 pixels."""
REST = 0.83
"""Mean square of a normal variable without its largest 3 %."""
NOISE_DOUBT = 4.0
"""Standard deviations by which the noise may add to the remainder."""


class Laid(Protocol):
    """A shape at a place; lengths in pixels."""

    @property
    def shape(self) -> str: ...
    @property
    def x(self) -> float: ...
    @property
    def y(self) -> float: ...
    @property
    def radius(self) -> float: ...


@dataclass(frozen=True)
class Likeness:
    """A shape laid over an image as well as can be."""

    shape: str
    x: float
    y: float
    radius: float
    colour: Floats
    """(3,) difference from the background in which it agrees best."""
    excess: float
    """What remains, as a share of what may: up to 1 it is this shape."""


def spread(values: Floats, background: Floats) -> float:
    """Standard deviation of background pixels (N, 3), stray ones left out; what is clipped at black or white counts."""
    if not len(values):
        return 0.0
    squared = np.sort(values * values, axis=0)[: max(1, int(0.97 * len(values)))].mean(0) / REST
    clipped = (background < 12) | (background > 243)
    return float(np.sqrt((squared * np.where(clipped, 2, 1)).mean()))


def refine(start: Laid, difference: Floats, near: NDArray[np.bool_], noise: float) -> Likeness:
    """The best place, radius and softness of a shape around `start`.

    Args:
        difference: (H, W, 3) from the background, 0 where not `near` (H, W).
        noise: standard deviation of the background, in RGB levels.
    """
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    top, left = max(rows[0] - 2, 0), max(columns[0] - 2, 0)
    window = difference[top : rows[-1] + 3, left : columns[-1] + 3]
    inside = near[top : rows[-1] + 3, left : columns[-1] + 3]
    energy = float((window * window).sum())

    pixels = window.reshape(-1, 3)
    known: dict[tuple[float, ...], tuple[float, Floats]] = {}

    def compared(drawn: Floats) -> tuple[float, Floats]:
        drawn = (drawn * inside).ravel()
        square = float(drawn @ drawn)
        if square < 1e-9:
            return energy, np.zeros(3)
        colour = drawn @ pixels / square
        return energy - square * float(colour @ colour), colour

    def remains(place: Floats, blur: Blur) -> tuple[float, Floats]:
        key = (*place.tolist(), *blur)
        if key not in known:  # the search comes back to the places around its last one
            known[key] = compared(_softened(_drawn(start.shape, place, inside.shape), blur))
        return known[key]

    def _least(place: Floats) -> Blur:
        sharp = _drawn(start.shape, place, inside.shape)
        return min(BLURS, key=lambda blur: compared(_softened(sharp, blur))[0])

    place = np.array([start.x - left, start.y - top, start.radius])
    blur: Blur = (0.125, 0.125)
    for steps in ((0.4, 0.2), (0.2, 0.1, 0.05)):
        left_over, colour = remains(place, blur)
        for step in steps:
            for _ in range(4):
                before = left_over
                for axis, way in product(range(3), (-step, step)):
                    tried = place.copy()
                    tried[axis] += way
                    found, its_colour = remains(tried, blur)
                    if found < left_over:
                        left_over, colour, place = found, its_colour, tried
                if left_over == before:
                    break
        blur = _least(place)
    left_over, colour = remains(place, blur)
    strength = max(float(colour @ colour), 1e-9)
    variance = noise * noise / strength
    values = 3 * int(inside.sum())
    outline = OUTLINES[start.shape] * place[2]
    scale = max(1.0, min(difference.shape[:2]) / SIDE) ** GROWTH
    allowed = MOST_REMAINS[start.shape] * outline * scale + NOISE_DOUBT * variance * math.sqrt(2 * values)
    excess = (left_over / strength - values * variance) / allowed
    return Likeness(start.shape, float(place[0] + left), float(place[1] + top), float(place[2]), colour, excess)


def _drawn(shape: str, place: Floats, size: tuple[int, ...]) -> Floats:
    drawn = np.zeros(size)
    where, counts = coverage(shape, place[0], place[1], place[2], size[0], size[1])
    drawn[where] = counts / SUBSAMPLES**2
    return drawn


def _softened(drawn: Floats, blur: Blur) -> Floats:
    """Each pixel mixed with its neighbours along y, then along x; at the border with itself."""
    for weight in blur:
        if weight:
            shares = weight * drawn
            drawn = (1 - 2 * weight) * drawn
            drawn[1:] += shares[:-1]
            drawn[:-1] += shares[1:]
            drawn[0] += shares[0]
            drawn[-1] += shares[-1]
        drawn = drawn.T
    return drawn
