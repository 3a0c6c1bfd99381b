"""Keyed randomness: every random choice is a pure function of the seed and of words that say what it is for.

Nothing is drawn from a global stream, so nothing needs to be saved, and any number of ranks draws the same.

Many numbers for many keys come from a counter-based generator, Philox4x64-10 (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"): word i of a key is a function of (key, i) alone. NumPy computes it on a CPU, integer
operations of torch on any other device, to the same bits. `normal` uses integer operations, table look-ups, and single
float32 additions and products, which IEEE 754 rounds alike everywhere: its bits are the same on every device, too.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

Word = int | str

GOLDEN = 0x9E3779B97F4A7C15
"""2⁶⁴ / golden ratio."""
UNIFORM, NORMAL = 0, 1
"""Highest word of the counter: uniform and normal numbers of one key have nothing in common."""


def _name(seed: int, words: tuple[Word, ...]) -> bytes:
    return repr((seed, *words)).encode()


def digest(seed: int, *words: Word) -> int:
    """64 bits from the seed and the words, the same on every machine and for every version of every library."""
    return int.from_bytes(hashlib.blake2b(_name(seed, words), digest_size=8).digest(), "little")


def key(seed: int, *words: Word) -> int:
    """The 128 bits of (seed, words) from which `uniform` and `normal` draw."""
    return int.from_bytes(hashlib.blake2b(_name(seed, words), digest_size=16).digest(), "little")


def generator(seed: int, *words: Word) -> torch.Generator:
    """A CPU generator of its own for (seed, words): for what is drawn on the host, one sample at a time.

    `manual_seed` would read 32 bits of a seed only, so that two samples in 77,000 would share their numbers. Here the
    hash fills the whole state of the Mersenne twister (624 words of 32 bits).
    """
    words_32 = np.frombuffer(hashlib.shake_128(_name(seed, words)).digest(4 * 624), dtype="<u4")
    own = torch.Generator()
    with _disable_current_modes():  # a state has content, also in an estimate of the memory
        state = _twister().clone()
        state[_STATE].view(torch.int64).copy_(torch.from_numpy(words_32.astype(np.int64)))
        own.set_state(state)
    return own


_STATE = slice(24, 24 + 8 * 624)
"""Where torch's saved state has the words of the twister, as int64: behind the seed and two places."""


@cache
def _twister() -> Tensor:
    """The saved state of a generator that has drawn nothing."""
    state = torch.Generator().manual_seed(1).get_state()
    first = state[_STATE].view(torch.int64)[:2].tolist()
    if first != [1, 1812433254]:  # Matsumoto & Nishimura 1998: x₁ = 1812433253·(x₀ ⊕ x₀ ≫ 30) + 1
        raise RuntimeError(f"torch {torch.__version__} keeps the state of its CPU generator in another layout")
    return state


def uniform(keys: Sequence[int], count: int, device: torch.device | str = "cpu") -> Tensor:
    """(B, count) float64 in [0, 1), multiples of 2⁻⁵³: row b is a function of keys[b] alone."""
    bits = _words(keys, count, UNIFORM, torch.device(device)) >> 11 & (1 << 53) - 1
    return bits.double() * 2.0**-53


