"""Scenes of solids: their words, what they measure, and how they are drawn by lot.

One solid that stands at a named place, or two that stand in a relation, on nothing, before black. Everything follows
from integers and words (`shapes.scene.keyed_random`), so it is the same on every machine.

The world is right-handed with z up. Places and relations are as the front camera sees them, which stands on -y
and looks along +y: left is -x, right is +x, the front is -y, the back is +y. Lengths are in units of the world.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from ..scene import COLOURS, Split, choose, is_kept_back, keyed_random, mixed

Combination = tuple[str, str, str]
"""(solid, colour, place) of a single solid."""

HALF_HEIGHTS = {"sphere": 1.0, "box": 0.82, "cone": 1.0, "cylinder": 0.95}
"""Half the height of each solid of radius 1. The cone points up; a box has its faces along the axes."""
SOLIDS = tuple(HALF_HEIGHTS)
FLAT = ("box", "cylinder")
"""What another solid can stand on."""
PLACES = {"left": (-1, 0), "right": (1, 0), "front": (0, -1), "back": (0, 1), "middle": (0, 0)}
"""Direction (x, y) of a place from the middle."""
RELATIONS = {
    "left of": (-1, 0, 0),
    "right of": (1, 0, 0),
    "in front of": (0, -1, 0),
    "behind": (0, 1, 0),
    "on top of": (0, 0, 1),
    "under": (0, 0, -1),
}
"""Direction (x, y, z) in which the first solid lies, seen from the second."""
INVERSE = {
    name: next(n for n, d in RELATIONS.items() if d == tuple(-x for x in way)) for name, way in RELATIONS.items()
}

RADIUS, PAIR_RADIUS = 0.5, 0.42
"""Radius of a single solid, and of one of two."""
OFFSET = 0.55
"""How far from the middle a place is, and each of two solids that stand side by side."""
SIZE_JITTER = 0.04
"""Largest relative change of a radius."""
PLACE_JITTER = 0.04
"""Largest shift along x and y."""


@dataclass(frozen=True)
class Solid:
    """One solid, with its words and its measures."""

    kind: str
    colour: str
    place: str | None
    """Name of its place; None where a relation says where it is."""
    centre: tuple[float, float, float]
    """(x, y, z) of the middle of its bounding box."""
    radius: float
    """Half the width of a sphere; the other solids are about as large (`HALF_HEIGHTS`, `render.WIDTHS`)."""


@dataclass(frozen=True)
class SolidScene:
    """One solid, or two and the relation of the first to the second."""

    solids: tuple[Solid, ...]
    relation: str | None = None


def _pair_is_kept_back(first: tuple[str, str], relation: str, second: tuple[str, str]) -> bool:
    if sum(RELATIONS[relation]) * (1 if relation in ("on top of", "under") else -1) < 0:
        first, relation, second = second, INVERSE[relation], first
    return is_kept_back((*first, relation, *second))


def is_held_out(scene: SolidScene) -> bool:
    """Whether the combination is kept from training: (solid, colour, place) of a single one; (solid, colour) of both
    and the relation of a pair, where "A left of B" and "B right of A" are the same."""
    if scene.relation is None:
        (only,) = scene.solids
        return is_kept_back((only.kind, only.colour, only.place or ""))
    first, second = scene.solids
    return _pair_is_kept_back((first.kind, first.colour), scene.relation, (second.kind, second.colour))


@lru_cache(maxsize=2)
def combinations(split: Split) -> tuple[Combination, ...]:
    """The single solids of a split in a fixed, mixed order: its first n are a fair sample of it."""
    everything = product(SOLIDS, COLOURS, PLACES)
    return tuple(sorted((c for c in everything if is_kept_back(c) == (split == "held_out")), key=mixed))


def sample_scene(seed: int, id: int, split: Split = "train", two_solids: float = 0.0) -> SolidScene:
    """Scene number `id` of the world `seed`.

    Args:
        split: "train" never gives a held-out combination, "held_out" gives no other. Single held-out solids go round
            `combinations("held_out")` in order.
        two_solids: share of the scenes that hold two, in [0, 1].
    """
    rng = keyed_random("solids", seed, split, id)
    if rng.random() < two_solids:
        return _pair(rng, split)
    options = combinations(split)
    kind, colour, place = options[id % len(options)] if split == "held_out" else choose(rng, options)
    radius = _jittered(rng, RADIUS)
    x, y = (OFFSET * way + _spread(rng, PLACE_JITTER) for way in PLACES[place])
    return SolidScene((Solid(kind, colour, place, (x, y, HALF_HEIGHTS[kind] * radius - RADIUS), radius),))


def _pair(rng: random.Random, split: Split) -> SolidScene:
    kinds = tuple(product(SOLIDS, COLOURS))
    while True:
        first, second, relation = choose(rng, kinds), choose(rng, kinds), choose(rng, tuple(RELATIONS))
        lower = {"on top of": second, "under": first}.get(relation)
        possible = first[1] != second[1] and (lower is None or lower[0] in FLAT)
        if possible and _pair_is_kept_back(first, relation, second) == (split == "held_out"):
            break
    radii = [_jittered(rng, PAIR_RADIUS) for _ in (first, second)]
    halves = [HALF_HEIGHTS[kind] * radius for (kind, _), radius in zip((first, second), radii, strict=True)]
    way = RELATIONS[relation]
    stacked = bool(way[2])
    centres = []
    for sign, half, other in ((1, halves[0], halves[1]), (-1, halves[1], halves[0])):
        x, y = (0.0 if stacked else sign * OFFSET * w + _spread(rng, PLACE_JITTER) for w in way[:2])
        z = sign * way[2] * other if stacked else half - PAIR_RADIUS  # a stack has its middle at the origin
        centres.append((x, y, z))
    solids = tuple(
        Solid(kind, colour, None, centre, radius)
        for (kind, colour), centre, radius in zip((first, second), centres, radii, strict=True)
    )
    return SolidScene(solids, relation)


def _spread(rng: random.Random, most: float) -> float:
    return most * (2 * rng.random() - 1)


def _jittered(rng: random.Random, radius: float) -> float:
    return radius * (1 + _spread(rng, SIZE_JITTER))
