"""The cache of remote files: blocks of them as files, whole or not there; what was not used for longest goes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from t2x_core.errors import UserError
from t2x_core.paths import cache_folder
from t2x_core.plain_files import locked, locked_if_free, read_json, written_whole
from t2x_core.remote import fetch
from t2x_core.remote.fetch import Facts
from t2x_core.remote.url import public_url

FOLDER, SIZE = "T2X_REMOTE_CACHE", "T2X_REMOTE_CACHE_GB"
"""Variables of the environment: where the cache is, and how large it may become, in 10⁹ bytes."""
DEFAULT_GB = 50.0
RESERVE = 10**9
"""Bytes of its disk that are left free."""
BLOCK = 2**20
"""Bytes of a file that are loaded and kept together; of a server without ranges, all of it."""
LOCKS = 256
KEEP = 0.9
"""Share of the limit that is left when it was reached."""
NOTE_SECONDS = 24 * 3600.0
STALE_SECONDS = 3600.0
"""Age of a file half written whose process must be gone."""


def root() -> Path:
    """The folder of the cache."""
    named, usual = os.environ.get(FOLDER), cache_folder()
    if not named and usual is None:
        raise UserError("there is no folder for remote files", hint=f"set {FOLDER}", where="environment")
    return Path(named) if named else usual / "remote"  # type: ignore[operator]


def limit() -> float:
    """Bytes that the cache may hold."""
    text = os.environ.get(SIZE) or str(DEFAULT_GB)
    try:
        size = float(text) * 1e9
        if size > 0:
            return size
    except ValueError:
        pass
    raise UserError(f'{SIZE} is "{text}", which is no size in GB', where="environment")


def open_block(url: str, facts: Facts, number: int, ahead: int = 1) -> BinaryIO:
    """A block of a file, open for reading; loaded if it is not there, with up to `ahead` - 1 that follow it.

    Raises OSError as `fetch.ask`, also if the cache cannot be written, and NoRangesError.
    """
    length = BLOCK if facts.ranges else facts.size
    if (found := _opened(_path(url, facts, number), _bytes(facts, length, number))) is not None:
        return found
    with ExitStack() as held:
        held.enter_context(locked(_lock(url, number)))  # another process may be loading it
        if (found := _opened(_path(url, facts, number), _bytes(facts, length, number))) is not None:
            return found
        if not facts.ranges:
            path = _path(url, facts, number)
            with written_whole(path, _beside(path)) as part:
                fetch.read_whole(url, facts, part)
                stream: BinaryIO = part.open("rb")  # before it can be thrown out
            written = facts.size
        else:
            last = number + 1
            blocks = -(-facts.size // BLOCK)
            while last < min(blocks, number + ahead):
                if not held.enter_context(locked_if_free(_lock(url, last))) or _path(url, facts, last).exists():
                    break
                last += 1
            data = fetch.read_range(url, facts, number * BLOCK, min(last * BLOCK, facts.size))
            for i in range(number, last):
                path, at = _path(url, facts, i), (i - number) * BLOCK
                with written_whole(path, _beside(path)) as part:
                    part.write_bytes(memoryview(data)[at : at + BLOCK])
            stream, written = io.BytesIO(data[:BLOCK]), len(data)
    _account(written)
    return stream


def noted(url: str) -> Facts | None:
    """What was noted of a file in the last day."""
    note = _note(url)
    with suppress(OSError, ValueError, TypeError):
        if time.time() - note.stat().st_mtime < NOTE_SECONDS:
            return Facts(**read_json(note))
    return None


def note(url: str, facts: Facts) -> None:
    """Notes what is known of a file, for other processes."""
    path = _note(url)
    with written_whole(path, _beside(path)) as part:
        part.write_text(json.dumps(asdict(facts)))


def _digest(*words: object) -> str:
    return hashlib.blake2b(repr(words).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()


def _bytes(facts: Facts, length: int, number: int) -> int:
    return min(length, facts.size - number * length)


def _path(url: str, facts: Facts, number: int) -> Path:
    digest = _digest(public_url(url), facts.size, facts.tag)
    return _below(digest, f"{digest}.{number}" if facts.ranges else digest)


def _note(url: str) -> Path:
    digest = _digest(public_url(url))
    return _below(digest, f"{digest}.json")


def _below(digest: str, name: str) -> Path:
    folder = root() / digest[:2]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"the cache of remote files cannot be in {root()}: {error.strerror}"
        raise UserError(why, hint=f"set {FOLDER}") from error
    return folder / name


def _lock(url: str, number: int) -> Path:
    return _below("locks", f"{int(_digest(url, number), 16) % LOCKS:x}")


def _beside(path: Path) -> str:
    return f".{path.name}.{os.getpid()}.{threading.get_ident()}"


def _opened(path: Path, size: int) -> BinaryIO | None:
    with suppress(FileNotFoundError):
        stream = path.open("rb")
        if os.fstat(stream.fileno()).st_size == size:
            with suppress(OSError):
                os.utime(path)  # used now
            return stream
        stream.close()
    return None


def _account(written: int) -> None:
    """Adds to what the cache holds; if that is too much, throws out what was not used for longest."""
    folder, most = root(), limit()
    with locked(folder / "size") as stream:
        stream.seek(0)
        text = stream.read()
        total = int(text) + written if text.isdigit() else None
        free = shutil.disk_usage(folder).free
        if total is None or total > most or free < RESERVE:
            total = _throw_out(folder, most, max(0, RESERVE - free))
        stream.truncate(0)
        stream.write(str(total).encode())


def _throw_out(folder: Path, most: float, missing: int) -> int:
    """Removes the oldest files if there are more bytes than `most`, or `missing` are to be freed; what is left."""
    files, now = [], time.time()
    for part in folder.glob("[0-9a-f][0-9a-f]"):
        for entry in os.scandir(part):
            with suppress(OSError):
                status = entry.stat()
                stale = entry.name.startswith(".")
                if not stale or now - status.st_mtime > STALE_SECONDS:
                    files.append((0.0 if stale else status.st_mtime, status.st_size, entry.path))
    total = sum(size for _, size, _ in files)
    goal = min(KEEP * most if total > most else total, total - missing)
    for _, size, path in sorted(files):
        if total <= goal:
            break
        with suppress(OSError):  # Windows keeps what is open
            os.unlink(path)
            total -= size
    return total
