"""Files out of a .tgz of a stranger. Nothing is unpacked by the names in it: who asks chooses where bytes go."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from t2x_core.errors import UserError

MOST_MEMBERS = 100_000
LARGEST_MEMBER = 64 << 20
"""Bytes of one file."""
LARGEST_TOTAL = 4 << 30
"""Bytes of all files that are read; a small archive can hold any number of zeros."""


def members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each regular file of a .tgz whose name is wanted; links and devices are passed over.

    Raises:
        UserError: it cannot be read, is damaged, or larger than any data set of this kind.
    """
    total = 0
    try:
        with gzip.open(archive) as unzipped, tarfile.open(fileobj=unzipped, mode="r:") as tar:
            for count, member in enumerate(tar, 1):
                if count > MOST_MEMBERS:
                    raise UserError(f"{archive} holds more than {MOST_MEMBERS} files")
                if not member.isreg() or not wanted(member.name):
                    continue
                total += member.size
                if member.size > LARGEST_MEMBER or total > LARGEST_TOTAL:
                    raise UserError(f"{archive} is too large: {member.name} has {member.size} bytes")
                stream = tar.extractfile(member)
                assert stream is not None  # it is a regular file
                yield member.name, stream.read()
            while unzipped.read(1 << 20):  # to the end, where the check sum is
                pass
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{archive} cannot be read: {why}", hint="download it again") from error
