"""Draws scenes of solids from known cameras by casting rays. Float64, and the same for the same cameras.

A camera is a camera-to-world matrix in the axes of OpenGL: x to the right, y up, and it looks along -z. Solids are lit
by one far light that stands still in the world, so the same face looks the same from every side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..scene import COLOURS
from .scene import HALF_HEIGHTS, Solid, SolidScene

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

SUBSAMPLES = 3
"""Rays of a pixel along each axis."""
WIDTHS = {"sphere": 1.0, "box": 0.82, "cone": 1.0, "cylinder": 0.85}
"""Half the width of each solid of radius 1, at its widest."""
LIGHT = np.array([-0.48, -0.6, 0.64])
"""Where the light stands: to the left, in front, above; of length 1."""
DARKEST = 0.4
"""Brightness of a face that looks away from the light; one that looks into it has 1."""
MOST_RAYS = 1 << 20
"""Rays cast at once."""
REACH = np.sqrt(2 * 0.82**2 + 0.82**2)
"""Radius of a sphere around any solid of radius 1."""


def render(scene: SolidScene, poses: NDArray[np.floating], fov: float, size: int) -> Pixels:
    """The views (F, size, size, 3) of a scene, RGB.

    Args:
        poses: (F, 4, 4) camera-to-world.
        fov: field of view in degrees.
        size: height and width of a view, in pixels.
    """
    step = max(1, MOST_RAYS // (size * SUBSAMPLES) ** 2)
    views = []
    for start in range(0, len(poses), step):
        shade, which = trace(scene.solids, poses[start : start + step], fov, size, SUBSAMPLES)
        views.append(
            sum(
                np.multiply.outer(shrink(np.where(which == i, shade, 0), SUBSAMPLES), np.array(COLOURS[solid.colour]))
                for i, solid in enumerate(scene.solids)
            )
        )
    return (np.concatenate(views) + 0.5).astype(np.uint8)


def shrink(values: Floats, by: int) -> Floats:
    """(F, by·H, by·W) → (F, H, W), means."""
    frames, height, width = values.shape
    return values.reshape(frames, height // by, by, width // by, by).mean((2, 4))


def trace(
    solids: Sequence[Solid], poses: NDArray[np.floating], fov: float, size: int, subsamples: int
) -> tuple[Floats, NDArray[np.int64]]:
    """What each ray hits first.

    Returns:
        Brightness 0 … 1 (0: nothing hit) and the number of the solid (-1: none), (F, S, S) with S = size · subsamples.
    """
    poses = np.asarray(poses, np.float64)
    count, side = len(poses), size * subsamples
    half = np.tan(np.radians(float(fov)) / 2)
    x = ((np.arange(side) + 0.5) * 2 / side - 1) * half  # of a direction (x, y, -1), to the right
    y = -x  # and up
    squared = x[None, :] ** 2 + y[:, None] ** 2 + 1  # (S, S)
    nearest = np.full((count, side, side), np.inf)
    shade = np.zeros((count, side, side))
    which = np.full((count, side, side), -1)
    turns, places = poses[:, :3, :3], poses[:, :3, 3]
    for number, solid in enumerate(solids):
        away = places - np.array(solid.centre)  # (F, 3)
        seen = np.einsum("fij,fi->fj", turns, away)  # the same in the camera's axes
        along = seen[:, 0, None, None] * x + seen[:, 1, None, None] * y[:, None] - seen[:, 2, None, None]
        reach = (away**2).sum(1) - (REACH * solid.radius) ** 2
        view, row, column = np.nonzero(along**2 >= squared * reach[:, None, None])  # rays that pass near
        local = np.stack((x[column], y[row], np.full(len(view), -1.0)))  # (3, rays)
        direction = np.einsum("rij,jr->ir", turns[view], local)
        t, normal = HITS[solid.kind](away[view].T / solid.radius, direction / solid.radius)
        closer = t < nearest[view, row, column]
        view, row, column = view[closer], row[closer], column[closer]
        nearest[view, row, column] = t[closer]
        which[view, row, column] = number
        lit = (LIGHT @ normal[:, closer] + 1) / 2
        shade[view, row, column] = DARKEST + (1 - DARKEST) * lit
    return shade, which


def _sphere(o: Floats, d: Floats) -> tuple[Floats, Floats]:
    """Where rays o + t·d, (3, rays) each, enter the solid of radius 1 around the origin: t, inf where they miss it, and
    the normals (3, rays) there. So do the others."""
    a, b, c = (d * d).sum(0), (o * d).sum(0), (o * o).sum(0) - 1
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    t = np.where(b * b >= a * c, (-b - root) / a, np.inf)
    return t, _at(o, d, t)


def _box(o: Floats, d: Floats) -> tuple[Floats, Floats]:
    half = WIDTHS["box"]
    with np.errstate(divide="ignore"):
        one, other = (-half - o) / d, (half - o) / d
    enter, leave = np.minimum(one, other), np.maximum(one, other)  # (3, rays)
    face, t = enter.argmax(0), enter.max(0)
    normal = np.where(np.arange(3)[:, None] == face, -np.sign(d), 0.0)
    return np.where(t <= leave.min(0), t, np.inf), normal


def _cylinder(o: Floats, d: Floats) -> tuple[Floats, Floats]:
    radius, half = WIDTHS["cylinder"], HALF_HEIGHTS["cylinder"]
    a, b = d[0] ** 2 + d[1] ** 2, o[0] * d[0] + o[1] * d[1]
    c = o[0] ** 2 + o[1] ** 2 - radius**2
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        enter, leave = (-b - root) / a, (-b + root) / a
        top, bottom = (half - o[2]) / d[2], (-half - o[2]) / d[2]
    in_slab, out_slab = np.minimum(top, bottom), np.maximum(top, bottom)
    t = np.maximum(enter, in_slab)
    hit = (b * b >= a * c) & (t <= np.minimum(leave, out_slab))
    side = _at(o, d, np.where(hit, t, 0)) * np.array([[1.0], [1.0], [0.0]]) / radius
    flat = np.stack((np.zeros_like(t), np.zeros_like(t), -np.sign(d[2])))
    return np.where(hit, t, np.inf), np.where(enter > in_slab, side, flat)


def _cone(o: Floats, d: Floats) -> tuple[Floats, Floats]:
    """x² + y² = ((1 - z) / 2)² for -1 ≤ z ≤ 1, and its base."""
    below = 1 - o[2]
    a = d[0] ** 2 + d[1] ** 2 - d[2] ** 2 / 4
    b = o[0] * d[0] + o[1] * d[1] + below * d[2] / 4
    c = o[0] ** 2 + o[1] ** 2 - below**2 / 4
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    best, normal = np.full_like(a, np.inf), np.zeros_like(o)
    with np.errstate(divide="ignore", invalid="ignore"):
        candidates = ((-b - root) / a, (-b + root) / a)
        base = (-1 - o[2]) / d[2]
    for t in candidates:
        z = o[2] + t * d[2]
        valid = (b * b >= a * c) & (np.abs(z) <= 1) & (t < best)
        best = np.where(valid, t, best)
    where = _at(o, d, best)
    slope = np.stack((where[0], where[1], (1 - where[2]) / 4))
    with np.errstate(divide="ignore", invalid="ignore"):
        normal = slope / np.sqrt((slope * slope).sum(0))
    x, y, _ = _at(o, d, base)
    floor = (x * x + y * y <= 1) & (base < best)
    down = np.array([[0.0], [0.0], [-1.0]])
    return np.where(floor, base, best), np.where(floor, down, normal)


def _at(o: Floats, d: Floats, t: Floats) -> Floats:
    return o + np.where(np.isfinite(t), t, 0) * d


HITS = {"sphere": _sphere, "box": _box, "cone": _cone, "cylinder": _cylinder}
