"""Reads the attributes of objects from pixels alone, and says whether an image shows what a caption says.

The background is what the border shows; what stands out from it and hangs together is an object. Its colour is that
of its core, and its coverage (0 … 1 for each pixel) follows from the two. Each shape is then drawn, sharp and soft,
with the area and the centroid of that coverage, and the one that agrees best is seen. So images that a network made
can be read too: noise, soft edges and slightly wrong colours do little harm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .captions import CaptionSpec, ObjectWords, full_caption_spec, parse
from .likeness import refine, spread
from .render import AREAS, CENTROIDS, SUBSAMPLES, coverage
from .scene import BACKGROUNDS, COLOURS, PLACES, RELATIONS, RGB, SHAPES, SIZES, Scene
from .verdicts import Verdict, shares

Floats = NDArray[np.float64]
Image = NDArray[np.uint8] | NDArray[np.floating]
"""(H, W, 3) RGB: uint8, or float in [-1, 1]."""

ATTRIBUTES = ("shape", "colour", "size", "place")

CONTRAST = 45.0
"""Least distance from the background, in RGB levels, at which a pixel stands out; object colours are at 129 or more."""
EDGE_CONTRAST = 0.4
"""A pixel at a soft edge stands out if it has this share of the contrast of its neighbourhood."""
BORDER_SPREAD = 32.0
"""Largest median deviation, in RGB levels, of a border that still counts as a plain background."""
COLOUR_TOLERANCE = 80.0
"""Largest distance from a word's RGB at which a colour still has that name."""
LEAST_SHARE = 0.7
"""Least share of its own colour, the rest being background, that the core of an object may show."""
LEAST_AREA = 0.008
"""Smaller blobs, as a share of the shorter side squared, are overlooked; the smallest object covers 0.02."""
LEAST_AGREEMENT, ROUGH_AGREEMENT = 0.7, 0.6
"""Least intersection over union with the best shape for the object to have a shape at all: strictly, and otherwise."""
SPECK_CONTRAST = 70.0
"""Least distance from the background, in RGB levels, of a stray pixel that is seen."""
SURE = 0.6
"""A colour has a name if its distance from it is at most this share of that from any other name."""


@dataclass(frozen=True)
class SeenObject:
    """An object read from pixels; None = nothing that has a name."""

    shape: str | None
    colour: str | None
    size: str
    place: str
    centre: tuple[float, float]
    """(x, y) of the bounding box, fractions of width and height."""
    radius: float
    """Fraction of the shorter side, as in `SceneObject`."""
    agreement: float
    """Intersection over union with the nearest shape, 0 … 1."""
    exact: bool = True
    """Whether nothing but the shape explains its pixels."""


@dataclass(frozen=True)
class SeenImage:
    """What an image shows, its largest object first."""

    objects: tuple[SeenObject, ...]
    background: str | None
    specks: int = 0
    """Stray pixels that belong to no object."""


