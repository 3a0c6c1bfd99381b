"""The shapes world: captioned pictures made on the fly, and a checker that reads them. A library, not a plugin."""

from .captions import Description, ObjectWords, canonical, describe, full_description, parse, phrase, phrases
from .checker import SeenObject, SeenPicture, check, read, score
from .render import render
from .scene import Scene, SceneObject, combinations, is_held_out, keyed_random, sample_scene

__all__ = [
    "Description",
    "ObjectWords",
    "Scene",
    "SceneObject",
    "SeenObject",
    "SeenPicture",
    "canonical",
    "check",
    "combinations",
    "describe",
    "full_description",
    "is_held_out",
    "keyed_random",
    "parse",
    "phrase",
    "phrases",
    "read",
    "render",
    "sample_scene",
    "score",
]
