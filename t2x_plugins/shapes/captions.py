"""Scenes in words, and words back to attributes.

`caption_spec` chooses what of a scene is named, `render_caption` words it in one of many ways, `parse` reads any of
them, and what a person would type. A `CaptionSpec` is what an image is checked against.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .scene import BACKGROUNDS, COLOURS, INVERSE, SHAPES, Scene
from .wording import all_wordings, any_wording, plainest


@dataclass(frozen=True)
class ObjectWords:
    """What is said about one object; None = not said."""

    shape: str
    colour: str | None = None
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class CaptionSpec:
    """What is said about an image: one object, or two and where the first lies as seen from the second."""

    objects: tuple[ObjectWords, ...]
    relation: str | None = None
    background: str | None = None

    def mirrored(self) -> CaptionSpec:
        """The same two objects, in the other order."""
        if self.relation is None:
            return self
        return CaptionSpec(self.objects[::-1], INVERSE[self.relation], self.background)


# The first word of each is the canonical one.
SHAPE_WORDS = {name: (name,) for name in SHAPES} | {
    "circle": ("circle", "disc"),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
}
SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "big"),
}
PLACE_WORDS = {
    "left": ("on the left", "at the left side", "on the left side"),
    "right": ("on the right", "at the right side", "on the right side"),
    "top": ("at the top", "on the top side", "at the top edge"),
    "bottom": ("at the bottom", "on the bottom side", "at the bottom edge"),
    "centre": ("in the centre", "in the middle", "at the centre"),
} | {
    f"{row} {column}": (f"in the {row} {column}", f"at the {row} {column}", f"in the {other} {column} corner")
    for row, other in (("top", "upper"), ("bottom", "lower"))
    for column in ("left", "right")
}
RELATION_WORDS = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
BACKGROUND_WORDS = {
    name: (f"on a {name} background", f"against a {name} background", f"on {name}") for name in BACKGROUNDS
}

# "@" is "a" or "an". A slot that is not said is left out, with its comma.
ONE_OBJECT = (
    "@ {size} {colour} {shape} {place} {background}",
    "{size} {colour} {shape} {place} {background}",
    "{colour} {shape}, {size}, {place}, {background}",
    "@ {colour} {shape}, {size}, {place}, {background}",
    "{place}, @ {size} {colour} {shape} {background}",
    "there is @ {size} {colour} {shape} {place} {background}",
    "an image of @ {size} {colour} {shape} {place} {background}",
)
TWO_OBJECTS = tuple(
    template.replace("{A}", "{size} {colour} {shape}").replace("{B}", "{size2} {colour2} {shape2}")
    for template in (
        "@ {A} {relation} @ {B} {background}",
        "{A} {relation} {B}, {background}",
        "@ {B} {inverse} @ {A} {background}",
        "@ {A} is {relation} @ {B} {background}",
        "there is @ {A} {relation} @ {B} {background}",
        "@ {A} {side} and @ {B} {side2}, {background}",
        "{side} @ {A}, {side2} @ {B}, {background}",
    )
)
SIDES = {
    "left of": ("left", "right"),
    "right of": ("right", "left"),
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
}
"""Places of the first and the second object where a relation is worded by two sides."""


def full_caption_spec(scene: Scene) -> CaptionSpec:
    """All of a scene."""
    objects = tuple(ObjectWords(thing.shape, thing.colour, thing.size, thing.place) for thing in scene.objects)
    return CaptionSpec(objects, scene.relation, scene.background)


def caption_spec(scene: Scene, rng: random.Random, omit: float = 0.0, background: float = 0.0) -> CaptionSpec:
    """What of a scene is to be said. Shape, colour and relation always are.

    Args:
        omit: chance that a size or a place is left out, each by itself.
        background: chance that the background is named.
    """
    full = full_caption_spec(scene)
    objects = tuple(
        ObjectWords(
            words.shape,
            words.colour,
            words.size if rng.random() >= omit else None,
            words.place if rng.random() >= omit else None,
        )
        for words in full.objects
    )
    return CaptionSpec(objects, full.relation, full.background if rng.random() < background else None)


def canonical(description: CaptionSpec) -> str:
    """The plainest wording, such as "a large red circle on the left"."""
    return plainest(_templates(description), _slots(description))


def render_caption(description: CaptionSpec, rng: random.Random) -> str:
    """One of the wordings, in lower case."""
    return any_wording(_templates(description), _slots(description), rng)


def phrases(description: CaptionSpec) -> Iterator[str]:
    """Every wording that `render_caption` can give."""
    return all_wordings(_templates(description), _slots(description))


def _templates(description: CaptionSpec) -> tuple[str, ...]:
    return TWO_OBJECTS if description.relation else ONE_OBJECT


def _slots(description: CaptionSpec) -> dict[str, tuple[str, ...]]:
    """The words that each slot of a template may take; ("",) where nothing is said."""
    silent = ("",)
    slots: dict[str, tuple[str, ...]] = {}
    for words, mark in zip(description.objects, ("", "2"), strict=False):
        slots[f"size{mark}"] = SIZE_WORDS[words.size] if words.size else silent
        slots[f"colour{mark}"] = (words.colour,) if words.colour else silent
        slots[f"shape{mark}"] = SHAPE_WORDS[words.shape]
        slots[f"place{mark}"] = PLACE_WORDS[words.place] if words.place else silent
    if description.relation:
        slots["relation"] = RELATION_WORDS[description.relation]
        slots["inverse"] = RELATION_WORDS[INVERSE[description.relation]]
        slots["side"], slots["side2"] = (PLACE_WORDS[side][:1] for side in SIDES[description.relation])
    slots["background"] = BACKGROUND_WORDS[description.background] if description.background else silent
    return slots


_VOCABULARY: dict[str, dict[str, str]] = {
    "shape": {name: name for name in SHAPES}
    | {"disc": "circle", "disk": "circle", "box": "square", "plus": "cross", "hoop": "ring", "donut": "ring"},
    "colour": {name: name for name in COLOURS},
    "size": {"small": "small", "little": "small", "tiny": "small", "medium": "medium"}
    | {"large": "large", "big": "large", "huge": "large"},
    "row": {"top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"},
    "column": {"left": "left", "right": "right"},
    "centre": {"centre": "centre", "center": "centre", "middle": "centre"},
}
_MEANINGS = {word: (kind, value) for kind, words in _VOCABULARY.items() for word, value in words.items()}
_FILLERS = frozenset(
    (
        "a an the of in on at to and with is are there it image image photo drawing painting one single sized size "
        + "coloured colored shape shaped sign hand side corner edge part that which located placed"
    ).split()
)
_BACKGROUND = re.compile(
    r"\b(?:(?:on|against|over|with|in front of) )?(?:an? |the )?(?:plain |solid )?"
    r"(?P<name>black|white|gr[ea]y|navy)(?: blue)? (?:background|backdrop)\b"
    r"|\b(?:on|against) (?P<plain>black|white|gr[ea]y|navy)\b"
)
_RELATION = re.compile(
    r"\b(?:(?:to|on|at) the )?(?P<beside>left|right)(?: side| hand side)? of\b"
    r"|\b(?P<vertical>above|over|below|under|beneath)\b"
)
_VERTICAL = {"above": "above", "over": "above", "below": "below", "under": "below", "beneath": "below"}


def parse(caption: str) -> CaptionSpec | None:
    """The attributes that a caption names; None for a caption that is not of this world.

    Reads every wording of `render_caption`, and freer ones. Unknown words, a contradiction ("a red blue circle"), more
    than two objects, or two without a relation give None.
    """
    text = " ".join(re.sub(r"[^a-z]+", " ", caption.lower()).split())
    background = None
    if found := _BACKGROUND.search(text):
        background = (found["name"] or found["plain"]).replace("gray", "grey")
        text = f"{text[: found.start()]} {text[found.end() :]}"

    nouns = [word.start() for word in re.finditer(r"\w+", text) if word[0] in _VOCABULARY["shape"]]
    if len(nouns) == 1:
        only = _read_object(text)
        return None if only is None else CaptionSpec((only,), None, background)
    if len(nouns) != 2:
        return None
    if relation := _RELATION.search(text, nouns[0], nouns[1]):
        first, second = _read_object(text[: relation.start()]), _read_object(text[relation.end() :])
        name = f"{relation['beside']} of" if relation["beside"] else _VERTICAL[relation["vertical"]]
        if first is None or second is None or first.place or second.place:
            return None
        return CaptionSpec((first, second), name, background)
    return _read_sides(text, background)


def _read_sides(text: str, background: str | None) -> CaptionSpec | None:
    """Two objects, worded by their sides: "a red ring on the left and a blue square on the right"."""
    for gap in re.finditer(" ", text):
        first, second = _read_object(text[: gap.start()]), _read_object(text[gap.end() :])
        if first is None or second is None:
            continue
        for relation, sides in SIDES.items():
            if (first.place, second.place) == sides:
                return CaptionSpec((replace(first, place=None), replace(second, place=None)), relation, background)
    return None


def _read_object(text: str) -> ObjectWords | None:
    """The attributes of one object, or None: no shape, a word that is not known, or two values for one attribute."""
    said: dict[str, str] = {}
    for word in text.split():
        if word in _FILLERS:
            continue
        if word not in _MEANINGS:
            return None
        kind, value = _MEANINGS[word]
        if said.setdefault(kind, value) != value:
            return None
    if "shape" not in said:
        return None
    place = " ".join(said[part] for part in ("row", "column") if part in said) or said.get("centre")
    return ObjectWords(said["shape"], said.get("colour"), said.get("size"), place)
