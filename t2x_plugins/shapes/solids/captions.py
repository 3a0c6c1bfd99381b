"""Scenes of solids in words, and words back to attributes.

"Left", "right", "front" and "back" are those of the front camera (azimuth 0), whatever camera a view is of.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..scene import COLOURS
from ..wording import all_wordings, any_wording, plainest
from .scene import INVERSE, SOLIDS, SolidScene


@dataclass(frozen=True)
class SolidWords:
    """What is said about one solid; None = not said."""

    kind: str
    colour: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class CaptionSpec:
    """What is said about a scene: one solid, or two and where the first lies as seen from the second."""

    solids: tuple[SolidWords, ...]
    relation: str | None = None


# The first word of each is the canonical one.
SOLID_WORDS = {"sphere": ("sphere", "ball"), "box": ("box", "cube"), "cone": ("cone",), "cylinder": ("cylinder",)}
PLACE_WORDS = {
    "left": ("on the left", "at the left side"),
    "right": ("on the right", "at the right side"),
    "front": ("at the front", "on the front side"),
    "back": ("at the back", "on the back side"),
    "middle": ("in the middle", "in the centre"),
}
RELATION_WORDS = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "in front of": ("in front of",),
    "behind": ("behind",),
    "on top of": ("on top of",),
    "under": ("under", "below"),
}
# "@" is "a" or "an". A slot that is not said is left out, with its comma.
ONE_SOLID = (
    "@ {colour} {kind} {place}",
    "{colour} {kind} {place}",
    "{colour} {kind}, {place}",
    "{place}, @ {colour} {kind}",
    "there is @ {colour} {kind} {place}",
)
TWO_SOLIDS = (
    "@ {colour} {kind} {relation} @ {colour2} {kind2}",
    "{colour} {kind} {relation} {colour2} {kind2}",
    "@ {colour2} {kind2} {inverse} @ {colour} {kind}",
    "@ {colour} {kind} is {relation} @ {colour2} {kind2}",
    "there is @ {colour} {kind} {relation} @ {colour2} {kind2}",
)


def full_caption_spec(scene: SolidScene) -> CaptionSpec:
    """All of a scene."""
    return CaptionSpec(tuple(SolidWords(s.kind, s.colour, s.place) for s in scene.solids), scene.relation)


def caption_spec(scene: SolidScene, rng: random.Random, omit: float = 0.0) -> CaptionSpec:
    """What of a scene is to be said; `omit` is the chance that the place of a single solid is left out."""
    full = full_caption_spec(scene)
    if scene.relation is not None or rng.random() >= omit:
        return full
    (only,) = full.solids
    return CaptionSpec((SolidWords(only.kind, only.colour),))


def canonical(description: CaptionSpec) -> str:
    """The plainest wording, such as "a red cone on the left"."""
    return plainest(_templates(description), _slots(description))


def render_caption(description: CaptionSpec, rng: random.Random) -> str:
    """One of the wordings, in lower case."""
    return any_wording(_templates(description), _slots(description), rng)


def phrases(description: CaptionSpec) -> Iterator[str]:
    """Every wording that `render_caption` can give."""
    return all_wordings(_templates(description), _slots(description))


def _templates(description: CaptionSpec) -> tuple[str, ...]:
    return TWO_SOLIDS if description.relation else ONE_SOLID


def _slots(description: CaptionSpec) -> dict[str, tuple[str, ...]]:
    """The words that each slot of a template may take; ("",) where nothing is said."""
    slots: dict[str, tuple[str, ...]] = {}
    for words, mark in zip(description.solids, ("", "2"), strict=False):
        slots[f"colour{mark}"] = (words.colour or "",)
        slots[f"kind{mark}"] = SOLID_WORDS[words.kind]
        slots[f"place{mark}"] = PLACE_WORDS[words.place] if words.place else ("",)
    if description.relation:
        slots["relation"] = RELATION_WORDS[description.relation]
        slots["inverse"] = RELATION_WORDS[INVERSE[description.relation]]
    return slots


_VOCABULARY: dict[str, dict[str, str]] = {
    "kind": {word: name for name, words in SOLID_WORDS.items() for word in words},
    "colour": {name: name for name in COLOURS},
    "place": {"left": "left", "right": "right", "front": "front", "back": "back"}
    | {"middle": "middle", "centre": "middle", "center": "middle"},
}
assert set(_VOCABULARY["kind"].values()) == set(SOLIDS)
_MEANINGS = {word: (kind, value) for kind, words in _VOCABULARY.items() for word, value in words.items()}
_FILLERS = frozenset(
    [
        *("a", "an", "the", "in", "on", "at", "to", "with", "is", "there", "it", "side", "hand"),
        *("one", "single", "coloured", "colored", "standing"),
    ]
)
_RELATION = re.compile(
    r"\b(?:to the )?(?P<beside>left|right) of\b|\b(?P<front>in front of)\b|\b(?P<behind>behind)\b"
    r"|\b(?P<top>on top of|above|on(?= an? ))\b|\b(?P<under>under|below|beneath)\b"
)


def parse(caption: str) -> CaptionSpec | None:
    """The attributes that a caption names; None for a caption that is not of this world.

    Reads every wording of `render_caption`, and freer ones. Unknown words, a contradiction, more than two solids, or
    two without a relation give None.
    """
    text = " ".join(re.sub(r"[^a-z]+", " ", caption.lower()).split())
    nouns = [word.start() for word in re.finditer(r"\w+", text) if word[0] in _VOCABULARY["kind"]]
    if len(nouns) == 1:
        only = _read_solid(text)
        return None if only is None else CaptionSpec((only,))
    if len(nouns) != 2 or not (found := _RELATION.search(text, nouns[0], nouns[1])):
        return None
    first, second = _read_solid(text[: found.start()]), _read_solid(text[found.end() :])
    if first is None or second is None or first.place or second.place:
        return None
    names = {"front": "in front of", "behind": "behind", "top": "on top of", "under": "under"}
    relation = f"{found['beside']} of" if found["beside"] else next(names[n] for n in names if found[n])
    return CaptionSpec((first, second), relation)


def _read_solid(text: str) -> SolidWords | None:
    """The attributes of one solid, or None: no solid, a word that is not known, or two values for one attribute."""
    said: dict[str, str] = {}
    for word in text.split():
        if word in _FILLERS:
            continue
        if word not in _MEANINGS:
            return None
        kind, value = _MEANINGS[word]
        if said.setdefault(kind, value) != value:
            return None
    return SolidWords(said["kind"], said.get("colour"), said.get("place")) if "kind" in said else None
