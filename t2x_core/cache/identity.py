"""By what a file is known: its size and time of change, or its bytes."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from typing import Any, Literal, Protocol

from t2x_core.media import Place, container, is_remote, open_place, stamp

IdentityType = Literal["time", "bytes"]


class Identify(Protocol):
    """Where a file is → plain values that are others when the file is another; OSError if it cannot be read."""

    def __call__(self, place: Place) -> Any: ...


def by_time(place: Place) -> list[int]:
    """Size in bytes, and time of change in ns; inside another file, those of that file, and where in it."""
    return list(stamp(place))


def by_bytes(place: Place) -> str:
    """A hash of the content. A file is read once a process, and again when its inode says that it was written to:
    the time of a change of state, unlike that of the content, cannot be set back."""
    if is_remote(place):
        return _hash(place, *stamp(place))
    status = os.stat(container(place))
    return _hash(place, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@lru_cache(maxsize=100_000)
def _hash(place: Place, *state: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open_place(place) as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


IDENTITIES: dict[IdentityType, Identify] = {"time": by_time, "bytes": by_bytes}
