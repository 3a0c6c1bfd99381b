"""Aspect-ratio buckets: shapes of about the same area, and which image goes to which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, int]
"""(height, width), in pixels."""


@dataclass(frozen=True)
class BucketMerge:
    """A bucket that was given up because it was too small, and where its images went."""

    shape: Shape
    count: int
    """Images it had."""
    to: Sequence[Shape]


def bucket_shapes(size: int, max_ratio: float, step: int, multiple: int) -> list[Shape]:
    """Shapes of about size² pixels, from the widest to the tallest.

    Args:
        size: side of the square, in pixels; a multiple of `multiple`.
        max_ratio: longer side over shorter side, at most; 1 gives the square alone.
        step: between the short sides of neighbouring buckets, in pixels; a multiple of `multiple`.
        multiple: what every side must be a multiple of, in pixels.
    """
    tall = []
    for short in range(size - step, 0, -step):
        long = round(size * size / short / multiple) * multiple
        if long > max_ratio * short:
            break
        tall.append((long, short))
    return [(w, h) for h, w in reversed(tall)] + [(size, size)] + tall


def nearest_bucket(sizes: np.ndarray, shapes: Sequence[Shape]) -> np.ndarray:
    """For each (height, width) of `sizes` (n, 2) the index of the shape whose aspect ratio is nearest, by logarithm."""
    of_images, of_shapes = (np.log(x[:, 0] / x[:, 1]) for x in (np.asarray(sizes), np.asarray(shapes)))
    borders = (of_shapes[1:] + of_shapes[:-1]) / 2  # shapes run from the widest to the tallest
    return np.searchsorted(borders, of_images)


def fill_buckets(
    sizes: np.ndarray, shapes: Sequence[Shape], least: int
) -> tuple[list[Shape], np.ndarray, list[BucketMerge]]:
    """Buckets that each hold at least `least` images, as long as there are that many.

    The smallest bucket is given up, its images going to the nearest that are left, until none is too small.

    Args:
        sizes: (n, 2) height and width of the images, n > 0.
        shapes: what `bucket_shapes` returns.

    Returns:
        The shapes that are left; for each image (n,) the index of its own; and what was moved.
    """
    first = nearest_bucket(sizes, shapes)
    had = np.bincount(first, minlength=len(shapes))
    left = [i for i in range(len(shapes)) if had[i]]
    while True:
        kept = [shapes[i] for i in left]
        bucket = nearest_bucket(sizes, kept)
        counts = np.bincount(bucket, minlength=len(kept))
        if counts.min() >= least or len(kept) == 1:
            break
        del left[int(counts.argmin())]
    moves = [
        BucketMerge(shapes[i], int(had[i]), [kept[j] for j in np.unique(bucket[first == i])])
        for i in range(len(shapes))
        if had[i] and i not in left
    ]
    return kept, bucket, moves
