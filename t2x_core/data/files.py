"""Files as the system knows them: which are regular, which are one and the same, and text of limited size."""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path
from typing import BinaryIO

from t2x_core.errors import UserError
from t2x_core.media import not_a_file, open_place
from t2x_core.remote import Url, is_url, public_url

LONGEST_CAPTIONS = 2**20
"""Bytes of a file with captions, at most."""


def open_regular(path: str | Path | Url) -> BinaryIO:
    """A regular file, or one behind a URL, open for reading; never waits for whoever writes into a pipe.

    Raises:
        OSError: it cannot be opened.
        UserError: it is a pipe, a socket, a device or a folder.
    """
    if isinstance(path, Url) or is_url(path):
        return open_place(path.full if isinstance(path, Url) else str(path))
    if why := not_a_file(os.stat(path).st_mode):  # to open a device may do something to it
        raise UserError(why, where=shown(path))
    stream = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    if why := not_a_file(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise UserError(why, where=shown(path))
    return stream


def identity(path: str) -> Hashable:
    """The same for all names of one file: other spellings of its path, symbolic and hard links. Of a file that is not
    there, its absolute path; of a URL, the URL."""
    if is_url(path):
        return path
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return os.path.abspath(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def shown(path: str | Path | Url) -> str:
    """A path for messages and as a name in our own files, which are UTF-8; bytes that are not become `\\xe9`. Of a URL
    without what is secret about it."""
    if isinstance(path, Url) or is_url(path):
        return public_url(str(path))
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def name_below(path: str, folder: str) -> str:
    """What a file is called: its path below the folder, with `/`, or, outside of it, its whole path.

    `..` and links in an absolute path are resolved, so that each spelling gives the same name.
    """
    start = os.path.join(folder, "")
    if is_url(path):
        return public_url(path).removeprefix(public_url(start))
    if path.startswith(start) and os.pardir not in path:  # nearly all
        return shown(Path(path[len(start) :]).as_posix())
    absolute, root = os.path.abspath(path), os.path.abspath(folder)
    if os.pardir in Path(path).parts or not absolute.startswith(os.path.join(root, "")):
        absolute, root = os.path.realpath(path), os.path.realpath(folder)
    inside = absolute.startswith(os.path.join(root, ""))
    return shown(Path(os.path.relpath(absolute, root) if inside else absolute).as_posix())


def read_captions(file: Path) -> tuple[str, ...]:
    """The lines of a text file that are not blank. Raises UserError if it cannot be read."""
    where = shown(file)
    try:
        with open_regular(file) as stream:
            return captions_in(stream.read(LONGEST_CAPTIONS + 1), where)
    except OSError as error:
        raise UserError(f"this caption cannot be read: {error.strerror}", where=where) from error


def captions_in(text: bytes, where: str) -> tuple[str, ...]:
    """The lines of a text that are not blank. Raises UserError if it is none."""
    try:
        if len(text) > LONGEST_CAPTIONS:
            raise UserError(f"this caption has more than {LONGEST_CAPTIONS:,} bytes", where=where)
        if b"\0" in text:
            raise UserError("this caption holds the character NUL, so it is no UTF-8 text", where=where)
        lines = text.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except UnicodeDecodeError as error:
        number = text[: error.start].count(b"\n") + 1
        raise UserError("this caption is not UTF-8", where=f"{where}:{number}", hint="save it as UTF-8") from error
    return tuple(line.strip() for line in lines if line.strip())
