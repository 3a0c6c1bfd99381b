"""Which samples a source has: by it a resumed run, and each rank, knows whether the data is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from t2x_core.source import Source
from t2x_core.types import SampleKey


class Identity:
    """The samples of a source, in their order.

    Attributes:
        contents: (samples,) uint64, a hash of what each is made of; empty if it is made on the fly.
    """

    def __init__(self, task: str, source: Source) -> None:
        self.task, self.source = task, source
        buckets = source.buckets()
        self.buckets = [[b.frames, b.height, b.width, b.count] for b in buckets]
        self._names: str | None = None
        first = next(self._keys(), None)
        self.contents = np.zeros(0, dtype="<u8")
        if first is not None and source.name(first):
            hashes = np.concatenate([source.hashes(i) for i in range(len(buckets))]).astype("<u8")  # (samples, 2)
            self._names = hashlib.sha256(np.ascontiguousarray(hashes[:, 0]).tobytes()).hexdigest()
            self.contents = np.ascontiguousarray(hashes[:, 1])

    def plain(self) -> dict[str, Any]:
        """Buckets, and hashes of all names and of all contents; None: the samples have none."""
        contents = None if self._names is None else hashlib.sha256(self.contents.tobytes()).hexdigest()
        return {"buckets": self.buckets, "names": self._names, "contents": contents}

    def names(self, places: Sequence[int]) -> list[str]:
        """Of the samples at these places in the order."""
        wanted = set(places)
        return [self.source.name(key) for place, key in enumerate(self._keys()) if place in wanted]

    def _keys(self) -> Iterator[SampleKey]:
        for i, (*_, count) in enumerate(self.buckets):
            for id in range(count):
                yield SampleKey(self.task, i, id, 0, 0)
