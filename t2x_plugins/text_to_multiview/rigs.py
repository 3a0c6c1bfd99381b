"""Where the cameras of an object stand, and what they look at; in which convention its file was written.

A file holds 4 × 4 matrices and does not say what they mean. Of cameras around an object it is known that their optical
axes meet, in front of them, while they stand apart; so a wrong reading shows: OpenCV's axes read as OpenGL's look away
from where they meet, and matrices from world to camera read as their inverses stand in one place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

AXES, POSES = ("opengl", "opencv"), ("camera-to-world", "world-to-camera")
Convention = tuple[str, str]
"""One of AXES, one of POSES."""
NEARLY_PARALLEL = 1e-3
"""Mean square of the sine between optical axes below which it cannot be said where they meet."""
MEETS = 0.3
"""Most that axes miss the point where they meet, as a share of the distance to it."""
IN_FRONT = 0.9
"""Least share of the cameras that must have that point in front of them."""
FEWEST = 3
"""Cameras from which a convention can be inferred, at least."""
STRAIGHT = 20.0
"""Degrees within which an axis of the world points up."""
AT_ORIGIN = 0.1
"""The object stands at the origin if the axes meet nearer to it than this share of the distance."""
ROUNDING = 1e-6
"""Of the mean squares by which conventions are distinguished."""
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
"""OpenCV's axes (y down, looks along z) ↔ OpenGL's."""
UPS = {"z": (0.0, 0.0, 1.0), "y": (0.0, 1.0, 0.0), "-y": (0.0, -1.0, 0.0), "-z": (0.0, 0.0, -1.0)}


def to_camera(matrices: Matrix, convention: Convention) -> Matrix:
    """Matrices (n, 4, 4) of a file → camera-to-world in OpenGL's axes, with rotations without scale."""
    axes, poses = convention
    if poses == "world-to-camera":
        matrices = np.asarray(np.linalg.inv(matrices), np.float64)
    if axes == "opencv":
        matrices = matrices @ FLIP
    poses_out: Matrix = np.array(matrices, np.float64)
    left, _, right = np.linalg.svd(matrices[:, :3, :3])
    poses_out[:, :3, :3] = left @ right  # the nearest rotation
    return poses_out


@dataclass(frozen=True, eq=False)
class Meeting:
    """Where optical axes meet."""

    point: Matrix
    """(3,) nearest to all axes, by least squares."""
    distance: float
    """Median along the axes, from the cameras; below 0: behind them."""
    miss: float
    """Root mean square of how far the axes pass it, as a share of the distance."""
    in_front: float
    """Share of the cameras that have it in front of them."""

    @property
    def good(self) -> bool:
        """Whether these can be cameras around something."""
        return self.in_front >= IN_FRONT and self.distance > 0 and self.miss <= MEETS


def meeting(poses: Matrix) -> Meeting | None:
    """Of the optical axes of cameras (n, 4, 4); None if they are nearly parallel."""
    middle = poses[:, :3, 3].mean(0)
    places, looks = poses[:, :3, 3] - middle, -poses[:, :3, 2]
    across = np.eye(3) - looks[:, :, None] * looks[:, None]  # (n, 3, 3) what of a vector is not along the axis
    total = across.sum(0)
    if np.linalg.eigvalsh(total / len(poses))[0] < NEARLY_PARALLEL:
        return None
    point = np.linalg.solve(total, (across @ places[..., None]).sum(0)[:, 0])
    depths = ((point - places) * looks).sum(1)
    misses = (across @ (point - places)[..., None])[..., 0]
    distance, spread = float(np.median(depths)), float(np.sqrt((places**2).sum(1).mean()))
    rounding = 3e-7 * float(np.abs(poses[:, :3, 3]).max(initial=0))
    together = spread <= max(rounding, 0.02 * abs(distance))  # in one place; what they look at is unknown
    miss = float(np.sqrt((misses**2).sum(1).mean())) / abs(distance) if distance and not together else math.inf
    return Meeting(point + middle, distance, miss, float((depths > 0).mean()))


def upwards(poses: Matrix) -> Matrix | None:
    """The direction (3,) in the world that is up for cameras (n, 4, 4) held level: that which is across all their right
    hand axes. None if they are not held level, or stand too near to each other."""
    if len(poses) < FEWEST:
        return None
    right = poses[:, :3, 0]
    values, vectors = np.linalg.eigh(right.T @ right / len(poses))
    if values[0] > 0.03 or values[1] < 4 * values[0] + 0.01:
        return None
    up = vectors[:, 0]
    along = float(poses[:, :3, 1].mean(0) @ up)
    return None if abs(along) < 0.1 else up * np.sign(along)


def turn_up(up: Sequence[float]) -> Matrix:
    """The rotation (4, 4) of the world that brings a direction upwards, to +z, by the shortest way."""
    x, y, z = np.asarray(up, np.float64) / np.linalg.norm(up)
    matrix = np.eye(4)
    if z < -0.999999:
        matrix[1, 1] = matrix[2, 2] = -1.0
    else:
        k = 1 / (1 + z)
        matrix[:3, :3] = [[1 - x * x * k, -x * y * k, -x], [-x * y * k, 1 - y * y * k, -y], [x, y, z]]
    return matrix


def name_up(up: Matrix) -> str | None:
    """The axis of the world that points up, "z" say, or None if none does."""
    return next(
        (name for name, axis in UPS.items() if np.dot(axis, up) >= math.cos(math.radians(STRAIGHT))),
        None,
    )


@dataclass(frozen=True)
class Guess:
    """In which convention matrices were written, by what the cameras look at."""

    convention: Convention
    sure: bool
    """Whether it is the only one, or much the best, in which these can be cameras around an object."""
    possible: int
    """In how many conventions they can be."""


def guess(matrices: Matrix, axes: str, poses: str) -> Guess:
    """The convention of matrices (n, 4, 4), among those that the settings ("auto": any) leave open.

    Where several are possible (an object far from the origin may look like cameras of another convention), that is
    taken in which the axes meet much more closely and the cameras are held much more level, else the usual one.
    """
    open_ = [
        (a, p) for a in (AXES if axes == "auto" else (axes,)) for p in (POSES if poses == "auto" else (poses,))
    ]  # the usual one first
    if len(open_) == 1 or len(matrices) < FEWEST:
        return Guess(open_[0], len(open_) == 1, len(open_))
    found = []
    for convention in open_:
        cameras = to_camera(matrices, convention)
        where = meeting(cameras)
        if where is not None and where.good:
            right = cameras[:, :3, 0]
            tilt = float(np.linalg.eigvalsh(right.T @ right / len(right))[0])  # mean square of a sine
            found.append((where.miss**2 + tilt, convention))
    if not found:
        return Guess(open_[0], False, 0)
    best, convention = min(found)
    if all(best + ROUNDING <= 0.25 * other for other, kind in found if kind != convention):
        return Guess(convention, True, len(found))
    return Guess(found[0][1], False, len(found))
