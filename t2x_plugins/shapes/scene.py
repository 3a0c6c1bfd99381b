"""The shapes world: its words, what they measure, and how scenes are drawn.

A scene holds one object at a named place, or two objects that stand in a relation. Everything follows from integers and
words through blake2b and `random.Random.random`, so that it is the same on every machine and Python version.

Lengths are fractions: x of the image's width, y of its height (downwards), radii of its shorter side.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal, TypeVar

DRAWING = 1
"""Counts changes of scenes and of how they are drawn: with another one, cached latents are out of date."""
RGB = tuple[int, int, int]
Split = Literal["train", "held_out"]
Combination = tuple[str, str, str, str]
"""(shape, colour, size, place) of a single object."""

T = TypeVar("T")

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS: dict[str, RGB] = {
    "red": (225, 20, 30),
    "orange": (255, 132, 0),
    "yellow": (255, 238, 50),
    "green": (10, 165, 40),
    "cyan": (40, 225, 235),
    "blue": (30, 60, 240),
    "purple": (155, 30, 205),
    "pink": (255, 125, 195),
}
BACKGROUNDS: dict[str, RGB] = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (115, 115, 115),
    "navy": (15, 25, 95),
}
SIZES = {"small": 0.11, "medium": 0.165, "large": 0.24}
"""Radius of the circle of that size."""
LOW, MIDDLE, HIGH = 0.28, 0.5, 0.72
PLACES = {
    "top left": (LOW, LOW),
    "top": (MIDDLE, LOW),
    "top right": (HIGH, LOW),
    "left": (LOW, MIDDLE),
    "centre": (MIDDLE, MIDDLE),
    "right": (HIGH, MIDDLE),
    "bottom left": (LOW, HIGH),
    "bottom": (MIDDLE, HIGH),
    "bottom right": (HIGH, HIGH),
}
"""Centre (x, y) of an object at that place."""
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Direction (x, y) in which the first object lies, seen from the second."""
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

SIZE_JITTER = 0.04
"""Largest relative change of a radius; classes differ by 45 % or more."""
PLACE_JITTER = 0.02
"""Largest shift of a centre along each axis; places are 0.22 apart."""
GAP = 0.1
"""Least distance between the bounding boxes of two related objects, along the relation's axis."""
EDGE = 0.02
"""Least distance of a bounding box from the border."""
DOMINANCE = 0.35
"""Largest offset of two related objects across the relation's axis, as a share of their distance along it."""
HELD_OUT_SHARE = 8
"""One in so many combinations never occurs in training."""


@dataclass(frozen=True)
class SceneObject:
    """One object, with its words and its measures."""

    shape: str
    colour: str
    size: str
    place: str | None
    """Name of its place; None where a relation says where it is."""
    x: float
    """Centre of its bounding box, fraction of the image's width."""
    y: float
    """Centre of its bounding box, fraction of the image's height, downwards."""
    radius: float
    """Fraction of the image's shorter side; every shape lies within ± radius of its centre along both axes."""


@dataclass(frozen=True)
class Scene:
    """One object, or two and the relation of the first to the second, on a plain background."""

    objects: tuple[SceneObject, ...]
    background: str
    relation: str | None = None


def keyed_random(*words: str | int) -> random.Random:
    """A generator seeded by `words` alone. Use its `random()`: other methods may differ between Python versions."""
    digest = hashlib.blake2b("\x1f".join(map(str, words)).encode(), digest_size=16).digest()
    return random.Random(int.from_bytes(digest, "big"))


def choose(rng: random.Random, options: Sequence[T]) -> T:
    """One of `options`, each equally likely."""
    return options[int(rng.random() * len(options))]


def mixed(words: Sequence[str]) -> int:
    """A number that follows from words: to put them into a fixed, mixed order."""
    return int.from_bytes(hashlib.blake2b("|".join(words).encode(), digest_size=8).digest(), "big")


def is_kept_back(words: Sequence[str]) -> bool:
    """Whether what is named so belongs to the held-out share."""
    return mixed(words) % HELD_OUT_SHARE == 0


