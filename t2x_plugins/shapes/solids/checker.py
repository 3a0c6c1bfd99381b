"""Says whether views from known cameras show the scene that a caption names, in every view.

What stands out from black is a solid, and the direction of a pixel's RGB is its colour. Each candidate solid is laid
into the world: where it lies and how large it is follow from where it is seen in the views (triangulation, then a few
steps of Gauss and Newton against its own rendering). The candidate whose rendering agrees best with all views is seen.
A view that disagrees with the rendering, because it shows something else or is of another camera, is found out; so are
stray pixels beside it and of other colours. Renderings and views are compared a little blurred, at equal brightness: so
images that a network made can be read too: noise, soft edges and slightly wrong colours do little harm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..scene import COLOURS
from ..verdicts import Verdict, shares
from .captions import CaptionSpec, full_caption_spec, parse
from .render import Floats, shrink, trace
from .scene import OFFSET, PLACES, RADIUS, RELATIONS, SOLIDS, Solid, SolidScene

Views = NDArray[np.uint8] | NDArray[np.floating]
"""(F, H, W, 3) RGB: uint8, or float in [-1, 1]."""
Bools = NDArray[np.bool_]

CONTRAST = 60.0
"""Least length of a pixel's RGB, in levels, to stand out from black; the darkest faces have 90."""
NEIGHBOURS = 2
"""A pixel that stands out counts if so do this many of the eight around it."""
LEAST_SHARE = 0.65
"""Least share of what stands out in a view that must have the colour that is asked for."""
LEAST_AGREEMENT = {1: 0.84, 2: 0.78}
"""Least agreement of a view with the rendering of what is seen in all of them, 0 … 1, by the number of solids: the
colours of two mix where their edges meet."""
MOST_BEHIND = {1: 0.08, 2: 0.09}
"""By how much a view may agree less than the median of all."""
DOUBT = 0.02
"""By how much another solid may agree better with a single view."""
STRAY_CONTRAST = 100.0
"""Least length of the RGB of a pixel that counts by itself; the noise of a black pixel stays below."""
STRAY_DISTANCE = 2
"""Pixels from a solid beyond which what stands out is stray."""
STRAY_ANGLE = 25.0
"""Degrees from the colours that are seen beyond which a pixel is stray wherever it is."""
MOST_GAIN = 1.3
"""Factor by which views may be brighter, or darker, than the rendering."""
LEAST_SEEN = 4.0
"""Of fewer pixels nothing is said: the solid is hidden there, or nearly so."""
STEPS = 6
"""Of a fit."""
NAMES = tuple(COLOURS)
PURE = np.array([COLOURS[name] for name in NAMES], np.float64)
LENGTHS = np.linalg.norm(PURE, axis=1)


@dataclass(frozen=True)
class Cameras:
    """Known cameras, and the size of their images."""

    poses: Floats
    """(F, 4, 4) camera-to-world, axes as in `render`."""
    fov: float
    """Degrees."""
    size: int
    """Pixels."""

    def project(self, point: Floats) -> tuple[Floats, Floats]:
        """Where a point (3,) is seen, in tangents to the right and up (F, 2), and the derivative by it (F, 2, 3)."""
        turns = self.poses[:, :3, :3]
        x, y, z = np.einsum("fij,fi->jf", turns, point - self.poses[:, :3, 3])
        right, up, back = turns.transpose(2, 0, 1)  # (F, 3) each
        seen = np.stack((-x / z, -y / z), 1)
        slope = (
            np.stack((-right, -up), 1) / z[:, None, None]
            + (np.stack((x, y), 1) / z[:, None] ** 2)[:, :, None] * (back[:, None])
        )
        return seen, slope

    def middle(self, bright: Floats) -> Floats:
        """The centroid of brightness (F, H, W) in tangents (F, 2)."""
        cell = ((np.arange(self.size) + 0.5) * 2 / self.size - 1) * math.tan(math.radians(self.fov) / 2)
        total = np.maximum(bright.sum((1, 2)), 1e-9)
        return np.stack((bright.sum(1) @ cell / total, -(bright.sum(2) @ cell) / total), 1)


@dataclass(frozen=True)
class Fit:
    """A solid laid into the world."""

    solid: Solid
    per_view: Floats
    """(F,) agreement with each view, 0 … 1; nan where there is too little to see."""
    agreement: float
    """With all views."""
    drawn: Floats
    """(F, H, W) its brightness."""


