"""Good images that look all different, and damaged ones of twelve kinds, for tests."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
ENDINGS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}


def picture(number: int, side: int = 40) -> Image.Image:
    """Large random patches: no two look alike."""
    rng = np.random.default_rng([7, number])
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(number: int) -> Image.Image:
    rng = np.random.default_rng([8, number])
    return Image.fromarray(rng.integers(0, 256, (48, 48, 3)).astype(np.uint8))


def _flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(data) // 2] ^= 0xFF
    return bytes(changed)


def _huge(number: int) -> bytes:
    data = bytearray(encoded(noise(number)))
    data[16:24] = (100_000).to_bytes(4, "big") * 2  # IHDR; its checksum is then wrong, too
    return bytes(data)


DAMAGE = {
    "empty": lambda n: b"",
    "cut_png": lambda n: (data := encoded(noise(n)))[: len(data) // 2],
    "cut_jpeg": lambda n: (data := encoded(noise(n), "JPEG"))[: len(data) // 2],
    "cut_webp": lambda n: (data := encoded(noise(n), "WEBP"))[: len(data) // 2],
    "cut_gif": lambda n: (data := encoded(noise(n), "GIF"))[: len(data) // 3],
    "cut_tiff": lambda n: (data := encoded(noise(n), "TIFF"))[: len(data) // 2],
    "flipped": lambda n: _flipped(encoded(noise(n))),
    "huge": _huge,
    "text": lambda n: f"image {n} was not found\n".encode(),
    "page": lambda n: f"<!DOCTYPE html><html><body>404 for {n}</body></html>".encode(),
    "zeros": lambda n: bytes(500 + n),
    "heic": lambda n: b"\0\0\0\x18ftypheic" + n.to_bytes(4, "big") + bytes(80),
}
"""Kind of damage → bytes, others for each number."""


def make_files(good: int, damaged: int) -> tuple[dict[str, tuple[bytes, list[str]]], set[str]]:
    """Name → (bytes, captions) of all, mixed; and the names of those that are damaged."""
    kinds, files, bad = list(DAMAGE), {}, set()
    for i in range(good):
        kind = FORMATS[i % len(FORMATS)]
        files[f"{i:05d}.{ENDINGS[kind]}"] = encoded(picture(i), kind), [f"patches number {i}"]
    for i in range(damaged):
        kind = kinds[i % len(kinds)]
        name = f"{i * good // damaged:05d}_{kind}_{i}.{'jpg' if i % 2 else 'png'}"
        files[name] = DAMAGE[kind](i), [f"damaged number {i}"]
        bad.add(name)
    return dict(sorted(files.items())), bad