def is_held_out(scene: Scene) -> bool:
    """Whether the combination is kept from training.

    One object: by (shape, colour, size, place). Two: by (shape, colour) of both and the relation, where "A left of B"
    and "B right of A" are the same.
    """
    if scene.relation is None:
        (only,) = scene.objects
        return is_kept_back((only.shape, only.colour, only.size, only.place or ""))
    first, second = scene.objects
    return _pair_is_kept_back((first.shape, first.colour), scene.relation, (second.shape, second.colour))


def _pair_is_kept_back(first: tuple[str, str], relation: str, second: tuple[str, str]) -> bool:
    if relation in ("right of", "below"):
        first, relation, second = second, INVERSE[relation], first
    return is_kept_back((*first, relation, *second))


@lru_cache(maxsize=2)
def combinations(split: Split) -> tuple[Combination, ...]:
    """The single objects of a split in a fixed, mixed order: its first n are a fair sample of it."""
    everything = product(SHAPES, COLOURS, SIZES, PLACES)
    return tuple(sorted((c for c in everything if is_kept_back(c) == (split == "held_out")), key=mixed))


def sample_scene(
    seed: int,
    id: int,
    split: Split = "train",
    two_objects: float = 0.0,
    backgrounds: Sequence[str] = tuple(BACKGROUNDS),
) -> Scene:
    """Scene number `id` of the world `seed`.

    Args:
        split: "train" never gives a held-out combination, "held_out" gives no other. Single held-out objects go round
            `combinations("held_out")` in order, so n consecutive ids show each of the n combinations once (with
            `two_objects` = 0); training ones are drawn.
        two_objects: share of the scenes that hold two objects, in [0, 1].
        backgrounds: names to choose from.
    """
    rng = keyed_random("scene", seed, split, id)
    pair = rng.random() < two_objects
    background = choose(rng, backgrounds)
    if pair:
        return _pair(rng, split, background)
    options = combinations(split)
    shape, colour, size, place = options[id % len(options)] if split == "held_out" else choose(rng, options)
    x, y = (centre + _spread(rng, PLACE_JITTER) for centre in PLACES[place])
    return Scene((SceneObject(shape, colour, size, place, x, y, _radius(rng, size)),), background)


def _pair(rng: random.Random, split: Split, background: str) -> Scene:
    kinds = tuple(product(SHAPES, COLOURS))
    while True:
        first, second, relation = choose(rng, kinds), choose(rng, kinds), choose(rng, tuple(RELATIONS))
        if first != second and _pair_is_kept_back(first, relation, second) == (split == "held_out"):
            break
    sizes = ("large", "large")
    while sizes == ("large", "large"):  # they do not fit side by side
        sizes = choose(rng, tuple(SIZES)), choose(rng, tuple(SIZES))
    radii = [_radius(rng, size) for size in sizes]

    # Along the relation's axis the nearer object (left, or top) comes first; across it they differ by less.
    along = 0 if relation in ("left of", "right of") else 1
    order = (0, 1) if sum(RELATIONS[relation]) < 0 else (1, 0)
    room = [(radius + EDGE, 1 - radius - EDGE) for radius in radii]
    near, far = order
    distance = _between(rng, sum(radii) + GAP, room[far][1] - room[near][0])
    start = _between(rng, room[near][0], room[far][1] - distance)
    across = _between(rng, *room[near])
    offset = across + _spread(rng, DOMINANCE * distance)
    centres = [[0.0, 0.0], [0.0, 0.0]]
    centres[near][along], centres[near][1 - along] = start, across
    centres[far][along], centres[far][1 - along] = start + distance, min(max(offset, room[far][0]), room[far][1])

    objects = tuple(
        SceneObject(shape, colour, size, None, x, y, radius)
        for (shape, colour), size, (x, y), radius in zip((first, second), sizes, centres, radii, strict=True)
    )
    return Scene(objects, background, relation)


def _between(rng: random.Random, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _spread(rng: random.Random, most: float) -> float:
    return _between(rng, -most, most)


def _radius(rng: random.Random, size: str) -> float:
    return SIZES[size] * (1 + _spread(rng, SIZE_JITTER))
