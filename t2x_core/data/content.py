"""Whether a file holds what it held before, whatever its path and its times are."""

from __future__ import annotations

import hashlib
from pathlib import Path

from t2x_core.data.files import open_regular
from t2x_core.media import Place, open_place

WHOLE = 2**20
"""Bytes of a file that is read whole."""
BLOCKS = 16
"""Of 64 KiB, that are read of a larger one: evenly spread, the first and the last bytes included."""


def short_hash(text: str) -> int:
    """64 bits that name a text."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def content_hash(place: Place | Path) -> str:
    """16 hexadecimal digits of a hash of a file's size and content; of a file over 1 MiB, of samples of its content.

    Raises OSError or UserError if it cannot be read.
    """
    with open_regular(place) if isinstance(place, str | Path) else open_place(place) as stream:
        size = stream.seek(0, 2)
        digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=8)
        length = size if size <= WHOLE else WHOLE // BLOCKS
        for i in range(1 if size <= WHOLE else BLOCKS):
            stream.seek(i * (size - length) // (BLOCKS - 1))
            digest.update(stream.read(length))
    return digest.hexdigest()
