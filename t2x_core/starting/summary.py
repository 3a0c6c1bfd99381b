"""What a look at somebody's data says: what plugins tell `t2x new`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from t2x_core.starting.machine import Machine

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """A line of a recipe."""

    key: str
    """With dots: "trainer.max_steps"."""
    value: Any
    why: str = ""
    """The comment beside it."""


@dataclass(frozen=True)
class DataSummary:
    """A folder of training data."""

    task: str
    block: str
    """Of the task's `data`, "images" say."""
    noun: str
    """One of them: "image"."""
    count: int
    """That can be trained on, as far as a look tells."""
    sizes: NDArray[np.int64]
    """(n, 2) height and width of those that were looked at, in pixels."""
    words: int
    """Of the longest caption."""
    example: str
    """A caption."""
    recipes: Mapping[str, str]
    """What can be started from: "pixels", and "latents-256", "latents-512" with a pretrained VAE, if there are some."""
    frames: int = 1
    """Frames or views of a sample."""
    settings: Sequence[Setting] = ()
    """Further settings of the block, with keys relative to it."""
    aspects: bool = True
    """Whether the block has aspect buckets."""
    variants: bool = False
    """Whether samples are cut from the data at random, so that a cache holds several versions."""
    lines: Sequence[str] = ()
    """What was found, for the terminal."""


Look = Callable[[Path, Machine], DataSummary]
"""Looks at a folder. What is wrong with it is a UserError. An entry point of the group `t2x.new`, kind → function."""


def some_of(items: Sequence[T], most: int) -> list[T]:
    """At most so many, chosen at random and always the same; in their order."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in sorted(random.Random(0).sample(range(len(items)), most))]


def median_side(sizes: NDArray[np.int64]) -> int:
    """Side of the square that is as large as the median of these (height, width), in pixels."""
    return round(math.sqrt(np.median(sizes.prod(1))))


def words_in(captions: Iterable[str]) -> int:
    """Of the longest."""
    return max((len(caption.split()) for caption in captions), default=0)
