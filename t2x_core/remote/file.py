"""A remote file as one that can be read and sought."""

from __future__ import annotations

import io
import os
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO

from t2x_core.remote import fetch, store
from t2x_core.remote.fetch import Facts, NoRangesError

MOST_AHEAD = 16
"""Blocks that are asked for at once where a file is read in order."""
FRESH_SECONDS = 3600.0
KNOWN = 2**17
"""Files of which a process remembers what the server said."""

_known: dict[str, tuple[float, Facts]] = {}
"""URL → when the server said it, and what."""
_lock = threading.Lock()


def facts_of(url: str, fresh: bool = False) -> Facts:
    """What a file is; asked of its server, or remembered from another process, or, with `fresh`, from the last hour of
    this one. Raises OSError, see `fetch.ask`."""
    when, facts = _known.get(url, (0.0, None))
    if facts is not None and (not fresh or time.monotonic() - when < FRESH_SECONDS):
        return facts
    facts = None if fresh else store.noted(url)
    if facts is None:
        facts, before = fetch.ask(url), store.noted(url)
        facts = replace(facts, ranges=False) if before == replace(facts, ranges=False) else facts
        _note(url, facts)
    _remember(url, facts)
    return facts


def _note(url: str, facts: Facts) -> None:
    with suppress(OSError):  # loading a block will say what is wrong with the cache
        store.note(url, facts)


def _remember(url: str, facts: Facts) -> None:
    with _lock:
        if len(_known) >= KNOWN:
            _known.clear()
        _known[url] = time.monotonic(), facts


class RemoteFile(io.RawIOBase):
    """Read through the cache, block by block; in order, more and more blocks at once."""

    def __init__(self, url: str) -> None:
        self._url, self._facts = url, facts_of(url)
        self._at, self._ahead = 0, 1
        self._number = -1
        self._block: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._facts.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = memoryview(buffer)[: max(0, self._facts.size - self._at)]
        if not wanted:
            return 0
        try:
            count = self._read(wanted)
        except NoRangesError:
            self._facts = replace(self._facts, ranges=False)
            _note(self._url, self._facts)
            _remember(self._url, self._facts)
            self._number = -1
            count = self._read(wanted)
        self._at += count
        return count

    def _read(self, wanted: memoryview) -> int:
        number, start = divmod(self._at, store.BLOCK) if self._facts.ranges else (0, self._at)
        if number != self._number or self._block is None:
            self._ahead = min(2 * self._ahead, MOST_AHEAD) if number == self._number + 1 else 1
            wanted_here = -(-(start + len(wanted)) // store.BLOCK)
            block = store.open_block(self._url, self._facts, number, max(self._ahead // 2, wanted_here))
            self._drop()
            self._number, self._block = number, block
        self._block.seek(start)
        return self._block.readinto(wanted)  # type: ignore[attr-defined]

    def _drop(self) -> None:
        if self._block is not None:
            self._block.close()
            self._block = None

    def close(self) -> None:
        self._drop()
        super().close()
