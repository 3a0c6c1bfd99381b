"""Clips of the shapes world: one object that moves, bounces, stands still, appears or disappears.

Lengths are those of `scene.py`, fractions of the image; speeds are fractions a second, so that the same motion takes
more frames at a higher frame rate.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from .render import render
from .scene import (
    COLOURS,
    EDGE,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    Split,
    choose,
    is_kept_back,
    keyed_random,
    mixed,
)

KINDS = ("moves", "bounces", "stays", "appears", "disappears")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Direction (x, y) of a motion, y downwards."""
SPEEDS = {"slowly": 0.077, "fast": 0.23}
"""Fractions of the image a second."""
SPEED_JITTER = 0.15
"""Largest relative change of a speed; the two are a factor of three apart."""
BOUNCE_SPEED = 0.23
SIZE = "large"
"""All objects of clips have this size; captions do not name it."""
LENGTH = 1.8
"""Longest clip, in seconds: a fast object would leave the image later."""


@dataclass(frozen=True)
class Motion:
    """What an object does."""

    kind: str
    """One of KINDS."""
    direction: str | None = None
    """One of DIRECTIONS: where it moves, or which edge it bounces off (None: it does not move)."""
    speed: str | None = None
    """One of SPEEDS, for "moves" only."""


MOTIONS = (
    *(Motion("moves", direction, speed) for direction in DIRECTIONS for speed in SPEEDS),
    *(Motion("bounces", direction) for direction in DIRECTIONS),
    *(Motion(kind) for kind in ("stays", "appears", "disappears")),
)
Combination = tuple[str, str, Motion]
"""(shape, colour, motion) of a clip."""


@dataclass(frozen=True)
class ClipScene:
    """A clip before it is drawn."""

    shape: str
    colour: str
    motion: Motion
    background: str
    path: tuple[tuple[float, float] | None, ...]
    """Centre (x, y) of the object in each frame; None where it is not there."""
    radius: float
    fps: float
    """Frames a second."""


def _words(combination: Combination) -> tuple[str, ...]:
    shape, colour, motion = combination
    return shape, colour, motion.kind, motion.direction or "", motion.speed or ""


@lru_cache(maxsize=2)
def combinations(split: Split) -> tuple[Combination, ...]:
    """The combinations of a split in a fixed, mixed order: its first n are a fair sample of it."""
    everything = product(SHAPES, COLOURS, MOTIONS)
    kept = (c for c in everything if is_kept_back(_words(c)) == (split == "held_out"))
    return tuple(sorted(kept, key=lambda c: mixed(_words(c))))


def sample_clip(
    seed: int,
    id: int,
    split: Split,
    frames: int,
    fps: Sequence[float],
    backgrounds: Sequence[str],
    spread: float = 1.0,
) -> ClipScene:
    """Clip number `id` of the world `seed`.

    Args:
        split: "train" never gives a held-out combination, "held_out" gives no other, each in turn.
        frames: of the clip; 1 gives an image of an object that stands still.
        fps: frame rates to choose from; with `frames`, at most LENGTH seconds.
        backgrounds: names to choose from.
        spread: how far from the middle of its room a path may lie, from 0 (in the middle) to 1 (anywhere).
    """
    rng = keyed_random("clip", seed, split, id)
    options = combinations(split)
    shape, colour, motion = options[id % len(options)] if split == "held_out" else choose(rng, options)
    if frames == 1:
        motion = Motion("stays")
    rate, radius = choose(rng, fps), SIZES[SIZE]
    path = _path(rng, motion, [i / rate for i in range(frames)], radius, spread)
    return ClipScene(shape, colour, motion, choose(rng, backgrounds), tuple(path), radius, rate)


def _path(
    rng: random.Random, motion: Motion, times: Sequence[float], radius: float, spread: float
) -> list[tuple[float, float] | None]:
    low, high = radius + EDGE, 1 - radius - EDGE
    anywhere = [low + (high - low) * _about_half(rng, spread) for _ in range(2)]
    if motion.direction is None:
        there = _presence(rng, motion, len(times))
        return [(anywhere[0], anywhere[1]) if seen else None for seen in there]
    towards = DIRECTIONS[motion.direction]
    axis = 0 if towards[0] else 1
    length = times[-1]
    if motion.kind == "bounces":
        speed = BOUNCE_SPEED * (1 + SPEED_JITTER * (2 * rng.random() - 1))
        turn = length * (0.4 + 0.2 * rng.random())  # when it touches the edge
        along = [abs(speed * (time - turn)) for time in times]  # distance from the edge
        places = [low + far if sum(towards) < 0 else high - far for far in along]
    else:
        assert motion.speed is not None
        speed = SPEEDS[motion.speed] * (1 + SPEED_JITTER * (2 * rng.random() - 1))
        room = high - low - speed * length
        start = _about_half(rng, spread) * room
        along = [start + speed * time for time in times]  # from where it comes
        places = [high - far if sum(towards) < 0 else low + far for far in along]
    path: list[tuple[float, float] | None] = []
    for place in places:
        centre = list(anywhere)
        centre[axis] = place
        path.append((centre[0], centre[1]))
    return path


def _about_half(rng: random.Random, spread: float) -> float:
    """0.5, at most half of `spread` more or less."""
    return 0.5 + spread * (rng.random() - 0.5)


def _presence(rng: random.Random, motion: Motion, frames: int) -> list[bool]:
    """In which frames the object is there: it comes or goes in the middle third."""
    change = max(1, round(frames * (0.35 + 0.3 * rng.random())))
    match motion.kind:
        case "appears":
            return [i >= change for i in range(frames)]
        case "disappears":
            return [i < change for i in range(frames)]
    return [True] * frames


def render_clip(clip: ClipScene, height: int = 32, width: int | None = None) -> NDArray[np.uint8]:
    """The frames (F, height, width, 3) of a clip, RGB; square where no width is given."""
    frames = []
    for place in clip.path:
        things: tuple[SceneObject, ...] = ()
        if place is not None:
            things = (SceneObject(clip.shape, clip.colour, SIZE, None, *place, clip.radius),)
        frames.append(render(Scene(things, clip.background), height, width))
    return np.stack(frames)