Judgement = tuple[dict[str, bool], Floats, list[int]]
"""Whether each attribute is right; brightness (F, H, W) of what is seen, drawn; the numbers of its colours."""


def check(views: Views, wanted: SolidScene | CaptionSpec, poses: NDArray[np.floating], fov: float) -> dict[str, bool]:
    """Whether views (F, H, W, 3) show each attribute that is named, in every view, and "all" of them.

    "views" says that all views are of one scene, seen from these cameras, whatever it is. With two solids an attribute
    is right if it is so for both; where the colours are wrong, neither solid nor relation is known.
    """
    if isinstance(wanted, SolidScene):
        wanted = full_caption_spec(wanted)
    levels = views.astype(np.float64)
    if views.dtype != np.uint8:
        levels = np.clip((levels + 1) * 127.5, 0, 255)
    cameras = Cameras(np.asarray(poses, np.float64), float(fov), levels.shape[1])
    bright, label = _read(levels)
    judge = _check_pair if wanted.relation else _check_one
    right, drawn, colours = judge(bright, label, wanted, cameras)
    right["views"] = right["views"] and not _stray(levels, drawn, colours)
    return right | {"all": all(right.values())}


def _read(levels: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """How bright each pixel is, 1 = a solid that faces the light, 0 = background, and the number of its colour."""
    length = np.linalg.norm(levels, axis=-1)
    stands_out = length > CONTRAST
    padded = np.pad(stands_out, ((0, 0), (1, 1), (1, 1))).astype(np.int64)
    height, width = length.shape[1:]
    around = sum(padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)) - stands_out
    stands_out &= around >= NEIGHBOURS
    label = ((levels @ PURE.T) / LENGTHS).argmax(-1)  # the colour at the least angle
    return np.where(stands_out, length / LENGTHS[label], 0), label


def _check_one(bright: Floats, label: NDArray, wanted: CaptionSpec, cameras: Cameras) -> Judgement:
    (words,) = wanted.solids
    per_colour = np.stack([np.where(label == i, bright, 0).sum((1, 2)) for i in range(len(NAMES))], 1)  # (F, colours)
    totals = per_colour.sum(1)
    shown = totals >= LEAST_SEEN
    right: dict[str, bool] = {}
    if words.colour:
        share = per_colour[:, NAMES.index(words.colour)] / np.maximum(totals, 1e-9)
        right["colour"] = bool((shown & (share >= LEAST_SHARE)).all())
    fits = _fits(bright, np.ones_like(bright, bool), cameras)
    best = max(fits, key=lambda name: fits[name].agreement)
    right["solid"] = _is_solid(words.kind, fits, 1)
    if words.place:
        x, y, _ = (float(c) for c in fits[best].solid.centre)
        nearest = min(PLACES, key=lambda name: math.dist((x, y), [OFFSET * way for way in PLACES[name]]))
        right["place"] = nearest == words.place
    one_colour = per_colour.max(1) >= LEAST_SHARE * totals
    same = per_colour.argmax(1) == per_colour.sum(0).argmax()
    right["views"] = bool((shown & one_colour & same).all()) and _agree(fits[best].per_view, 1)
    return right, fits[best].drawn, [int(per_colour.sum(0).argmax())]


def _check_pair(bright: Floats, label: NDArray, wanted: CaptionSpec, cameras: Cameras) -> Judgement:
    per_colour = np.array([np.where(label == i, bright, 0).sum() for i in range(len(NAMES))])
    found = [int(i) for i in per_colour.argsort()[::-1][:2]]
    asked = [words.colour for words in wanted.solids]
    if None in asked:  # distinct by their solids alone: either may be the first
        ways = [_check_pair(bright, label, d, cameras) for d in _coloured(wanted, found)]
        return max(ways, key=lambda judgement: sum(judgement[0].values()))
    numbers = [NAMES.index(str(name)) for name in asked]
    if sorted(numbers) != sorted(found) or per_colour[found].sum() < LEAST_SHARE * per_colour.sum():
        return {"colour": False, "solid": False, "relation": False, "views": False}, np.zeros_like(bright), found
    own = [np.where(label == number, bright, 0) for number in numbers]
    either = own[0] + own[1]
    totals = np.maximum(bright.sum((1, 2)), 1e-9)
    right = {"colour": bool((either.sum((1, 2)) >= LEAST_SHARE * totals).all())}
    # Where something of another colour is seen, this solid may be hidden.
    both = [_fits(own[i], (own[i] > 0) | (bright == 0), cameras) for i in (0, 1)]
    right["solid"] = all(_is_solid(words.kind, fits, 2) for words, fits in zip(wanted.solids, both, strict=True))
    best = [max(fits.values(), key=lambda fit: fit.agreement) for fits in both]
    away = np.array(best[0].solid.centre) - np.array(best[1].solid.centre)
    way = np.array(RELATIONS[str(wanted.relation)])
    right["relation"] = bool(away @ way > np.abs(away * (way == 0)).max())
    drawn = _draw([fit.solid for fit in best], cameras)
    each = np.fmin(best[0].per_view, best[1].per_view)  # fitted without the other, one may hide too much of it
    right["views"] = right["colour"] and _agree(np.fmax(_agreement(own, drawn), each), 2)
    return right, drawn[0] + drawn[1], numbers


