"""A shard: one safetensors file with any number of records, each a few named tensors.

It holds `keys` (n, 16), `offsets` (n + 1), `layouts` (n,), `checksums` (n,) and `data` (bytes). Record i is
data[offsets[i] : offsets[i + 1]]: its tensors one behind the other, each from a multiple of 8 bytes on. Names, dtypes
and shapes are in the metadata, once for all records that have the same ones (a layout).
"""

from __future__ import annotations

import json
import os
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from t2x_core.plain_files import parse_json, written_whole

KEY_BYTES = 16
ALIGNMENT = 8
VERSION = "1"
SUFFIX = ".safetensors"
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
_NUMPY = {"U8": np.uint8, "I32": np.int32, "I64": np.int64, "U32": np.uint32, "U64": np.uint64}

Record = Mapping[str, Tensor]
"""Name → tensor."""


class Part(NamedTuple):
    """One tensor of a layout."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * _DTYPES[self.dtype].itemsize


Layout = tuple[Part, ...]


def pack(record: Record) -> tuple[Layout, bytes]:
    """A record as its layout and its bytes."""
    parts, pieces = [], []
    for name, tensor in record.items():
        tensor = tensor.detach().cpu().contiguous()
        parts.append(Part(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)))
        piece = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        pieces.append(piece + bytes(-len(piece) % ALIGNMENT))
    return tuple(parts), b"".join(pieces)


def entry_bytes(record: Record) -> int:
    """Bytes that a record takes on the disk, about: its tensors, and its places in a shard's tables."""
    return sum(-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in record.values()) + 40


def packed_size(layout: Layout) -> int:
    """Bytes of a record."""
    return sum(part.nbytes + -part.nbytes % ALIGNMENT for part in layout)


def checksum(key: bytes, layout: Layout, data: bytes | bytearray) -> int:
    """CRC-32 of a record and its key."""
    return zlib.crc32(data, zlib.crc32(repr(layout).encode(), zlib.crc32(key)))


def unpack(layout: Layout, data: bytearray) -> dict[str, Tensor]:
    """The record of a layout and its bytes, which it keeps."""
    found, start = {}, 0
    for part in layout:
        count = part.nbytes
        dtype = _DTYPES[part.dtype]
        if count:
            whole = torch.frombuffer(data, dtype=dtype, count=count // dtype.itemsize, offset=start)
            found[part.name] = whole.view(part.shape)
        else:
            found[part.name] = torch.empty(part.shape, dtype=dtype)
        start += count + -count % ALIGNMENT
    return found


@dataclass(frozen=True)
class Table:
    """Where the records of a shard are."""

    keys: np.ndarray
    """(n, 16) uint8."""
    starts: np.ndarray
    """(n,) int64, from the beginning of the file."""
    sizes: np.ndarray
    """(n,) int64, in bytes."""
    layouts: np.ndarray
    """(n,) int32, into `kinds`."""
    checksums: np.ndarray
    """(n,) uint32."""
    kinds: Sequence[Layout]


def write_shard(folder: Path, keys: Sequence[bytes], packed: Sequence[tuple[Layout, bytes]]) -> Path:
    """Writes a new shard, which is there whole or not at all.

    Raises:
        OSError: it cannot be written; nothing half written is left behind.
    """
    kinds = list(dict.fromkeys(layout for layout, _ in packed))
    number = {layout: i for i, layout in enumerate(kinds)}
    blobs = [data for _, data in packed]
    arrays: dict[str, np.ndarray] = {
        "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES),
        "offsets": np.cumsum([0, *map(len, blobs)], dtype=np.int64),
        "layouts": np.asarray([number[layout] for layout, _ in packed], np.int32),
        "checksums": np.asarray([checksum(key, *one) for key, one in zip(keys, packed, strict=True)], np.uint32),
        "data": np.frombuffer(b"".join(blobs), np.uint8),
    }
    return write_arrays(folder / f"{uuid.uuid4().hex}{SUFFIX}", arrays, {"layouts": kinds})


def write_arrays(file: Path, arrays: dict[str, np.ndarray], about: Mapping[str, Any]) -> Path:
    """Writes arrays and plain values to a safetensors file, which is there whole or not at all; or OSError."""
    content = save(arrays, metadata={"t2x_cache": json.dumps({"version": VERSION, **about})})
    with written_whole(file, f".{file.name}.{os.getpid()}.part") as part:
        part.write_bytes(content)
    return file


class Header(NamedTuple):
    """What stands at the beginning of a safetensors file of ours."""

    about: dict[str, Any]
    places: dict[str, tuple[Any, tuple[int, ...], int]]
    """Name → NumPy's dtype, shape, and the place in the file."""


def read_header(file: Path) -> Header:
    """OSError or ValueError if the file cannot be read, or is none of ours."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        length = os.fstat(stream.fileno()).st_size
        if not 2 <= size <= length - 8:
            raise ValueError(f"{file.name} is cut short, or no safetensors file")
        header = parse_json(stream.read(size), dict, file.name)
    try:
        about = parse_json(header.pop("__metadata__")["t2x_cache"])
        places = {
            name: (_NUMPY[entry["dtype"]], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0])
            for name, entry in header.items()
        }
        end = max(8 + size + entry["data_offsets"][1] for entry in header.values())
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{file.name} is no file of a cache") from error
    if about.get("version") != VERSION:
        raise ValueError(f"{file.name} is of another version of the cache")
    if length != end:
        raise ValueError(f"{file.name} is cut short")
    return Header(about, places)


def read_table(file: Path) -> Table:
    """Where the records of a shard are; OSError or ValueError if it cannot be read."""
    header = read_header(file)
    try:
        columns = {}
        with file.open("rb") as stream:
            for name in ("keys", "offsets", "layouts", "checksums"):
                dtype, shape, place = header.places[name]
                stream.seek(place)
                columns[name] = np.fromfile(stream, dtype, int(np.prod(shape))).reshape(shape)
        start = header.places["data"][2]
        kinds = layouts_of(header.about["layouts"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file.name} is damaged: {error}") from error
    offsets, layouts = columns["offsets"], columns["layouts"]
    sizes = np.asarray([packed_size(layout) for layout in kinds], np.int64)
    in_range = ((layouts >= 0) & (layouts < len(sizes))).all()
    if not in_range or offsets[:1] != 0 or not np.array_equal(np.diff(offsets), sizes[layouts]):
        raise ValueError(f"{file.name} is damaged: what it says of its records cannot be")
    return Table(
        columns["keys"], start + offsets[:-1], np.diff(offsets), columns["layouts"], columns["checksums"], kinds
    )


def layouts_of(plain: Sequence[Any]) -> list[Layout]:
    """Layouts as JSON has them; KeyError, TypeError or ValueError if these are none."""
    found = [tuple(Part(name, dtype, tuple(shape)) for name, dtype, shape in layout) for layout in plain]
    for part in (part for layout in found for part in layout):
        _ = part.nbytes
    return found
