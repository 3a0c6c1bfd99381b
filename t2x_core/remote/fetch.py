"""Asking a server: what a file is, a stretch of it, all of it, a list of files; again and again if need be."""

from __future__ import annotations

import errno
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from t2x_core.errors import UserError
from t2x_core.remote.url import public_url, split_query, without_secrets
from t2x_core.wording import shorten

log = logging.getLogger("t2x")
T = TypeVar("T")
PATIENCE = "T2X_REMOTE_SECONDS"
"""Variable of the environment: how long a read that fails is tried again, in seconds."""
DEFAULT_PATIENCE, FIRST_CONTACT = 300.0, 20.0
"""Seconds; the second of a server that has not answered yet, whose name may be wrong."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
SILENCE = 30.0
"""Seconds without a byte after which a connection counts as lost."""
AGAIN = (408, 425, 429)
"""Statuses below 500 that may be others the next time."""
TAGS = ("ETag", "etag", "md5Hash", "Content-MD5", "content_md5", "Digest", "blob_id", "generation")
TIMES = ("Last-Modified", "LastModified", "last_modified", "updated", "mtime", "last_commit")

retries: Counter[int] = Counter()
"""Process → its retries so far."""
_reached: set[str] = set()
"""Servers that have answered."""


class NoRangesError(Exception):
    """The server gives files as a whole only."""


@dataclass(frozen=True)
class Facts:
    """What a server says of a file."""

    size: int
    """In bytes."""
    tag: str
    """Changes with the file: its hash, or else the time of its change; "": not known."""
    ranges: bool = True
    """Whether a stretch of it can be asked for, as far as is known."""


def ask(url: str) -> Facts:
    """What a file is. FileNotFoundError, PermissionError, or another OSError whose `strerror` says why not."""
    system, path = _system(url)
    info = _tried(url, lambda: system.info(path))
    if info.get("type") == "directory":
        raise IsADirectoryError(errno.EISDIR, "is a folder")
    if info.get("size") is None:
        raise OSError(errno.EIO, "its server does not say how large it is")
    tag = next((str(info[key]) for keys in (TAGS, TIMES) for key in keys if info.get(key)), "")
    return Facts(int(info["size"]), tag, info.get("partial", True))


def read_range(url: str, facts: Facts, start: int, end: int) -> bytes:
    """Its bytes `start` … `end` - 1. Raises OSError as `ask` does, and NoRangesError."""
    system, path = _system(url)

    def read() -> bytes:
        how = {"block_size": end - start, "cache_type": "none", "size": facts.size}
        try:
            with system.open(path, "rb", **how) as stream:
                stream.seek(start)
                data: bytes = stream.read(end - start)
        except ValueError as error:
            raise NoRangesError from error
        if len(data) != end - start:
            raise OSError(errno.EIO, f"gave {len(data)} bytes instead of {end - start}")
        return data

    return _tried(url, read)


def read_whole(url: str, facts: Facts, into: Path) -> None:
    """All of it, into a file. Raises OSError as `ask` does."""
    system, path = _system(url)

    def read() -> None:
        system.get_file(path, os.fspath(into))
        if (size := into.stat().st_size) != facts.size:
            raise OSError(errno.EIO, f"gave {size} bytes instead of {facts.size}")

    _tried(url, read)


def list_files(url: str) -> list[str]:
    """The files that a pattern with `*` or `[…]` stands for, or those in a folder and below it, in order. Raises
    OSError as `ask` does."""
    base, query = split_query(url)
    system, path = _system(base)
    system.invalidate_cache()
    wild = any(letter in path for letter in "*[")
    found = _tried(url, lambda: system.glob(path) if wild else system.find(path))
    return sorted(f"{system.unstrip_protocol(name)}{query}" for name in found)


def _system(url: str) -> tuple[Any, str]:
    """The file system of fsspec, and what the file is called in it."""
    name = public_url(url)
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise UserError(f"{name} is a URL, which fsspec reads", hint='pip install "t2x[remote]"') from error
    options: dict[str, Any] = {}
    try:
        if urlsplit(url).scheme in ("http", "https"):
            from aiohttp import ClientTimeout

            timeout = ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
            options["client_kwargs"] = {
                "timeout": timeout,
                "trust_env": True,  # proxies, and passwords in .netrc
                "headers": {"Accept-Encoding": "identity"},
            }
        return url_to_fs(url, **options)
    except ImportError as error:
        why = shorten(str(error), 200)
        raise UserError(f"{name} cannot be read: {why}", hint='with pip, besides "t2x[remote]"') from error
    except ValueError as error:
        raise UserError(f"{name} is no URL that can be read ({without_secrets(shorten(str(error), 200))})") from error


def _tried(url: str, do: Callable[[], T]) -> T:
    """What `do` gives, tried again while what goes wrong may pass."""
    server = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    began, wait, again = time.monotonic(), FIRST_WAIT, 0
    while True:
        try:
            found = do()
            _reached.add(server)
            return found
        except NoRangesError:
            raise
        except Exception as error:
            if (final := _final(error)) is not None:
                raise final from None  # its text may hold the URL with its secrets
            if _status(error) is not None:
                _reached.add(server)
            patience = float(os.environ.get(PATIENCE) or DEFAULT_PATIENCE)
            patience = patience if server in _reached else min(patience, FIRST_CONTACT)
            why = _reason(error)
            if time.monotonic() - began + wait > patience:
                raise OSError(errno.EIO, f"{why}, and so at {again + 1} attempts") from None
        again += 1
        retries[os.getpid()] += 1
        if (number := retries[os.getpid()]) & (number - 1) == 0:  # 1, 2, 4, 8 …
            log.warning("%s: %s; trying again (retry %d of this process)", public_url(url), why, number)
        time.sleep(wait * random.uniform(0.5, 1))
        wait = min(2 * wait, LONGEST_WAIT)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an exception of any of the libraries is about."""
    for each, names in ((error, ("status", "status_code", "code")), (error.__cause__, ("status", "status_code"))):
        about = getattr(each, "response", None) or each
        for status in (getattr(about, name, None) for name in names):
            if isinstance(status, int) and 100 <= status < 600:
                return status
    return None


def _final(error: Exception) -> OSError | None:
    """What to raise for an error that will not pass; None: it may."""
    status = _status(error)
    if status in (404, 410) or (status is None and isinstance(error, FileNotFoundError) and error.__cause__ is None):
        return FileNotFoundError(errno.ENOENT, "is not there")
    if status in (401, 403) or isinstance(error, PermissionError):
        return PermissionError(errno.EACCES, f"may not be read ({_reason(error)})")
    if status is not None and status < 500 and status not in AGAIN:
        return OSError(errno.EIO, _reason(error))
    if isinstance(error, IsADirectoryError | NotImplementedError) or isinstance(error.__cause__ or error, ValueError):
        return OSError(errno.EIO, _reason(error))
    return None


def _reason(error: Exception) -> str:
    if (status := _status(error)) is not None:
        return f"its server says {status}"
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):  # what HTTP says of all
        return _reason(error.__cause__)
    if isinstance(error, TimeoutError):
        return "its server does not answer"
    if type(error).__name__ == "ClientPayloadError":  # of aiohttp, which may not be there
        return "its server broke off"
    said = getattr(error, "strerror", None) or str(error)
    return shorten(without_secrets(said)) or type(error).__name__