def _coloured(wanted: CaptionSpec, found: Sequence[int]) -> list[CaptionSpec]:
    """The description with the colours that are seen, both ways round, where it names none."""
    ways = (found, found[::-1])
    return [
        replace(
            wanted,
            solids=tuple(
                replace(words, colour=words.colour or NAMES[i]) for words, i in zip(wanted.solids, way, strict=True)
            ),
        )
        for way in ways
    ]


def _is_solid(kind: str, fits: dict[str, Fit], solids: int) -> bool:
    """Whether a kind of solid agrees best with all views together, and with each about as well as any other."""
    wanted = fits[kind]
    if max(fits, key=lambda name: fits[name].agreement) != kind or wanted.agreement < LEAST_AGREEMENT[solids]:
        return False
    others = np.max([fit.per_view for name, fit in fits.items() if name != kind], axis=0)
    with np.errstate(invalid="ignore"):
        return not (wanted.per_view < others - DOUBT).any()


def _agree(per_view: Floats, solids: int) -> bool:
    """Whether every view agrees, and about as well as the others do: what softens one view softens them all."""
    if np.isnan(per_view).all():
        return False
    least = max(LEAST_AGREEMENT[solids], float(np.nanmedian(per_view)) - MOST_BEHIND[solids])
    with np.errstate(invalid="ignore"):
        return not (per_view < least).any()


def _fits(bright: Floats, allowed: Bools, cameras: Cameras) -> dict[str, Fit]:
    """Each kind of solid, laid where it agrees with brightness (F, H, W) at the pixels that are `allowed`."""
    weight = bright.sum((1, 2))
    if weight.sum() < LEAST_SEEN * len(weight) / 2:
        nothing = np.zeros(len(weight))
        anything = Solid(SOLIDS[0], NAMES[0], None, (0, 0, 0), RADIUS)
        return {kind: Fit(replace(anything, kind=kind), nothing, 0.0, np.zeros_like(bright)) for kind in SOLIDS}
    start = _triangulate(cameras.middle(bright), weight, cameras)
    return {kind: _fit(kind, start, bright, allowed, cameras) for kind in SOLIDS}


def _triangulate(middle: Floats, weight: Floats, cameras: Cameras) -> Floats:
    """The point (3,) nearest to the rays through `middle` (F, 2)."""
    local = np.concatenate((middle, -np.ones((len(middle), 1))), 1)
    direction = np.einsum("fij,fj->fi", cameras.poses[:, :3, :3], local)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    across = (np.eye(3) - direction[:, :, None] * direction[:, None, :]) * weight[:, None, None]
    return np.linalg.lstsq(across.sum(0), np.einsum("fij,fj->i", across, cameras.poses[:, :3, 3]), rcond=1e-6)[0]


def _fit(kind: str, start: Floats, bright: Floats, allowed: Bools, cameras: Cameras) -> Fit:
    centre, radius = start, RADIUS
    middle, area = cameras.middle(bright), bright.sum((1, 2))
    for step in range(STEPS + 1):
        solid = Solid(kind, NAMES[0], None, (float(centre[0]), float(centre[1]), float(centre[2])), radius)
        drawn = np.where(allowed, _draw([solid], cameras)[0], 0)
        weight = np.minimum(area, drawn.sum((1, 2)))
        if step == STEPS or weight.sum() < LEAST_SEEN:
            break
        _, slope = cameras.project(centre)
        miss = middle - cameras.middle(drawn)
        root = np.sqrt(weight)[:, None]
        move = np.linalg.lstsq((slope * root[:, :, None]).reshape(-1, 3), (miss * root).ravel(), rcond=1e-6)[0]
        centre = np.clip(centre + np.clip(move, -0.5, 0.5), -1.5, 1.5)
        radius = float(np.clip(radius * math.sqrt(area.sum() / drawn.sum()), 0.15, 1.2))
    return Fit(solid, _agreement([bright], [drawn]), _overall(bright, drawn), drawn)


