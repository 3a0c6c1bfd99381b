"""Draws scenes. Only IEEE-exact float64 and integer operations: an image has the same bytes on every machine."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .scene import BACKGROUNDS, COLOURS, Scene

Pixels = NDArray[np.uint8]

SUBSAMPLES = 4
"""Samples per pixel along each axis."""
SQUARE_SIDE = 0.88
"""Half the side of a square: about the area of the circle."""
CROSS_ARM = 0.34
"""Half the width of a bar of the cross."""
RING_HOLE = 0.52
"""Radius of the hole of a ring."""
TRIANGLE_HEIGHT = 0.95
"""Half the height of the triangle, whose base is 2 wide; about equilateral."""
AREAS = {
    "circle": math.pi,
    "square": 4 * SQUARE_SIDE**2,
    "triangle": 2 * TRIANGLE_HEIGHT,
    "cross": 8 * CROSS_ARM - 4 * CROSS_ARM**2,
    "ring": math.pi * (1 - RING_HOLE**2),
}
"""Area of each shape of radius 1."""
CENTROIDS = {"circle": 0.0, "square": 0.0, "triangle": TRIANGLE_HEIGHT / 3, "cross": 0.0, "ring": 0.0}
"""How far the centroid of each shape of radius 1 lies below the centre of its bounding box."""


def inside(shape: str, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points lie in a shape of radius 1 around (0, 0); v points down, u and v broadcast."""
    if shape == "circle":
        return u * u + v * v <= 1.0
    if shape == "ring":
        squared = u * u + v * v
        return (squared <= 1.0) & (squared >= RING_HOLE * RING_HOLE)
    if shape == "square":
        return (np.abs(u) <= SQUARE_SIDE) & (np.abs(v) <= SQUARE_SIDE)
    if shape == "cross":
        return ((np.abs(u) <= CROSS_ARM) & (np.abs(v) <= 1.0)) | ((np.abs(v) <= CROSS_ARM) & (np.abs(u) <= 1.0))
    if shape == "triangle":
        return (np.abs(u) * (2 * TRIANGLE_HEIGHT) <= v + TRIANGLE_HEIGHT) & (v <= TRIANGLE_HEIGHT)
    raise ValueError(f'no shape "{shape}"')


def coverage(
    shape: str, x: float, y: float, radius: float, height: int, width: int
) -> tuple[tuple[slice, slice], NDArray[np.uint8]]:
    """How much of each pixel a shape covers.

    Args:
        x, y: centre, in pixels from the top left corner of the image.
        radius: in pixels.

    Returns:
        The rows and columns that the shape can touch, and for those the number of subsamples inside, 0 … SUBSAMPLES².
    """
    rows, top = _span(y, radius, height)
    columns, left = _span(x, radius, width)
    u = (left - x) / radius
    v = (top - y) / radius
    samples = inside(shape, u[None, :], v[:, None]).view(np.uint8)
    h, w = rows.stop - rows.start, columns.stop - columns.start
    by_row = samples.reshape(h, SUBSAMPLES, w * SUBSAMPLES).sum(1, dtype=np.uint8)
    counts = by_row.reshape(h, w, SUBSAMPLES).sum(2, dtype=np.uint8)
    return (rows, columns), counts


def _span(centre: float, radius: float, length: int) -> tuple[slice, NDArray[np.float64]]:
    """The pixels of an axis that centre ± radius touches, and the positions of their subsamples."""
    start = min(max(int(centre - radius), 0), length)
    stop = max(min(int(centre + radius) + 1, length), start)
    return slice(start, stop), (np.arange(start * SUBSAMPLES, stop * SUBSAMPLES) + 0.5) / SUBSAMPLES


def render(scene: Scene, height: int = 32, width: int | None = None) -> Pixels:
    """The image (height, width, 3) of a scene, RGB; square where no width is given.

    Raises:
        ValueError: a side below 16 pixels, where small shapes cannot be distinguished.
    """
    width = height if width is None else width
    if min(height, width) < 16:
        raise ValueError(f"an image needs at least 16 pixels a side, not {height}×{width}")
    image = np.empty((height, width, 3), np.int64)
    image[:] = BACKGROUNDS[scene.background]
    side = min(height, width)
    full = SUBSAMPLES * SUBSAMPLES
    for thing in scene.objects:
        area, counts = coverage(thing.shape, thing.x * width, thing.y * height, thing.radius * side, height, width)
        behind, colour = image[area], np.array(COLOURS[thing.colour])
        image[area] = (behind * full + (colour - behind) * counts[:, :, None] + full // 2) // full
    return image.astype(np.uint8)
