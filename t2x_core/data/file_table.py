"""Files in columns: a million of them in one file on disk, memory-mapped, so that processes share them."""

from __future__ import annotations

import itertools
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from t2x_core.data.content import short_hash
from t2x_core.data.image_files import ImageFile, group_name, held_out_hash
from t2x_core.media import ParquetCell, Place, TarMember
from t2x_core.plain_files import parse_json, written_whole
from t2x_core.remote import is_url, public_url

TEXTS = 5
"""Of a file: its path or its name inside a container, name, group, content, and captions, a NUL behind each."""
_DTYPES = {"I32": np.int32, "I64": np.int64, "U8": np.uint8, "U64": np.uint64, "F64": np.float64}


class FileTable(Sequence[ImageFile]):
    """A sequence of files that makes each when it is asked for.

    Args:
        columns: "text" (bytes) and "ends" (n × TEXTS,) of all texts; "container" (n,); "at" (n, 2), where in it; and
            "numbers" (n, 3), height, width (0: not known) and repeats. With `hashed` also "hashes" (n, 3): by which a
            file is held out, of its name, and of its content and captions. Others (`with_column`) have
            a row for each, too.
        containers: (kind, path, column) of the files that hold files; number 0 is none.
        order: which rows, in which order; None: all.
        file: where the columns are, if they are in a file; then the table pickles as its path.
        notes: plain values that are kept with it.
    """

    def __init__(
        self,
        columns: Mapping[str, NDArray[Any]],
        containers: Sequence[Sequence[str]],
        order: NDArray[np.int64] | None = None,
        file: Path | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self.columns, self.containers, self.order, self.file = columns, containers, order, file
        self.notes = notes or {}

    @classmethod
    def of(cls, files: Iterable[ImageFile], notes: Mapping[str, Any] | None = None, hashed: bool = False) -> FileTable:
        """A table of these files, in memory."""
        numbers: dict[tuple[str, ...], int] = {("", "", ""): 0}
        texts, rows, hashes = [], [], []
        for file in files:
            place, kind = file.place, type(file.place).__name__
            held = ("", "", "") if isinstance(place, str) else (kind, place.path, getattr(place, "column", ""))
            at = (0, 0)
            if isinstance(place, TarMember):
                at = place.start, place.length
            elif isinstance(place, ParquetCell):
                at = place.group, place.row
            rows.append((numbers.setdefault(held, len(numbers)), *at, *(file.size or (0, 0)), file.repeat))
            if hashed:
                hashes.append((held_out_hash(group_name(file)), short_hash(file.name), short_hash(file.made_of)))
            captions = "".join(f"{caption}\0" for caption in file.captions)
            own = place if isinstance(place, str) else place.name
            texts += [text.encode("utf-8", "surrogateescape") for text in (own, file.name, file.group, file.content)]
            texts.append(captions.encode("utf-8", "surrogateescape"))
        numbered = np.asarray(rows, np.int64).reshape(-1, 6)
        columns: dict[str, NDArray[Any]] = {
            "text": np.frombuffer(b"".join(texts), np.uint8),
            "ends": np.cumsum([len(text) for text in texts], dtype=np.int64),
            "container": numbered[:, 0].astype(np.int32),
            "at": np.ascontiguousarray(numbered[:, 1:3]),
            "numbers": numbered[:, 3:].astype(np.int32),
        }
        if hashed:
            columns["hashes"] = np.asarray(hashes, np.uint64).reshape(-1, 3)
        return cls(columns, list(numbers), notes=notes)

    @classmethod
    def open(cls, file: Path, urls: Iterable[str] = ()) -> FileTable:
        """The table that `save` has written. Raises OSError, or ValueError if it is damaged.

        Args:
            urls: of containers, which are saved without their signatures.
        """
        full = {public_url(url): url for url in urls if is_url(url)}
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = parse_json(stream.read(min(length, 2**26)))
        columns = {}
        try:
            metadata = header.pop("__metadata__")
            saved, notes = parse_json(metadata["containers"], list), parse_json(metadata["notes"])
            containers = [(kind, full.get(path, path), column) for kind, path, column in saved]
            for name, entry in header.items():
                dtype, shape, start = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"][0]
                if 0 in shape:
                    columns[name] = np.zeros(shape, dtype)
                else:
                    columns[name] = np.memmap(file, dtype, "r", 8 + length + start, shape)
            if metadata.pop("checksum", "") != _checksum(columns, metadata):
                raise ValueError("it is not what was written (its checksum differs)")
        except (KeyError, TypeError, IndexError, OverflowError) as error:
            raise ValueError(f"it is no table of files ({error!r})") from error
        return cls(columns, containers, None, file, notes)

    def save(self, file: Path) -> None:
        """Writes the whole table; OSError if it cannot be written."""
        columns = {name: np.ascontiguousarray(column) for name, column in self.columns.items()}
        public = [(kind, public_url(path) if is_url(path) else path, column) for kind, path, column in self.containers]
        metadata = {"containers": json.dumps(public), "notes": json.dumps(self.notes)}
        metadata["checksum"] = _checksum(columns, metadata)
        with written_whole(file, f".{file.stem}.{os.getpid()}") as beside:
            beside.write_bytes(save(columns, metadata))

    def with_column(self, name: str, column: NDArray[Any]) -> FileTable:
        """A table in memory, of all rows in their order, with another column (n, …)."""
        return FileTable({**self.columns, name: column}, self.containers, None, None, self.notes)

    def take(self, order: NDArray[np.int64]) -> FileTable:
        """The files at these places, in this order; the columns are shared."""
        own = order if self.order is None else self.order[order]
        return FileTable(self.columns, self.containers, own, self.file, self.notes)

    def column(self, name: str) -> NDArray[Any]:
        """A column with a row for each file, in the table's order."""
        return self.columns[name] if self.order is None else self.columns[name][self.order]

    def row(self, name: str, place: int) -> NDArray[Any]:
        """What a column has of one file."""
        row: NDArray[Any] = self.columns[name][place if self.order is None else self.order[place]]
        return row

    def __len__(self) -> int:
        return len(self.columns["container"]) if self.order is None else len(self.order)

    @overload
    def __getitem__(self, place: int) -> ImageFile: ...
    @overload
    def __getitem__(self, place: slice) -> FileTable: ...
    def __getitem__(self, place: int | slice) -> ImageFile | FileTable:
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        row = place % len(self) if self.order is None else int(self.order[place])
        ends = self.columns["ends"][max(0, row * TEXTS - 1) : (row + 1) * TEXTS].tolist()
        starts = [0, *ends] if row == 0 else ends
        raw = self.columns["text"][starts[0] : starts[-1]].tobytes()
        own, name, group, content, captions = (
            raw[start - starts[0] : end - starts[0]].decode("utf-8", "surrogateescape")
            for start, end in itertools.pairwise(starts)
        )
        height, width, repeat = self.columns["numbers"][row].tolist()
        return ImageFile(
            self._place(row, own),
            name,
            tuple(captions.split("\0")[:-1]),
            (height, width) if height else None,
            group,
            content,
            repeat,
        )

    def _place(self, row: int, own: str) -> Place:
        number = int(self.columns["container"][row])
        if not number:
            return own
        kind, path, column = self.containers[number]
        first, second = self.columns["at"][row].tolist()
        if kind == TarMember.__name__:
            return TarMember(path, own, first, second)
        return ParquetCell(path, own, first, second, column)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "columns": None if self.file is not None else self.columns}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.file is not None:
            self.columns = FileTable.open(self.file).columns


def _checksum(columns: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> str:
    """CRC-32 of all that a file of them holds, in hex; a gigabyte takes a second at most."""
    total = zlib.crc32(repr(sorted(metadata.items())).encode())
    for name in sorted(columns):
        column = columns[name]
        total = zlib.crc32(f"{name} {column.dtype} {column.shape}".encode(), total)
        total = zlib.crc32(column.reshape(-1).view(np.uint8).data, total) if column.size else total
    return f"{total:08x}"
