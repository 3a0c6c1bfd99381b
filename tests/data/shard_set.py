"""The same captioned files in a folder, in tar shards and in Parquet shards, for tests."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.data.image_set import make_image

Files = Mapping[str, tuple[bytes, Sequence[str]]]
"""Name → content and captions."""
KINDS = ("folder", "tar", "parquet")


def image_bytes(number: int, width: int = 40, height: int = 40, kind: str = "PNG") -> bytes:
    """An image whose colour is its number."""
    stream = io.BytesIO()
    make_image(width, height, (number % 256, number // 256, 7)).save(stream, kind)
    return stream.getvalue()


def number_in(data: bytes) -> int:
    """The number of an image made by `image_bytes`."""
    red, green, _ = Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0))
    return red + 256 * green


def images(count: int, shapes: Sequence[tuple[int, int]] = ((40, 40), (48, 28))) -> dict[str, tuple[bytes, list[str]]]:
    """`count` images of these shapes (width, height) in turn."""
    return {f"{i:04d}.png": (image_bytes(i, *shapes[i % len(shapes)]), [f"image {i}"]) for i in range(count)}


def write(kind: str, place: Path, files: Files, shards: int = 3) -> dict[str, object]:
    """Writes the files in one of KINDS into a new folder; returns the settings that name them."""
    place.mkdir(parents=True)
    if kind == "folder":
        for name, (data, captions) in files.items():
            (place / name).write_bytes(data)
            (place / name).with_suffix(".txt").write_text("\n".join(captions))
        return {"folder": place}
    names = list(files)
    parts = [names[len(names) * i // shards : len(names) * (i + 1) // shards] for i in range(shards)]
    for number, part in enumerate(parts):
        file = place / f"{number:03d}.{kind}"
        if kind == "tar":
            write_tar(file, {name: files[name] for name in part})
        else:
            write_parquet(file, {name: files[name] for name in part})
    return {"shards": place}


def write_tar(file: Path, files: Files) -> Path:
    with tarfile.open(file, "w") as tar:
        for name, (data, captions) in files.items():
            add(tar, name, data)
            add(tar, f"{Path(name).stem}.txt", "\n".join(captions).encode())
    return file


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_parquet(file: Path, files: Files, rows: int = 4) -> Path:
    """With {bytes, path} in the column "image", as the hub has it, and row groups of `rows`."""
    cells = [{"bytes": data, "path": name} for name, (data, _) in files.items()]
    captions = [list(captions) for _, captions in files.values()]
    pq.write_table(pa.table({"image": cells, "caption": captions}), file, row_group_size=rows)
    return file
