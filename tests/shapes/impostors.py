"""Shapes that are not of the shapes world, though they look like them; drawn by Pillow, not by its renderer."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from t2x_plugins.shapes.scene import BACKGROUNDS, COLOURS

FINE = 16
"""Pixels of the drawing for one of the image, along each axis."""
Points = list[tuple[float, float]]


def regular(corners: int, turn: float = 0.0, inner: float = 1.0) -> Points:
    """A polygon around (0, 0) of radius 1; `inner`: radius of every second corner (a star)."""
    angles = (math.tau * i / corners + math.radians(turn) - math.pi / 2 for i in range(corners))
    return [
        (math.cos(a) * (inner if i % 2 else 1), math.sin(a) * (inner if i % 2 else 1)) for i, a in enumerate(angles)
    ]


def heart() -> Points:
    ts = np.linspace(0, math.tau, 100, endpoint=False)
    x, y = 16 * np.sin(ts) ** 3, 13 * np.cos(ts) - 5 * np.cos(2 * ts) - 2 * np.cos(3 * ts) - np.cos(4 * ts)
    return [(a / 16, -b / 16) for a, b in zip(x, y, strict=True)]


def ellipse(ratio: float) -> Points:
    return [(x, y * ratio) for x, y in regular(100)]


def crescent() -> Points:
    outer = [(math.cos(a), math.sin(a)) for a in np.linspace(0.9, math.tau - 0.9, 60)]
    inner = [(0.45 + 0.75 * math.cos(a), 0.8 * math.sin(a)) for a in np.linspace(math.tau - 1.3, 1.3, 60)]
    return outer + inner


def blob(rng: np.random.Generator) -> Points:
    phases, sizes = rng.uniform(0, math.tau, 3), rng.uniform(0.12, 0.22, 3)
    angles = np.linspace(0, math.tau, 100, endpoint=False)
    radii = 0.85 + sum(s * np.cos((k + 2) * angles + p) for k, (s, p) in enumerate(zip(sizes, phases, strict=True)))
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def cross(turn: float) -> Points:
    a = 0.34
    corners = [
        (-a, -1),
        (a, -1),
        (a, -a),
        (1, -a),
        (1, a),
        (a, a),
        (a, 1),
        (-a, 1),
        (-a, a),
        (-1, a),
        (-1, -a),
        (-a, -a),
    ]
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return [(x * c - y * s, x * s + y * c) for x, y in corners]


def half(shape: str) -> Points:
    full = {"circle": regular(100), "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]}[shape]
    return [(min(x, 0.0), y) for x, y in full]


OUTLINES = {
    "hexagon": lambda rng: regular(6, rng.uniform(0, 60)),
    "pentagon": lambda rng: regular(5, rng.uniform(0, 72)),
    "octagon": lambda rng: regular(8, rng.uniform(0, 45)),
    "diamond": lambda rng: regular(4),
    "heart": lambda rng: heart(),
    "blob": blob,
    "crescent": lambda rng: crescent(),
    "ellipse": lambda rng: ellipse(rng.uniform(0.6, 0.75)),
    "turned cross": lambda rng: cross(45),
    "star": lambda rng: regular(10, inner=0.45),
    "half circle": lambda rng: half("circle"),
    "half square": lambda rng: half("square"),
    "turned triangle": lambda rng: [(-1, -0.95), (1, -0.95), (0, 0.95)],
}
TRUE = {
    "true circle": lambda rng: regular(200),
    "true square": lambda rng: [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "true triangle": lambda rng: [(0, -0.95), (1, 0.95), (-1, 0.95)],
    "true cross": lambda rng: cross(0),
}
"""The world's own shapes by the other renderer, which must not be refused."""


def draw(
    points: Points, side: int, place: tuple[float, float], radius: float, colour: tuple, background: tuple
) -> NDArray[np.float64]:
    """(side, side, 3) levels; `place` and `radius` are fractions of the side."""
    canvas = Image.new("L", (side * FINE, side * FINE))
    scale = side * FINE
    outline = [((place[0] + x * radius) * scale - 0.5, (place[1] + y * radius) * scale - 0.5) for x, y in points]
    ImageDraw.Draw(canvas).polygon(outline, fill=255)
    covered = np.asarray(canvas, np.float64).reshape(side, FINE, side, FINE).mean((1, 3))[:, :, None] / 255
    return np.array(background) * (1 - covered) + np.array(colour) * covered


def impostor(kind: str, side: int, radius: float, number: int) -> tuple[NDArray[np.uint8], str]:
    """An image, and the colour of what it shows."""
    rng = np.random.default_rng(number)
    colour, background = str(rng.choice(list(COLOURS))), str(rng.choice(list(BACKGROUNDS)))
    place = (0.5 + rng.uniform(-0.1, 0.1), 0.5 + rng.uniform(-0.1, 0.1))
    points = (OUTLINES | TRUE)[kind](rng)
    image = draw(points, side, place, radius, COLOURS[colour], BACKGROUNDS[background])
    return np.clip(np.round(image), 0, 255).astype(np.uint8), colour
