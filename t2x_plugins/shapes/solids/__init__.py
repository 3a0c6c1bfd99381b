"""Solids: small scenes in three dimensions, seen from known cameras, with captions and a checker. A library."""

from .captions import Description, SolidWords, canonical, describe, full_description, parse, phrase, phrases
from .checker import check, score, verdicts
from .render import render
from .scene import Solid, SolidScene, combinations, is_held_out, sample_scene

__all__ = [
    "Description",
    "Solid",
    "SolidScene",
    "SolidWords",
    "canonical",
    "check",
    "combinations",
    "describe",
    "full_description",
    "is_held_out",
    "parse",
    "phrase",
    "phrases",
    "render",
    "sample_scene",
    "score",
    "verdicts",
]
