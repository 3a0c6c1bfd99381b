"""Where an image or a video lies, in a file of its own or inside another, and how it is opened."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from t2x_core.errors import UserError
from t2x_core.remote import is_url, url_name
from t2x_core.remote.file import RemoteFile, facts_of
from t2x_core.wording import shorten


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file inside a tar file."""

    path: str
    """Of the tar file, or its URL."""
    name: str
    """Inside of it."""
    start: int
    """Its first byte in the tar file."""
    length: int
    """In bytes."""

    def open(self) -> BinaryIO:
        return io.BufferedReader(_Window(self.path, self.start, self.length), 2**16)


@dataclass(frozen=True, slots=True)
class ParquetCell:
    """A cell of a Parquet file that holds the bytes of a file."""

    path: str
    """Of the Parquet file, or its URL."""
    name: str
    """What the file in the cell was called, or "": not known."""
    group: int
    """Row group."""
    row: int
    """In its row group."""
    column: str
    """Of the bytes, such as "image.bytes"."""

    def open(self) -> BinaryIO:
        return io.BytesIO(_cell(self))


Place = str | TarMember | ParquetCell
"""A path, a URL, or a place inside a file."""
_SPECIAL = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_MEMBERS = {kind.__name__: kind for kind in (TarMember, ParquetCell)}


def open_place(place: Place | Path) -> BinaryIO:
    """Open for reading, from its first byte to its last; it can be sought. Raises OSError if it cannot be read."""
    if isinstance(place, str) and is_url(place):
        return io.BufferedReader(RemoteFile(place), 2**16)
    return open(place, "rb") if isinstance(place, str | Path) else place.open()


def is_remote(place: Place | Path) -> bool:
    """Whether it is read through a network, and the cache of that."""
    return is_url(container(place))


def on_disk(place: Place) -> bool:
    """Whether it is a file of its own on this machine, which a library can open by its path."""
    return isinstance(place, str) and not is_url(place)


def load(place: Place) -> None:
    """Reads it once if it is remote, so that it is in the cache. Raises OSError."""
    if is_remote(place):
        with open_place(place) as stream:
            while stream.read(2**20):
                pass


def container(place: Place | Path) -> str:
    """Path or URL of the file in which it is."""
    return os.fspath(place) if isinstance(place, str | Path) else place.path


def suffix(place: Place) -> str:
    """The ending of its name, in lower case, with the dot."""
    name = place if isinstance(place, str) else place.name
    return Path(url_name(name) if is_url(name) else name).suffix.lower()


def size_of(place: Place) -> int:
    """In bytes. Raises OSError."""
    if isinstance(place, TarMember):
        return place.length
    with open_place(place) as stream:
        return stream.seek(0, os.SEEK_END)


def stamp(place: Place) -> tuple[int, ...]:
    """Numbers that change when it does: size in bytes and time of change in ns (of a URL, a hash of what its server
    tells files by) of the file in which it is, and where in it. Raises OSError."""
    own = _stamp_of_file(container(place))
    if isinstance(place, TarMember):
        return *own, place.start, place.length
    return own if isinstance(place, str) else (*own, place.group, place.row)


def _stamp_of_file(path: str) -> tuple[int, int]:
    if is_url(path):
        facts = facts_of(path, fresh=True)
        return facts.size, int.from_bytes(hashlib.blake2b(facts.tag.encode(), digest_size=6).digest(), "little")
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def to_plain(place: Place) -> Any:
    """As JSON has it; `from_plain` is the way back."""
    return place if isinstance(place, str) else [type(place).__name__, *astuple(place)]


def from_plain(plain: Any) -> Place:
    return plain if isinstance(plain, str) else _MEMBERS[plain[0]](*plain[1:])


def special_file(place: Place | Path) -> str | None:
    """What a path is if it is no file that can be opened and read to its end, as in "is a pipe, not a file"; None also
    if it is not there."""
    try:
        return not_a_file(os.stat(container(place)).st_mode)
    except (OSError, ValueError):
        return None  # opening it will say why


def not_a_file(mode: int) -> str | None:
    """ "is a pipe, not a file" for the mode of such a thing, None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    kind = _SPECIAL.get(stat.S_IFMT(mode), "something")
    return "is a folder" if kind == "a folder" else f"is {kind}, not a file"


class _Window(io.RawIOBase):
    """A stretch of a file as a file."""

    def __init__(self, path: str, start: int, length: int) -> None:
        self._file = RemoteFile(path) if is_url(path) else open(path, "rb", buffering=0)  # noqa: SIM115 (`close` does)
        self._start, self._length, self._at = start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = memoryview(buffer)[: max(0, self._length - self._at)]
        self._file.seek(self._start + self._at)
        count = self._file.readinto(wanted)
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Cells:
    """The cells of a row group's column, from the first to the last; going back begins anew.

    So reading in order costs each cell once, and only a few are in memory: a row group may be larger than that.
    """

    def __init__(self, place: ParquetCell) -> None:
        self._file = open_parquet(place.path, buffer_size=2**20, pre_buffer=False)
        batches = self._file.iter_batches(4, row_groups=[place.group], columns=[place.column], use_threads=False)
        self._rows = enumerate(cell for batch in batches for cell in batch.column(0))
        self.next = 0

    def __getitem__(self, row: int) -> bytes:
        for number, scalar in self._rows:
            self.next = number + 1
            if number == row:
                cell = scalar.as_py()
                value = next(iter(cell.values())) if isinstance(cell, dict) else cell
                return b"" if value is None else bytes(value)
        raise OSError(None, f"its row group has no row {row} any more")


_open = threading.local()
"""Of each thread, the columns of row groups that it reads: `cells`, by key, the latest last."""
MOST_OPEN = 64


def _cell(place: ParquetCell) -> bytes:
    pyarrow, _ = import_parquet()
    key = os.getpid(), *stamp(replace(place, row=0)), place.path, place.column
    if not hasattr(_open, "cells"):
        _open.cells = {}
    opened: dict[object, _Cells] = _open.cells
    try:
        cells = opened.pop(key, None)
        if cells is None or cells.next > place.row:
            while len(opened) >= MOST_OPEN:
                del opened[next(iter(opened))]
            cells = _Cells(place)
        found = cells[place.row]
        opened[key] = cells
    except (pyarrow.ArrowException, OSError) as error:
        why = f"row group {place.group} of the Parquet file is damaged ({shorten(str(error))})"
        raise OSError(None, why) from error
    return found


def open_parquet(path: str, **options: Any) -> Any:
    """The ParquetFile of a path or a URL. Raises OSError or pyarrow's ArrowException."""
    _, parquet = import_parquet()
    return parquet.ParquetFile(open_place(path) if is_url(path) else path, **options)


def import_parquet() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet; UserError if they are not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("reading Parquet needs pyarrow", hint='pip install "t2x[parquet]"') from error
    return pyarrow, parquet
