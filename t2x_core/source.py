"""Where samples come from, by key: what is random about a turn is drawn first, then its pixels are loaded."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from t2x_core.errors import UnreadableError, UserError
from t2x_core.keyed import Permutation
from t2x_core.media import Place
from t2x_core.types import Batch, Bucket, Sample, SampleKey, Variation

Identify = Callable[[Place], Any]
"""Where a file is → plain values that are others when the file is another; raises OSError if it cannot be read."""


class Source(ABC):
    """Samples by key; read in worker processes, so it must pickle.

    What is random about a turn of a sample (`vary`) is drawn first, and costs little; what is made of it (`load`) may
    take long. So a cache of latents need not load, and a clip of a long video is decoded only where it is wanted.
    """

    seed: int = 0
    """The recipe's: it decides which other sample stands for one that cannot be read."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__getitem__" in vars(cls):
            raise TypeError(f"{cls.__name__} has __getitem__; a source has vary(key) and load(variation) instead of it")

    @abstractmethod
    def buckets(self) -> Sequence[Bucket]:
        """The shapes there are, each with its number of samples; a key's `bucket` is an index into this."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples in all buckets."""

    @abstractmethod
    def vary(self, key: SampleKey) -> Variation:
        """What is random about the sample `key.id` (0 … count - 1) of bucket `key.bucket`; opens no file.

        It comes from `keyed.generator(seed, "<what>", key.attempt, key.step, key.slot)`.
        """

    @abstractmethod
    def load(self, variation: Variation) -> Sample:
        """The sample: a function of `variation.key.bucket`, `.id`, `variation.choices` and `.caption` alone.

        UnreadableError if it cannot be read: another of its bucket takes its place.
        """

    @final
    def __getitem__(self, key: SampleKey) -> Sample:
        """The sample of a key; if it cannot be read, the first that can in an order that follows from the key, so that
        all ranks keep their shapes."""
        bucket = self.buckets()[key.bucket]
        for id in self._candidates(key, bucket.count):
            try:
                sample = self.load(self.vary(key._replace(id=id)))
            except UnreadableError:
                continue
            return replace(sample, key=key)
        shape = f"{bucket.frames}×{bucket.height}×{bucket.width}"
        raise UserError(f"none of the {bucket.count} samples of the bucket {shape} can be read any more")

    def _candidates(self, key: SampleKey, count: int) -> Iterator[int]:
        yield key.id
        order = Permutation(count, self.seed, "replacement", key.attempt, key.step, key.slot)
        for place in range(count):
            yield int(order(np.asarray([place]))[0])

    def fingerprint(self, variation: Variation, identify: Identify) -> tuple[Any, ...] | None:
        """Plain values that name all that `load` makes pixels of besides `variation.choices`: files, by `identify`,
        settings, and the version of the code. The caption does not count, nor does a file's place in its bucket, which
        changes when others are added. OSError if a file is not there.

        None, the default: it is unknown, so latents are not cached.
        """
        return None

    def captions(self, key: SampleKey) -> Sequence[str] | None:
        """All captions that the sample of a key may have; None, the default: only `vary` and `load` can say."""
        return None

    @abstractmethod
    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples of one bucket → a batch (`t2x_core.data.stack` does it for plain samples)."""

    def name(self, key: SampleKey) -> str:
        """What the user calls the sample: its file, as it is called in messages; "" if it is made on the fly.

        It is what a loader that hangs is said to read, and by it a resumed run knows whether the samples are the same.
        """
        return ""

    def content(self, key: SampleKey) -> str:
        """What the sample is made of, short: it changes when a file or a caption of it does, and does not when they
        are copied. By it a resumed run notices samples that are others under the same names; "" if nothing is known.

        It is asked of all samples at each start, so it opens no file.
        """
        return ""

    def hashes(self, bucket: int) -> NDArray[np.uint64]:
        """(count, 2): a hash of the name and one of the content of each sample of a bucket.

        To be overridden where there are so many samples that to ask for each takes long.
        """

        def hashed(text: str) -> int:
            return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

        keys = [SampleKey("", bucket, id, 0, 0) for id in range(self.buckets()[bucket].count)]
        pairs = [(hashed(self.name(key)), hashed(self.content(key))) for key in keys]
        return np.asarray(pairs, np.uint64).reshape(-1, 2)


def largest(buckets: Sequence[Bucket]) -> int:
    """Index of the bucket with the largest samples, of those that have any."""
    return max(
        (i for i, bucket in enumerate(buckets) if bucket.count),
        key=lambda i: buckets[i].frames * buckets[i].height * buckets[i].width,
    )
