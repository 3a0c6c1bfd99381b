"""From what camera files say to views in our own convention, around the origin; and a check of where they look."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from t2x_core.data.image_files import ImageFile
from t2x_core.data.index import Finding
from t2x_core.wording import counted, first_of
from t2x_plugins.text_to_multiview.object_files import ObjectFiles, Shot
from t2x_plugins.text_to_multiview.objects_config import ObjectsConfig
from t2x_plugins.text_to_multiview.rigs import (
    AT_ORIGIN,
    AXES,
    IN_FRONT,
    POSES,
    UPS,
    Convention,
    Guess,
    Matrix,
    guess,
    meeting,
    name_up,
    to_camera,
    turn_up,
    upwards,
)

T = TypeVar("T")
Intrinsics = tuple[float, float, float, float]
"""fx, fy, cx, cy as shares of an image's width and height."""
ASIDE = 0.5
"""Cameras that look past the origin by more than this share of their distance from it are said to."""
UPRIGHT = 45.0
"""Degrees between what is up and what is up for cameras held level, from which on it is said."""
_QUARTER = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
TURNS = {3: _QUARTER @ _QUARTER, 6: _QUARTER, 8: _QUARTER.T}
"""By EXIF orientation: the camera's right, up and back after the image has been turned upright, in terms of those
before."""


@dataclass(frozen=True, eq=False)
class View:
    """One image of an object, and its camera."""

    file: ImageFile
    camera: Matrix
    """(4, 4) camera-to-world, as in `cameras.py`."""
    intrinsics: Intrinsics
    """Of the square that is trained on."""
    mask: ImageFile | None = None

    @property
    def azimuth(self) -> float:
        """Of the camera, in degrees, 0 at -y, counter-clockwise seen from above."""
        return math.degrees(math.atan2(self.camera[0, 3], -self.camera[1, 3])) % 360


@dataclass(frozen=True, eq=False)
class Readable:
    """An object with those of its images that can be read, and what these are."""

    thing: ObjectFiles
    shots: Sequence[tuple[Shot, Finding]]
    content: str = ""
    """Hashes of all of its files."""


def upright(shot: Shot, finding: Finding, own: bool) -> tuple[Matrix, Intrinsics]:
    """How the camera of an image turns with it (4, 4), and the intrinsics of the upright image.

    `own`: the camera is that of the upright image anyway. Raises ValueError if the image cannot be the one described,
    or nothing says whether the camera is that of the image before or after EXIF turned it.
    """
    width, height, orientation, lens = finding.width, finding.height, finding.frames, shot.lens
    same = np.eye(4)
    if orientation == 1 or own:
        return same, lens.intrinsics(width, height)
    fix = "save it upright, without EXIF orientation, and write w and h"
    if orientation not in TURNS:
        raise ValueError(f"EXIF mirrors the image (orientation {orientation}), which a camera cannot; {fix}")
    if orientation == 3 or None in lens.size or lens.fits(width, height) == lens.fits(height, width):
        raise ValueError(
            f"EXIF turns the image (orientation {orientation}), and w and h do not say whether the camera is that of "
            f"the image before or after; {fix}"
        )
    if lens.fits(width, height):
        return same, lens.intrinsics(width, height)
    fx, fy, cx, cy = lens.intrinsics(height, width)
    return TURNS[orientation], (fy, fx, 1 - cy, cx) if orientation == 6 else (fy, fx, cy, 1 - cx)


def cropped(intrinsics: Intrinsics, height: int, width: int, size: int) -> Intrinsics:
    """Intrinsics after `fit_to` has made the image size × size: resized to cover the square, cropped in the middle."""
    fx, fy, cx, cy = intrinsics
    scale = max(size / height, size / width)
    h, w = max(size, round(height * scale)), max(size, round(width * scale))
    top, left = round(0.5 * (h - size)), round(0.5 * (w - size))
    return fx * w / size, fy * h / size, (cx * w - left) / size, (cy * h - top) / size


@dataclass(frozen=True)
class Placement:
    """Objects with their views, and what is to be said of them."""

    views: Sequence[Sequence[View]]
    """Of each object, in the order of their azimuths; of one that cannot be used, none."""
    refused: Sequence[tuple[str, str]]
    """Objects by name that cannot be used, and why."""
    lines: Sequence[str]
    doubts: Sequence[tuple[str, str]] = ()
    """Objects by name whose cameras cannot be around an object at the centre, and what is wrong with them."""


@dataclass(frozen=True, eq=False)
class _Rig:
    """The cameras of an object on their way."""

    name: str
    matrices: Matrix
    turns: Matrix
    intrinsics: Sequence[Intrinsics]
    placed: bool
    up: tuple[float, float, float] | None
    """That the file says."""


