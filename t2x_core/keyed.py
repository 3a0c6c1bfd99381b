"""Keyed randomness: every random choice is a pure function of the seed and of words that say what it is for.

Nothing is drawn from a global stream, so nothing needs to be saved, and any number of ranks draws the same.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

Word = int | str

GOLDEN = 0x9E3779B97F4A7C15
"""2⁶⁴ / golden ratio."""


def digest(seed: int, *words: Word) -> int:
    """64 bits from the seed and the words, the same on every machine and for every version of every library."""
    return int.from_bytes(hashlib.blake2b(repr((seed, *words)).encode(), digest_size=8).digest(), "little")


def generator(seed: int, *words: Word) -> torch.Generator:
    """A CPU generator of its own for (seed, words)."""
    return torch.Generator().manual_seed(digest(seed, *words))


def evenly(place: int, seed: int, *words: Word) -> float:
    """The number at `place` of a sequence in [0, 1) that is evenly spread over every stretch of places.

    Weyl's sequence of the golden ratio from an offset of (seed, words): known for any place at once.
    """
    return float((place * GOLDEN + digest(seed, *words)) % 2**64 >> 11) * 2.0**-53


def mix(words: np.ndarray) -> np.ndarray:
    """A fixed bijection of uint64 that scatters its bits (the finalizer of SplitMix64, Steele et al. 2014)."""
    z = words.astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
