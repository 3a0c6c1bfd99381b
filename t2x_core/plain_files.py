"""Files that are there whole or not at all; small ones of plain values, and what damage they may have, as one kind of
error."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from t2x_core.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows, where two processes may thus do a thing twice
    fcntl = None  # type: ignore[assignment]


def read_json(file: Path, kind: type = dict) -> Any:
    """The value in a JSON file, of type `kind`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no text, no JSON, nested too deeply, or of another type.
    """
    return parse_json(file.read_bytes(), kind, str(file))


def parse_json(text: bytes | str, kind: type = dict, name: str = "it") -> Any:
    """The value of type `kind` that a JSON text holds; ValueError if it is damaged in whatever way."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply") from None
    if not isinstance(value, kind):
        raise ValueError(f"{name} holds {type(value).__name__}, not {kind.__name__}")
    return value


@contextmanager
def locked(file: Path) -> Iterator[IO[bytes]]:
    """The file, made if need be, open for reading and appending, and of no other process until it is closed."""
    with file.open("a+b") as stream:
        if fcntl is not None:
            with suppress(OSError):  # some network drives have no locks
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


@contextmanager
def locked_if_free(file: Path) -> Iterator[bool]:
    """As `locked`, without waiting: whether the file is of no other process."""
    with file.open("a+b") as stream:
        free = True
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                free = False
            except OSError:
                pass  # some network drives have no locks
        yield free


@contextmanager
def written_whole(file: Path, beside: str | None = None) -> Iterator[Path]:
    """A path beside `file`, for a library to write to. In the end it takes the place of `file`; if the block fails,
    `file` is as it was before, and nothing half written is left behind.

    Args:
        beside: the name to write under, where several processes may write at once; by default one with the same ending.
    """
    real = Path(os.path.realpath(file))  # a link stays one
    part = real.with_name(beside or f".{real.stem[:40]}.part{real.suffix}")
    try:
        yield part
        sync(part)
        part.replace(real)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(real.parent)


def write_whole(file: Path, content: str | bytes) -> None:
    """Writes a file that is there afterwards whole, or as it was before, even if the machine stops meanwhile.

    Raises:
        OSError: it cannot be written; nothing half written is left behind.
    """
    with written_whole(file) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def sha256_of(file: Path) -> str:
    """Of a file's bytes, in hex; OSError if it cannot be read."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_empty(folder: Path) -> None:
    """Makes a folder; UserError if that cannot be, or there is something in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty", hint="choose another folder")
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}", hint="choose another folder") from error