def place(objects: Sequence[Readable], config: ObjectsConfig) -> Placement:
    """Brings the cameras of objects into our convention.

    What the settings leave open is decided for each object by what its cameras look at, and where that is undecided,
    as for most others.
    """
    rigs, refused = [], []
    for number, readable in enumerate(objects):
        try:
            rig = _rig(readable, config.size)
        except (KeyError, ValueError) as error:
            said = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
            refused.append((readable.thing.name, said))
        else:
            if rig is not None:
                rigs.append((number, rig))
    cameras, lines = _convert([rig for _, rig in rigs], config)
    views: list[list[View]] = [[] for _ in objects]
    for (number, rig), poses in zip(rigs, cameras, strict=True):
        away = np.linalg.norm(poses[:, :3, 3], axis=1)
        if not np.isfinite(poses).all() or away.min() <= 1e-4 * away.mean() or away.mean() < 1e-9:
            refused.append((rig.name, "a camera stands at the centre, where the object should be: set center"))
            continue
        made = [
            View(shot.file, pose, lens, shot.mask)
            for (shot, _), pose, lens in zip(objects[number].shots, poses, rig.intrinsics, strict=True)
        ]
        views[number] = sorted(made, key=lambda view: view.azimuth)
    doubts = [
        (rig.name, what)
        for (_, rig), poses in zip(rigs, cameras, strict=True)
        if len(poses) > 1 and (what := _what_is_wrong(poses))
    ]
    return Placement(views, refused, lines, doubts)


def _rig(readable: Readable, size: int) -> _Rig | None:
    if not readable.shots:
        return None
    turns, intrinsics = [], []
    for shot, finding in readable.shots:
        try:
            turn, lens = upright(shot, finding, readable.thing.cameras.own)
        except ValueError as error:
            raise ValueError(f"{shot.file.name.rpartition('/')[2]}: {error}") from error
        turns.append(turn)
        intrinsics.append(cropped(lens, finding.height, finding.width, size))
    cameras = readable.thing.cameras
    matrices = np.stack([shot.matrix for shot, _ in readable.shots])
    return _Rig(readable.thing.name, matrices, np.stack(turns), intrinsics, cameras.placed, cameras.up)


def _convert(rigs: Sequence[_Rig], config: ObjectsConfig) -> tuple[list[Matrix], list[str]]:
    """Poses (n, 4, 4) in our own world of each rig, and the lines on them."""
    free = [rig for rig in rigs if not rig.placed]
    guesses = [guess(rig.matrices, config.axes, config.poses) for rig in free]
    usual = _most([found.convention for found in guesses if found.sure], _usual(config))
    kinds = [found.convention if found.sure else usual for found in guesses]
    posed = [to_camera(rig.matrices, kind) @ rig.turns for rig, kind in zip(free, kinds, strict=True)]
    ups = _ups(free, posed, config)
    centres, moved = Counter[str](), []
    chosen = "where the cameras look" if config.center == "auto" else "as set"
    for poses, up in zip(posed, ups, strict=True):
        centre = _centre(poses, config)
        centres[chosen if centre.any() else "the origin"] += 1
        poses = poses.copy()
        poses[:, :3, 3] -= centre
        moved.append(turn_up(up) @ poses)
    lines = []
    if free:
        conventions = Counter(" ".join(kind) for kind in kinds)
        named = Counter(name_up(np.array(up)) or "tilted" for up in ups)
        lines.append(
            f"cameras read as {_counts(conventions)}; up is {_counts(named)}; the centre is {_counts(centres)}"
        )
    of_free = iter(moved)
    every = [_own(rig) if rig.placed else next(of_free) for rig in rigs]
    if rigs:
        lines.append(_where(every, [lens for rig in rigs for lens in rig.intrinsics]))
    lines += _warnings(rigs, every, guesses, dict(zip((rig.name for rig in free), kinds, strict=True)))
    return every, lines


def _own(rig: _Rig) -> Matrix:
    return to_camera(rig.matrices, (AXES[0], POSES[0])) @ rig.turns


def _usual(config: ObjectsConfig) -> Convention:
    return (
        AXES[0] if config.axes == "auto" else config.axes,
        POSES[0] if config.poses == "auto" else config.poses,
    )


