"""Reads motion from frames alone, and says whether a clip shows what a caption says.

Each frame is read by itself (`checker.read`); the largest object of each makes a path, and what it does is the motion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checker import Image, read
from .motion import DIRECTIONS, SPEEDS, Motion
from .motion_captions import ClipWords, parse
from .verdicts import Verdict, shares

STILL = 0.035
"""Least way, as a fraction of the image, that counts as a motion."""
ACROSS = 0.5
"""Largest way across the direction of a motion, as a share of that along it."""
BACK = 0.35
"""Least way back, as a share of the way there, of an object that bounces."""
JUMP = 0.07
"""Least difference of a frame's step from twice the usual one, as a fraction of the image, that is a jump."""
SAME = 0.75
"""Least share of the frames that show the shape and the colour of the clip; the others may show what has no name."""
SPEED_LIMIT = float(np.sqrt(SPEEDS["slowly"] * SPEEDS["fast"]))
"""Fractions a second that part slow from fast."""


@dataclass(frozen=True)
class SeenClip:
    """What is seen in a clip; None = nothing that has a name."""

    shape: str | None
    colour: str | None
    motion: Motion | None
    most: int
    """Largest number of objects in one frame."""
    exact: bool = False
    """Whether nothing but the shape explains the pixels of nearly all frames."""


def read_clip(frames: Sequence[Image], fps: float, strict: bool = True) -> SeenClip:
    """What is seen in frames (F, H, W, 3), uint8 or float in [-1, 1]; `strict` as in `checker.read`."""
    seen = [read(frame, strict).objects for frame in frames]
    largest = [objects[0] if objects else None for objects in seen]
    there = [thing for thing in largest if thing is not None]
    if not there:
        return SeenClip(None, None, None, 0)
    shape, colour = _always([thing.shape for thing in there]), _always([thing.colour for thing in there])
    path = np.array([thing.centre if thing else (np.nan, np.nan) for thing in largest])
    exact = sum(thing.exact for thing in there) >= SAME * len(there)
    return SeenClip(shape, colour, read_motion(path, fps), max(map(len, seen)), exact)


def _always(names: Sequence[str | None]) -> str | None:
    """The name that all frames show, but for a few that show none."""
    name, count = Counter(names).most_common(1)[0]
    return name if set(names) <= {name, None} and count >= SAME * len(names) else None


def read_motion(path: NDArray[np.float64], fps: float) -> Motion | None:
    """The motion of a path (F, 2) of centres (x, y) in fractions of the image, NaN where nothing is."""
    present = ~np.isnan(path[:, 0])
    places = path[present]
    if not present.all():
        change = np.flatnonzero(np.diff(present.astype(int)))
        moved = np.ptp(places, axis=0).max() > 2 * STILL
        if len(change) != 1 or moved:
            return None
        return Motion("appears" if present[-1] else "disappears")
    moves = np.diff(places, axis=0)
    steps = np.linalg.norm(moves, axis=1)
    ways = np.ptp(places, axis=0)
    axis = int(np.abs(moves).sum(0).argmax()) if len(moves) else 0
    if len(steps) and (
        np.abs(steps - np.median(steps)).max() > JUMP + np.median(steps)
        or np.abs(moves[:, 1 - axis] - np.median(moves[:, 1 - axis])).max() > JUMP
    ):
        return None
    axis = int(ways.argmax())
    if ways[axis] < STILL:
        return Motion("stays")
    if ways[1 - axis] > max(ACROSS * ways[axis], STILL):
        return None
    along = places[:, axis]
    turn = int(np.abs(along - along[0]).argmax())
    out, back = along[turn] - along[0], along[turn] - along[-1]
    direction = _name(axis, out)
    if min(abs(out), abs(back)) > BACK * max(abs(out), abs(back)):
        return Motion("bounces", direction) if out * back > 0 else None
    slope = np.polyfit(np.arange(len(along)) / fps, along, 1)[0]
    return Motion("moves", _name(axis, slope), "fast" if abs(slope) > SPEED_LIMIT else "slowly")


def _name(axis: int, way: float) -> str:
    step = (int(np.sign(way)), 0) if axis == 0 else (0, int(np.sign(way)))
    return next(name for name, towards in DIRECTIONS.items() if towards == step)


def check_clip(frames: Sequence[Image], fps: float, wanted: ClipWords, strict: bool = True) -> dict[str, bool]:
    """Whether a clip (F, H, W, 3) shows each attribute that is named, and "all" of them.

    "motion" is all that concerns it; "count": never more than one object. `strict` as in `checker.check`.
    """
    seen = read_clip(frames, fps, strict)
    right = {"shape": seen.shape == wanted.shape, "colour": seen.colour == wanted.colour}
    kind = seen.motion is not None and seen.motion.kind == wanted.motion.kind
    right["kind"] = kind
    if wanted.motion.direction:
        right["direction"] = kind and seen.motion is not None and seen.motion.direction == wanted.motion.direction
    if wanted.motion.speed:
        right["speed"] = kind and seen.motion is not None and seen.motion.speed == wanted.motion.speed
    right["motion"] = seen.motion == wanted.motion
    right["count"] = seen.most <= 1
    whole = right["shape"] and right["colour"] and right["motion"] and right["count"]
    return right | ({} if strict else {"exact": whole and seen.exact}) | {"all": whole}


def score(
    clips: Sequence[Any] | Image, captions: Sequence[str], fps: Sequence[float], strict: bool = True
) -> dict[str, float]:
    """Share of the clips that are right, for each attribute that their captions name (`verdicts`)."""
    return shares(verdicts(clips, captions, fps, strict))


def verdicts(
    clips: Sequence[Any] | Image, captions: Sequence[str], fps: Sequence[float], strict: bool = True
) -> list[Verdict]:
    """What is right about each of the clips (B, F, H, W, 3).

    "bounces", "appears" …: whether the motion is right, of captions of that kind. Other worlds are passed over.
    """
    found: list[Verdict] = []
    for clip, caption, rate in zip(clips, captions, fps, strict=True):
        wanted = parse(caption)
        right = {} if wanted is None else check_clip(clip, rate, wanted, strict)
        found.append(right if wanted is None else {**right, wanted.motion.kind: right["motion"]})
    return found