def read(image: Image, strict: bool = True) -> SeenImage:
    """What is seen in an image (H, W, 3): uint8, or float in [-1, 1]. Nothing where there is no plain background.

    `strict`: an object has a shape only if nothing but that shape explains its pixels, so a hexagon has none; otherwise
    it has the one of the five shapes that fits best, as a person would name it, if that fits at all.
    """
    levels = image.astype(np.float64)
    if image.dtype != np.uint8:
        levels = np.clip((levels + 1) * 127.5, 0, 255)
    border = np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])
    background = np.median(border, axis=0)
    if np.median(np.abs(border - background)) > BORDER_SPREAD:
        return SeenImage((), None)

    difference = levels - background
    contrast = np.sqrt((difference * difference).sum(-1))
    reach = max(2, min(contrast.shape) // 16)
    stands_out = contrast > np.maximum(CONTRAST, EDGE_CONTRAST * _dilate(contrast, reach))
    blobs = _components(stands_out, int(LEAST_AREA * min(contrast.shape) ** 2))
    surroundings = [_dilate(blob, 1) for blob in blobs]
    claims = np.sum(surroundings, axis=0)
    free = ~_dilate(np.any([np.zeros_like(stands_out), *blobs], axis=0), reach)
    noise = spread(difference[free], background)
    specks = int((free & (contrast > max(SPECK_CONTRAST, 6 * noise))).sum())
    objects = []
    for blob, own in zip(blobs, surroundings, strict=True):
        core = blob & (contrast >= 0.8 * np.quantile(contrast[blob], 0.9))
        colour = difference[core].mean(0)
        if np.linalg.norm(colour) > CONTRAST:  # in noise the differences cancel
            near = _dilate(blob, reach) & (claims - own == 0)
            own_difference = np.where(near[:, :, None], difference, 0)
            objects.append(_see(own_difference, colour, background, near, noise, strict))
    objects.sort(key=lambda seen: -seen.radius)
    return SeenImage(tuple(objects), _nearest(background, BACKGROUNDS), specks)


def _see(
    difference: Floats, colour: Floats, background: Floats, near: NDArray[np.bool_], noise: float, strict: bool
) -> SeenObject:
    """The object that makes `difference` (H, W, 3) from the background, `colour` in its core.

    Args:
        near: (H, W), where the difference belongs to this object.
        noise: standard deviation of the pixels of the background, in RGB levels.
    """
    _, share = _name_colour(background, background + colour)
    covered = difference @ colour / (colour @ colour)
    fits = [_fit(shape, np.clip(covered, 0, 1), soft=False) for shape in SHAPES]
    fits += [_fit(shape, np.clip(covered * share, 0, 1), soft=True) for shape in SHAPES]
    fit = max(fits, key=lambda fit: fit.agreement)
    others = max((f for f in fits if f.shape != fit.shape), key=lambda fit: fit.agreement)
    best = min((refine(f, difference, near, noise) for f in (fit, others)), key=lambda found: found.excess)
    exact = fit.agreement >= LEAST_AGREEMENT and best.excess <= 1
    named = exact if strict else fit.agreement >= ROUGH_AGREEMENT
    height, width = covered.shape
    x, y, radius = float(best.x / width), float(best.y / height), float(best.radius / min(height, width))
    return SeenObject(
        best.shape if named else None,
        _sure_name(background, background + best.colour),
        min(SIZES, key=lambda size: abs(math.log(SIZES[size] / radius))),
        min(PLACES, key=lambda place: math.dist(PLACES[place], (x, y))),
        (x, y),
        radius,
        float(fit.agreement),
        exact,
    )


def _sure_name(background: Floats, colour: Floats) -> str | None:
    """The name of a colour; None if it lies between two names, or far from all."""
    near = sorted((float(np.linalg.norm(np.array(rgb) - colour)), name) for name, rgb in COLOURS.items())
    (first, name), (second, _) = near[:2]
    return name if first <= min(COLOUR_TOLERANCE, SURE * second) else None


class Fit(NamedTuple):
    """A shape laid over a coverage; lengths in pixels."""

    shape: str
    x: float
    y: float
    radius: float
    agreement: float
    """Intersection over union."""


def _fit(shape: str, covered: Floats, soft: bool) -> Fit:
    """The shape that has the area and the centroid of `covered` (H, W); `soft` blurs it by a pixel."""
    height, width = covered.shape
    area = covered.sum()
    x = covered.sum(0) @ (np.arange(width) + 0.5) / area
    middle = covered.sum(1) @ (np.arange(height) + 0.5) / area
    radius = np.sqrt(area / AREAS[shape])
    y = middle - CENTROIDS[shape] * radius
    where, counts = coverage(shape, x, y, radius, height, width)
    drawn = np.zeros_like(covered)
    drawn[where] = counts / SUBSAMPLES**2
    if soft:
        drawn = _blur(drawn)
    return Fit(shape, x, y, radius, np.minimum(covered, drawn).sum() / np.maximum(covered, drawn).sum())


def _blur(values: Floats) -> Floats:
    """Weights ¼, ½, ¼ along both axes."""
    for _ in range(2):
        padded = np.pad(values, ((1, 1), (0, 0)), mode="edge")
        values = ((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4).T
    return values


def _nearest(colour: Floats, names: Mapping[str, RGB]) -> str | None:
    distance, name = min((float(np.linalg.norm(colour - np.array(rgb))), name) for name, rgb in names.items())
    return name if distance <= COLOUR_TOLERANCE else None


def _name_colour(background: Floats, colour: Floats) -> tuple[str | None, float]:
    """The name of an object's colour, and the share of it in `colour`: thin soft shapes show some background too."""
    best: tuple[float, str, float] = (math.inf, "", 1.0)
    for name, rgb in COLOURS.items():
        pure = np.array(rgb) - background
        share = float(np.clip((colour - background) @ pure / (pure @ pure), LEAST_SHARE, 1))
        best = min(best, (float(np.linalg.norm(background + share * pure - colour)), name, share))
    distance, name, share = best
    return name if distance <= COLOUR_TOLERANCE else None, share


def _dilate(values: NDArray, reach: int) -> NDArray:
    """The largest of the values (H, W) within `reach` along both axes."""
    for axis in (0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (reach, reach)
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, padding, mode="edge"), 2 * reach + 1, axis)
        values = windows.max(-1)
    return values


def _components(mask: NDArray[np.bool_], least: int) -> list[NDArray[np.bool_]]:
    """The parts of a mask (H, W) that hang together (8 neighbours) and have at least `least` pixels."""
    labels = np.where(mask, np.arange(mask.size).reshape(mask.shape), -1)
    while True:
        grown = np.where(mask, _dilate(labels, 1), -1)
        grown[mask] = grown.ravel()[grown[mask]]  # a label is a pixel of the same part: take over that pixel's label
        if np.array_equal(grown, labels):
            break
        labels = grown
    names, counts = np.unique(labels[mask], return_counts=True)
    return [labels == name for name in names[counts >= least]]


def check(image: Image, wanted: Scene | CaptionSpec, strict: bool = True) -> dict[str, bool]:
    """Whether an image (H, W, 3) shows each attribute that is named, and "all" of them.

    `strict` as in `read`; otherwise "exact" says whether "all" is right strictly, too.

    "count" is the number of objects, without stray pixels; where there are too many, the largest is judged, or the
    two that fit best. With two objects an attribute is right if it is so for both, and "relation" if the two can be
    distinct by what is said of them and stand as said.
    """
    if isinstance(wanted, Scene):
        wanted = full_caption_spec(wanted)
    seen = read(image, strict)
    chosen = _assign(wanted.objects, seen.objects)
    right = {"count": len(seen.objects) == len(wanted.objects) and not seen.specks}
    for attribute in ATTRIBUTES:
        said = [getattr(words, attribute) for words in wanted.objects]
        if any(said):
            shown = [getattr(thing, attribute) for thing in chosen]
            right[attribute] = bool(chosen) and all(w in (None, g) for w, g in zip(said, shown, strict=True))
    if wanted.relation:
        apart = _hits(wanted.objects, chosen) > _hits(wanted.objects, chosen[::-1])
        right["relation"] = apart and _stands(wanted.relation, *chosen)
    if wanted.background:
        right["background"] = seen.background == wanted.background
    whole = all(right.values())
    if not strict:
        right["exact"] = whole and all(thing.exact for thing in chosen)
    return right | {"all": whole}


def _assign(words: Sequence[ObjectWords], seen: Sequence[SeenObject]) -> tuple[SeenObject, ...]:
    """The seen object that each of the words may mean; none if there are too few."""
    if len(words) == 1:
        return tuple(seen[:1])
    return max(permutations(seen, len(words)), key=lambda chosen: _hits(words, chosen), default=())


def _hits(words: Sequence[ObjectWords], chosen: Sequence[SeenObject]) -> int:
    pairs = zip(words, chosen, strict=False)
    return sum(getattr(said, name) == getattr(thing, name) for said, thing in pairs for name in ATTRIBUTES)


def _stands(relation: str, first: SeenObject, second: SeenObject) -> bool:
    """Whether the first object lies in the relation's direction from the second, more than to either side of it."""
    x, y = (a - b for a, b in zip(first.centre, second.centre, strict=True))
    right, down = RELATIONS[relation]
    return x * right + y * down > abs(x * down) + abs(y * right)


def score(images: Sequence[Image] | Image, captions: Sequence[str], strict: bool = True) -> dict[str, float]:
    """Share of the images that are right, for each attribute that their captions name (`verdicts`)."""
    return shares(verdicts(images, captions, strict))


def verdicts(images: Sequence[Image] | Image, captions: Sequence[str], strict: bool = True) -> list[Verdict]:
    """What is right about each image.

    "shape", "colour", "size", "place", "background", "count" and "all" are those of captions with one object;
    "relation" and "two_objects" (all attributes) those of captions with two. Captions of another world are passed over.
    """
    found: list[Verdict] = []
    for image, caption in zip(images, captions, strict=True):
        wanted = parse(caption)
        right = {} if wanted is None else check(image, wanted, strict)
        if wanted is not None and wanted.relation:
            right = {"relation": right["relation"], "two_objects": right["all"]}
        found.append(right)
    return found