def _ups(rigs: Sequence[_Rig], posed: Sequence[Matrix], config: ObjectsConfig) -> list[tuple[float, float, float]]:
    """The direction that is up in each rig's own world."""
    if config.up != "auto":
        return [UPS[config.up] if isinstance(config.up, str) else config.up] * len(rigs)
    found: list[tuple[float, float, float] | None] = []
    for rig, poses in zip(rigs, posed, strict=True):
        seen = upwards(poses)
        if rig.up is not None:
            found.append(rig.up)
        elif seen is None:
            found.append(None)
        else:
            name = name_up(seen)
            x, y, z = seen
            found.append((float(x), float(y), float(z)) if name is None else UPS[name])
    usual = _most([up for up in found if up is not None and up in UPS.values()], UPS["z"])
    return [usual if up is None else up for up in found]


def _centre(poses: Matrix, config: ObjectsConfig) -> Matrix:
    """Where the object stands, in the world of the file."""
    if config.center == "origin":
        return np.zeros(3)
    if config.center != "auto":
        return np.asarray(config.center, np.float64)
    where = meeting(poses)
    if where is None or not where.good or np.linalg.norm(where.point) <= AT_ORIGIN * where.distance:
        return np.zeros(3)
    return where.point


def _where(rigs: Sequence[Matrix], intrinsics: Sequence[Intrinsics]) -> str:
    """How far from the centre cameras stand, how high, and through which lenses they look."""
    places = np.concatenate([poses[:, :3, 3] for poses in rigs])
    away = np.linalg.norm(places, axis=1)
    high = np.degrees(np.arcsin((places[:, 2] / np.maximum(away, 1e-300)).clip(-1, 1)))
    fx, _, cx, cy = np.array(intrinsics).T
    fov = np.degrees(np.arctan(cx / fx) + np.arctan((1 - cx) / fx))
    text = (
        f"cameras stand {_span(away, '.3g')} from the centre, at elevations of {_span(high, '.0f')} degrees; "
        f"fields of view of {_span(fov, '.1f')} degrees"
    )
    aside = max(np.abs(cx - 0.5).max(), np.abs(cy - 0.5).max())
    return text + (f"; principal points up to {aside:.0%} of an image off its middle" if aside >= 0.005 else "")


def _span(values: Matrix, form: str) -> str:
    low, high = format(float(values.min()), form), format(float(values.max()), form)
    return low if low == high else f"{low} to {high}"


def _warnings(
    rigs: Sequence[_Rig], every: Sequence[Matrix], guesses: Sequence[Guess], kinds: dict[str, Convention]
) -> list[str]:
    """Lines on cameras that cannot be around an object at the centre, and on which settings may mend that."""
    wrong: dict[str, list[_Rig]] = {}
    for rig, poses in zip(rigs, every, strict=True):
        if len(poses) > 1 and (what := _what_is_wrong(poses)):
            wrong.setdefault(what, []).append(rig)
    lines = []
    for what, some in wrong.items():
        fits = Counter[Convention]()
        for rig in some:
            other = guess(rig.matrices, "auto", "auto")
            if not rig.placed and other.sure and other.convention != kinds[rig.name]:
                fits[other.convention] += 1
        hint = "check axes, poses and center"
        if fits:
            axes, poses_ = fits.most_common(1)[0][0]
            hint = f"they fit axes: {axes}, poses: {poses_}"
        lines.append(f"warning: {what}: {_first([rig.name for rig in some])}; {hint}")
    unclear = sum(not found.sure and found.possible > 1 for found in guesses)
    if unclear and not any(found.sure for found in guesses):
        lines.append(
            f"warning: the cameras of {counted(unclear, 'object')} may be of several conventions; set axes and poses"
        )
    if len({found.convention for found in guesses if found.sure}) > 1:
        lines.append("warning: the camera files are of several conventions; set axes and poses if that is not so")
    return lines


def _what_is_wrong(poses: Matrix) -> str | None:
    where = meeting(poses)
    if where is None:
        return "cameras look nearly the same way, so that where the object is cannot be checked"
    if math.isinf(where.miss):
        return "cameras stand in one place, and look away from each other"
    if where.in_front <= 1 - IN_FRONT:
        return "cameras look away from the object"
    if not where.good:
        return f"cameras do not look at one point, but past it by {min(where.miss, 9.99):.0%} of the distance"
    if np.linalg.norm(where.point) > ASIDE * where.distance:
        return "cameras look at a point far from the centre"
    up = upwards(poses)
    if up is not None and up[2] < math.cos(math.radians(UPRIGHT)):
        return "cameras are held level about another direction than the one that is up (up: auto would take it)"
    return None


def _most(found: Sequence[T], otherwise: T) -> T:
    return Counter(found).most_common(1)[0][0] if found else otherwise


def _counts(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} ({counted(count, 'object')})" for name, count in counts.most_common())


def _first(names: Sequence[str]) -> str:
    return f"{counted(len(names), 'object')}, {first_of(names)}"
