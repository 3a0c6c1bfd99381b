"""By what a file is known: its size and time of change, or its bytes."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from typing import Any, Literal, Protocol

IdentityType = Literal["time", "bytes"]


class Identify(Protocol):
    """A file's path → plain values that are others when the file is another; OSError if it cannot be read."""

    def __call__(self, path: str) -> Any: ...


def by_time(path: str) -> list[int]:
    """Size in bytes, and time of change in ns."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def by_bytes(path: str) -> str:
    """A hash of the content. A file is read once a process, and again when its inode says that it was written to:
    the time of a change of state, unlike that of the content, cannot be set back."""
    status = os.stat(path)
    return _hash(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@lru_cache(maxsize=100_000)
def _hash(path: str, *state: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


IDENTITIES: dict[IdentityType, Identify] = {"time": by_time, "bytes": by_bytes}
