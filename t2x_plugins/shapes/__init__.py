"""The shapes world: captioned images made on the fly, and a checker that reads them. A library, not a plugin."""

from .captions import (
    CaptionSpec,
    ObjectWords,
    canonical,
    caption_spec,
    full_caption_spec,
    parse,
    phrases,
    render_caption,
)
from .checker import SeenImage, SeenObject, check, read, score
from .render import render
from .scene import Scene, SceneObject, combinations, is_held_out, keyed_random, sample_scene

__all__ = [
    "CaptionSpec",
    "ObjectWords",
    "Scene",
    "SceneObject",
    "SeenImage",
    "SeenObject",
    "canonical",
    "caption_spec",
    "check",
    "combinations",
    "full_caption_spec",
    "is_held_out",
    "keyed_random",
    "parse",
    "phrases",
    "read",
    "render",
    "render_caption",
    "sample_scene",
    "score",
]