def normal(keys: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """`(B, *shape)` float32, standard normal: sample b is a function of keys[b] alone, to the same bits everywhere.

    Each number is the inverse distribution function at the middle of one of 2³² cells, so at most 6.3 in size. It
    is interpolated by parabolas, 64 an octave of the tail, and right to 5e-7, the rounding of a float32 of that size.
    """
    count = math.prod(shape)
    device = torch.device(device)
    bits = _words(keys, (count + 1) // 2, NORMAL, device).view(torch.int32)[:, :count]
    out = torch.empty(len(keys), count, dtype=torch.float32, device=device)
    size = 2**15 if device.type == "cpu" else 2**24  # numbers at once: what the caches of a CPU hold
    for chunk, part in zip(bits.flatten().split(size), out.view(-1).split(size), strict=True):
        _gaussian(chunk, part)
    return out.view(len(keys), *shape)


def _gaussian(bits: Tensor, out: Tensor) -> None:
    """32 random bits each (n,) int32 → standard normal numbers (n,): the highest bit is the sign, the rest the tail."""
    a, b, c = torch.from_numpy(_parabolas()).to(bits.device).unbind()
    tail = (bits & 0x7FFFFFFF).float().add_(0.5).view(torch.int32)  # 2³²·probability, as exponent and fraction
    piece = (tail >> 17).sub_(_FIRST)
    x = (tail & 0x1FFFF).float()
    torch.index_select(c, 0, piece, out=out)
    out.mul_(x).add_(b.index_select(0, piece)).mul_(x).add_(a.index_select(0, piece))
    out.view(torch.int32).bitwise_xor_(bits & -(1 << 31))  # the sign: four times as fast as torch.where


_FIRST = 126 << 6
"""Exponent and first six bits of the fraction of 0.5, the smallest tail."""


@cache
def _parabolas() -> np.ndarray:
    """Coefficients (3, pieces) of a + x·(b + x·c) = Φ⁻¹(p) for x = 0 … 2¹⁷ along each piece, through three points.

    No tensors: a cache of those would keep ones without content from an estimate of the memory.
    """
    octave = 2.0 ** (np.arange(32 * 64 + 1) // 64 - 33)  # of probabilities, from half of 2⁻³²
    start, width = octave * (1 + np.arange(32 * 64 + 1) % 64 / 64), octave / 64
    quantile = np.vectorize(statistics.NormalDist().inv_cdf)
    low, middle, high = (quantile(start + s * width) for s in (0.0, 0.5, 1.0))
    b, c = 4 * middle - 3 * low - high, 2 * (low + high) - 4 * middle
    return np.stack((low, b * 2.0**-17, c * 2.0**-34)).astype(np.float32)


def _words(keys: Sequence[int], count: int, purpose: int, device: torch.device) -> Tensor:
    """(B, count) words of 64 bits as int64: those of NumPy's `Philox(key=key, counter=purpose << 192)`."""
    if device.type != "cpu":
        return philox(keys, count, purpose, device)
    words = np.empty((len(keys), count), dtype=np.uint64)
    for row, one in zip(words, keys, strict=True):
        row[:] = np.random.Philox(key=one, counter=purpose << 192).random_raw(count)
    return torch.from_numpy(words.view(np.int64))


_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (GOLDEN, 0xBB67AE8584CAA73B)
_ROUNDS = 10


def philox(keys: Sequence[int], count: int, purpose: int, device: torch.device) -> Tensor:
    """What `_words` says, in operations of torch; int64 wraps as unsigned integers do. NumPy counts blocks from 1."""
    halves = torch.tensor([[_signed(k), _signed(k >> 64)] for k in keys], device=device)
    k0, k1 = halves[:, :1], halves[:, 1:]  # (B, 1)
    c0 = torch.arange(1, (count + 3) // 4 + 1, device=device).expand(len(keys), -1)  # (B, blocks of four words)
    c1, c2, c3 = torch.zeros_like(c0), torch.zeros_like(c0), torch.full_like(c0, purpose)
    for round_ in range(_ROUNDS):
        high0, low0 = _product(c0, _MULTIPLIERS[0])
        high1, low1 = _product(c2, _MULTIPLIERS[1])
        key0, key1 = (k + _signed(round_ * weyl) for k, weyl in zip((k0, k1), _WEYL, strict=True))
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
    return torch.stack((c0, c1, c2, c3), -1).flatten(1)[:, :count].contiguous()


def _product(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low 64 bits of the unsigned product, from those of halves."""
    a, b = _upper(x), x & _LOW
    m, n = factor >> 32, factor & _LOW
    middle = a * n + _upper(b * n)
    lower = (middle & _LOW) + b * m
    return a * m + _upper(middle) + _upper(lower), x * _signed(factor)


def _upper(x: Tensor) -> Tensor:
    return x >> 32 & _LOW


def _signed(x: int) -> int:
    """The low 64 bits as a signed number."""
    return ((x & 2**64 - 1) ^ 1 << 63) - (1 << 63)


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


class Permutation:
    """A random order of 0 … n - 1 that needs no memory: a Feistel network that walks its cycle until it is below n.

    (Black & Rogaway 2002, "Ciphers with arbitrary finite domains", method 2.)
    """

    ROUNDS = 6

    def __init__(self, n: int, seed: int, *words: Word) -> None:
        self.n = n
        self.half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))  # bits of each half
        self.keys = [np.uint64(digest(seed, *words, r)) for r in range(self.ROUNDS)]

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Which samples stand at these places; both int64 arrays with values in 0 … n - 1."""
        ids = self._encrypt(places.astype(np.uint64))
        while (outside := ids >= self.n).any():
            ids[outside] = self._encrypt(ids[outside])
        return ids.astype(np.int64)

    def _encrypt(self, x: np.ndarray) -> np.ndarray:
        low = (np.uint64(1) << self.half) - np.uint64(1)
        left, right = x >> self.half, x & low
        for key in self.keys:
            left, right = right, left ^ (mix(right ^ key) & low)
        return (left << self.half) | right
