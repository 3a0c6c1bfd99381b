"""Clips in words, and words back to what moves how."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from .captions import SHAPE_WORDS
from .motion import ClipScene, Motion
from .scene import COLOURS, choose
from .wording import articles


@dataclass(frozen=True)
class ClipWords:
    """What is said about a clip."""

    shape: str
    colour: str
    motion: Motion


# The first of each is the canonical one.
DIRECTION_WORDS = {
    "left": ("to the left", "left", "leftwards"),
    "right": ("to the right", "right", "rightwards"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
}
SPEED_WORDS = {"slowly": ("slowly",), "fast": ("fast", "quickly")}
EDGE_WORDS = {"left": ("left",), "right": ("right",), "up": ("top",), "down": ("bottom",)}
KIND_WORDS = {
    "moves": ("moves {speed} {direction}", "moves {direction} {speed}", "goes {direction} {speed}"),
    "bounces": ("bounces off the {edge} edge", "hits the {edge} edge and bounces back"),
    "stays": ("stands still", "does not move"),
    "appears": ("appears", "comes into view"),
    "disappears": ("disappears", "vanishes"),
}
TEMPLATES = ("@ {colour} {shape} {does}", "{colour} {shape} {does}", "a clip of @ {colour} {shape} that {does}")


def words_of(clip: ClipScene) -> ClipWords:
    """All that captions say of a clip."""
    return ClipWords(clip.shape, clip.colour, clip.motion)


def canonical(words: ClipWords) -> str:
    """The plainest wording, such as "a red circle moves slowly to the left"."""
    return next(phrases(words))


def render_caption(words: ClipWords, rng: random.Random) -> str:
    """One of the wordings."""
    return choose(rng, list(phrases(words)))


def phrases(words: ClipWords) -> Iterator[str]:
    """Every wording, the canonical one first."""
    motion = words.motion
    speeds = SPEED_WORDS[motion.speed] if motion.speed else ("",)
    directions = DIRECTION_WORDS[motion.direction] if motion.direction else ("",)
    edges = EDGE_WORDS[motion.direction] if motion.direction else ("",)
    seen = set()
    for template, kind, shape, speed, direction, edge in product(
        TEMPLATES, KIND_WORDS[motion.kind], SHAPE_WORDS[words.shape], speeds, directions, edges
    ):
        does = kind.format(speed=speed, direction=direction, edge=edge)
        text = articles(template.format(colour=words.colour, shape=shape, does=does))
        if text not in seen:
            seen.add(text)
            yield text


_SHAPES = {spoken: name for name, words in SHAPE_WORDS.items() for spoken in words}
_SUBJECT = re.compile(
    rf"^(?:a (?:clip|video) of )?(?:an? |the )?(?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(_SHAPES)})"
    r"(?: that| which)? (?P<does>.+)$"
)
_DIRECTIONS = {spoken: name for name, words in DIRECTION_WORDS.items() for spoken in words}
_EDGES = {spoken: name for name, words in EDGE_WORDS.items() for spoken in words}
_SPEEDS = {spoken: name for name, words in SPEED_WORDS.items() for spoken in words}
_STILL = {spoken: kind for kind in ("stays", "appears", "disappears") for spoken in KIND_WORDS[kind]}
_BOUNCE = re.compile(rf"^(?:bounces off|hits) the (?P<edge>{'|'.join(_EDGES)}) edge(?: and bounces back)?$")
_MOVE = re.compile(r"^(?:moves|goes) (?P<how>.+)$")


def parse(caption: str) -> ClipWords | None:
    """What a caption says; None for one that is not of this world."""
    text = " ".join(re.sub(r"[^a-z]+", " ", caption.lower()).split())
    subject = _SUBJECT.match(text)
    motion = _read_motion(subject["does"]) if subject else None
    if subject is None or motion is None:
        return None
    return ClipWords(_SHAPES[subject["shape"]], subject["colour"], motion)


def _read_motion(text: str) -> Motion | None:
    if text in _STILL:
        return Motion(_STILL[text])
    if found := _BOUNCE.match(text):
        return Motion("bounces", _EDGES[found["edge"]])
    found = _MOVE.match(text)
    if not found:
        return None
    speeds = [word for word in found["how"].split() if word in _SPEEDS]
    rest = " ".join(word for word in found["how"].split() if word not in _SPEEDS)
    if len(speeds) != 1 or rest not in _DIRECTIONS:
        return None
    return Motion("moves", _DIRECTIONS[rest], _SPEEDS[speeds[0]])