def _stray(levels: Floats, drawn: Floats, colours: Sequence[int]) -> bool:
    """Whether a pixel of (F, H, W, 3) stands out apart from all that is drawn (F, H, W), or in no colour or mixture of
    these."""
    length = np.linalg.norm(levels, axis=-1)
    strong, (_, height, width) = length > STRAY_CONTRAST, drawn.shape
    padded = np.pad(drawn > 0, ((0, 0), (STRAY_DISTANCE, STRAY_DISTANCE), (STRAY_DISTANCE, STRAY_DISTANCE)))
    shifts = range(2 * STRAY_DISTANCE + 1)
    near = np.any([padded[:, i : i + height, j : j + width] for i in shifts for j in shifts], axis=0)
    basis, _ = np.linalg.qr(PURE[list(colours)].T)  # (3, colours)
    across = np.linalg.norm(levels - levels @ basis @ basis.T, axis=-1)
    foreign = across > math.sin(math.radians(STRAY_ANGLE)) * length
    return bool((strong & (foreign | ~near)).any())


def _draw(solids: Sequence[Solid], cameras: Cameras) -> list[Floats]:
    """The brightness (F, H, W) of each solid, where another does not hide it."""
    shade, which = trace(solids, cameras.poses, cameras.fov, cameras.size, 2)
    return [shrink(np.where(which == i, shade, 0), 2) for i in range(len(solids))]


def _softened(bright: Floats) -> Floats:
    """(F, H, W), each pixel mixed with its neighbours."""
    padded = np.pad(bright, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16


def _gain(seen: Floats, drawn: Floats) -> float:
    """How much brighter the views are than what is drawn."""
    gain = float((seen * drawn).sum() / max(float((drawn * drawn).sum()), 1e-9))
    return min(max(gain, 1 / MOST_GAIN), MOST_GAIN)


def _agreement(seen: Sequence[Floats], drawn: Sequence[Floats]) -> Floats:
    """(F,) intersection over union of brightness; nan where there is too little of it."""
    common, total = _shared(seen, drawn)
    return np.where(total >= LEAST_SEEN, common / np.maximum(total, 1e-9), np.nan)


def _overall(seen: Floats, drawn: Floats) -> float:
    """The same, of all views together; 0 where there is nothing."""
    common, total = _shared([seen], [drawn])
    return float(common.sum() / max(total.sum(), 1e-9))


def _shared(seen: Sequence[Floats], drawn: Sequence[Floats]) -> tuple[Floats, Floats]:
    """(F,) intersection and union of brightness, all a little blurred, and what is drawn as bright as what is seen."""
    drawn = [_softened(b) * _gain(a, b) for a, b in zip(seen, drawn, strict=True)]
    seen = [_softened(a) for a in seen]
    common = sum(np.minimum(a, b).sum((1, 2)) for a, b in zip(seen, drawn, strict=True))
    total = sum(np.maximum(a, b).sum((1, 2)) for a, b in zip(seen, drawn, strict=True))
    return np.asarray(common), np.asarray(total)


def score(
    samples: Sequence[Views] | Views,
    captions: Sequence[str],
    poses: Sequence[NDArray[np.floating]] | NDArray[np.floating],
    fovs: Sequence[float] | NDArray[np.floating],
) -> dict[str, float]:
    """Share of the samples that are right, for each attribute that their captions name (`verdicts`)."""
    return shares(verdicts(samples, captions, poses, fovs))


def verdicts(
    samples: Sequence[Views] | Views,
    captions: Sequence[str],
    poses: Sequence[NDArray[np.floating]] | NDArray[np.floating],
    fovs: Sequence[float] | NDArray[np.floating],
) -> list[Verdict]:
    """What is right about each sample.

    "colour", "solid" and "place" (of single solids), "relation" (of pairs), "views" (all views are of one scene, seen
    from their cameras) and "all" of these; "two_solids" is "all" of the pairs. Captions of another world are passed
    over.
    """
    found: list[Verdict] = []
    for views, caption, pose, fov in zip(samples, captions, poses, fovs, strict=True):
        wanted = parse(caption)
        right = {} if wanted is None else check(views, wanted, pose, float(fov))
        if wanted is not None and wanted.relation:
            right["two_solids"] = right["all"]
        found.append(right)
    return found
