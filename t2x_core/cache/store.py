"""Records by key, in shards that any number of processes may add at once.

A key is a hash of all that a record was made of, so a record never changes and none is ever replaced: what is out of
date is not asked for any more. There is no lock: each process writes shards of its own, which are there whole or not at
all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor

from t2x_core.cache.shard import (
    KEY_BYTES,
    SUFFIX,
    Layout,
    Record,
    Table,
    checksum,
    layouts_of,
    pack,
    packed_size,
    read_header,
    read_table,
    unpack,
    write_arrays,
    write_shard,
)
from t2x_core.errors import UserError

log = logging.getLogger("t2x")

SHARDS, INDEX = "shards", f"index{SUFFIX}"
OPEN_FILES = 64
"""Shards that a process keeps open."""
COLUMNS = {
    "high": np.uint64,
    "low": np.uint64,
    "shard": np.int32,
    "start": np.int64,
    "size": np.int64,
    "layout": np.int32,
    "checksum": np.uint32,
}
"""Of the index, sorted by `high`, `low`: the two halves of the key."""

Columns = dict[str, np.ndarray]


def key_of(*words: Any) -> bytes:
    """The key (16 bytes) of plain values: the same for the same values, on every machine."""
    text = json.dumps(words, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class Store:
    """Reads records. It pickles, and may be used by processes that were forked after it was opened.

    What is known of the records lies in a file that all processes share (`INDEX`, memory-mapped), and, for shards that
    came later, in memory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: dict[str, str] = {}
        """Name of a shard that cannot be read → why."""
        self.refresh()

    def refresh(self) -> None:
        """Sees what has been written since."""
        self.shards: list[str] = []
        self.layouts: list[Layout] = []
        self._files: OrderedDict[int, int] = OrderedDict()  # shard → open file
        self._bad: set[Path] = set()  # files of which a record was not what was written
        there = sorted(path.name for path in (self.folder / SHARDS).glob(f"*{SUFFIX}"))
        self._parts: list[Columns] = []
        covered = self._open_index(set(there))
        new = _columns(self, [name for name in there if name not in covered])
        if len(new["high"]):
            self._parts.append(new)

    def __len__(self) -> int:
        return sum(len(part["high"]) for part in self._parts)

    def __contains__(self, key: bytes) -> bool:
        return self._find(key) is not None

    def get(self, key: bytes) -> dict[str, Tensor] | None:
        """The record of a key, or None if it is not there, or is damaged."""
        found = self._find(key)
        if found is None:
            return None
        part, row = found
        shard, size, kind = (int(part[name][row]) for name in ("shard", "size", "layout"))
        in_range = 0 <= shard < len(self.shards) and 0 <= kind < len(self.layouts)
        if not in_range or size != packed_size(self.layouts[kind]):
            self._complain(self.folder / INDEX, "what it says of a record cannot be")
            return None
        layout, data, file = self.layouts[kind], bytearray(size), self.folder / SHARDS / self.shards[shard]
        try:
            read = os.preadv(self._file(shard), [data], int(part["start"][row]))
        except OSError as error:
            self._complain(file, error.strerror or str(error))
            return None
        if read != size or checksum(key, layout, data) != int(part["checksum"][row]):
            self._complain(file, "a record is not what was written (its checksum differs)")
            return None
        return unpack(layout, data)

    def keys(self) -> set[bytes]:
        """All of them."""
        return {key for part in self._parts for key in _joined(part)}

    def nbytes(self) -> int:
        """Of all shards on the disk."""
        return sum(path.stat().st_size for path in (self.folder / SHARDS).glob(f"*{SUFFIX}"))

    def write_index(self) -> None:
        """Notes where all records are, so that the next process opens the store at once; OSError if it cannot."""
        self.refresh()
        if len(self._parts) <= 1 and (self.folder / INDEX).is_file() and not self._stale:
            return
        whole = (
            _sorted({name: np.concatenate([part[name] for part in self._parts]) for name in COLUMNS})
            if (self._parts)
            else {name: np.empty(0, dtype) for name, dtype in COLUMNS.items()}
        )
        write_arrays(self.folder / INDEX, whole, {"shards": self.shards, "layouts": self.layouts})

    def _find(self, key: bytes) -> tuple[Columns, int] | None:
        high, low = (np.uint64(int.from_bytes(half, "big")) for half in (key[:8], key[8:]))
        for part in self._parts:
            row = int(np.searchsorted(part["high"], high))
            while row < len(part["high"]) and part["high"][row] == high:
                if part["low"][row] == low:
                    return part, row
                row += 1
        return None

    def _file(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        while len(self._files) >= OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        self._files[shard] = os.open(self.folder / SHARDS / self.shards[shard], os.O_RDONLY)
        return self._files[shard]

    def _complain(self, file: Path, why: str) -> None:
        if file not in self._bad:
            self._bad.add(file)
            log.warning("%s is damaged: %s; `t2x cache --verify` says what", file, why)

    def _open_index(self, there: set[str]) -> set[str]:
        """Maps the index; the names of the shards that it covers, none if it is missing, damaged or names others."""
        self._stale = True
        file = self.folder / INDEX
        try:
            header = read_header(file)
            shards, layouts = list(header.about["shards"]), layouts_of(header.about["layouts"])
            columns = {
                name: np.memmap(file, dtype, "r", header.places[name][2], header.places[name][1])
                if header.places[name][1][0]
                else np.empty(0, dtype)
                for name, dtype in COLUMNS.items()
            }
        except (OSError, ValueError, KeyError, TypeError):
            return set()
        if not set(shards) <= there:
            return set()
        self.shards, self.layouts, self._stale = shards, layouts, False
        self._parts.append(columns)
        return set(shards)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            with suppress(OSError):
                os.close(file)


class Writer:
    """Adds records to a store; a context, which writes what is left at its end.

    A shard is written when it is full or old enough, so a killed process loses no more than that.

    Args:
        shard_bytes, seconds: when a shard is written.
    """

    def __init__(self, folder: Path, shard_bytes: int = 2**28, seconds: float = 60.0) -> None:
        self.folder, self.shard_bytes, self.seconds = folder, shard_bytes, seconds
        self._keys: list[bytes] = []
        self._packed: list[tuple[Layout, bytes]] = []
        self._bytes, self._since = 0, time.monotonic()
        self.written = 0
        """Records that are safe on the disk."""

    def add(self, key: bytes, record: Record) -> None:
        """UserError if the disk is full, or cannot be written to."""
        if not self._keys:
            self._since = time.monotonic()
        layout, data = pack(record)
        self._keys.append(key)
        self._packed.append((layout, data))
        self._bytes += len(data)
        if self._bytes >= self.shard_bytes or time.monotonic() - self._since > self.seconds:
            self.flush()

    def flush(self) -> None:
        """Writes what is kept in memory."""
        if not self._keys:
            return
        folder = self.folder / SHARDS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_shard(folder, self._keys, self._packed)
        except OSError as error:
            self._keys, self._packed, self._bytes = [], [], 0  # not to be tried again at the end
            raise UserError(
                f"the cache {self.folder} cannot be written: {error.strerror or error}",
                hint=f"{self.written} entries of this call are kept; make room, and run the same command again",
            ) from error
        self.written += len(self._keys)
        self._keys, self._packed, self._bytes = [], [], 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
        except KeyboardInterrupt:
            self.flush()
            raise


def remove_leftovers(folder: Path) -> int:
    """Removes what killed processes have left half written; the bytes that are free now."""
    freed = 0
    for path in (*(folder / SHARDS).glob(".*.part"), *folder.glob(".*.part")):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > 600:  # nobody writes one shard for so long
                freed += path.stat().st_size
                path.unlink()
    return freed


def _columns(store: Store, names: Iterable[str]) -> Columns:
    """The records of some shards, sorted; shards that cannot be read are noted in `store.damaged`."""
    tables: list[tuple[int, Table]] = []
    for name in names:
        try:
            table = read_table(store.folder / SHARDS / name)
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError):
                continue  # pruned meanwhile
            store.damaged[name] = str(error)
            log.warning("%s is damaged: %s; its entries are missing", store.folder / SHARDS / name, error)
            continue
        store.shards.append(name)
        tables.append((len(store.shards) - 1, table))
    parts: dict[str, list[np.ndarray]] = {name: [np.empty(0, dtype)] for name, dtype in COLUMNS.items()}
    number = {layout: i for i, layout in enumerate(store.layouts)}
    for shard, table in tables:
        for layout in table.kinds:
            if layout not in number:
                number[layout] = len(store.layouts)
                store.layouts.append(layout)
        halves = np.ascontiguousarray(table.keys).view(">u8").astype(np.uint64)
        own = np.asarray([number[layout] for layout in table.kinds] or [0], np.int32)
        for name, column in (
            ("high", halves[:, 0]),
            ("low", halves[:, 1]),
            ("shard", np.full(len(halves), shard, np.int32)),
            ("start", table.starts),
            ("size", table.sizes),
            ("layout", own[table.layouts]),
            ("checksum", table.checksums),
        ):
            parts[name].append(column)
    return _sorted({name: np.concatenate(columns) for name, columns in parts.items()})


def _sorted(columns: Columns) -> Columns:
    order = np.lexsort((columns["low"], columns["high"]))
    return {name: np.ascontiguousarray(column[order]) for name, column in columns.items()}


def _joined(part: Columns) -> Iterator[bytes]:
    return _keys_in(np.stack([part["high"], part["low"]], 1).astype(">u8").tobytes())


def shard_keys(table: Table) -> Sequence[bytes]:
    """The keys of a shard, in its order."""
    return list(_keys_in(table.keys.tobytes()))


def _keys_in(joined: bytes) -> Iterator[bytes]:
    return (joined[i : i + KEY_BYTES] for i in range(0, len(joined), KEY_BYTES))
