"""Solids: small scenes in three dimensions, seen from known cameras, with captions and a checker. A library."""

from .captions import (
    CaptionSpec,
    SolidWords,
    canonical,
    caption_spec,
    full_caption_spec,
    parse,
    phrases,
    render_caption,
)
from .checker import check, score, verdicts
from .render import render
from .scene import Solid, SolidScene, combinations, is_held_out, sample_scene

__all__ = [
    "CaptionSpec",
    "Solid",
    "SolidScene",
    "SolidWords",
    "canonical",
    "caption_spec",
    "check",
    "combinations",
    "full_caption_spec",
    "is_held_out",
    "parse",
    "phrases",
    "render",
    "render_caption",
    "sample_scene",
    "score",
    "verdicts",
]
