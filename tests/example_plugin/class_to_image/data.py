"""Drawings as training data."""

from __future__ import annotations

from functools import partial

import torch

from class_to_image.config import ClassToImageConfig
from class_to_image.drawings import CLASSES, draw
from t2x_core import keyed
from t2x_core.data import Made, MadeData


def make(config: ClassToImageConfig, seed: int, split: str, number: int) -> Made:
    """Drawing number so-and-so of a split; the classes take turns."""
    label = number % len(CLASSES)
    pixels = draw(label, config.size, keyed.generator(seed, "drawing", split, number))
    return Made(pixels, CLASSES[label], {"label": torch.tensor(label)})


def drawings(config: ClassToImageConfig, seed: int) -> MadeData:
    """Training and validation drawings, which differ in their random numbers."""
    return MadeData(partial(make, config, seed), config.count)
