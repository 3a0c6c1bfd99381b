"""Real image files of many kinds, good and damaged, for tests."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SHAPES = ((48, 48), (64, 36), (36, 64), (57, 43))
"""(width, height), upright: four aspect ratios."""
ORIENTATION = 274
"""EXIF tag."""


def make_image(width: int, height: int, colour: tuple[int, int, int] = (200, 40, 40)) -> Image.Image:
    """A gradient with a coloured quarter at the top left, so that orientation and colour show."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], -1).astype(np.uint8)
    pixels[: height // 2, : width // 2] = colour
    return Image.fromarray(pixels)


def save_turned(image: Image.Image, file: Path, orientation: int) -> None:
    """Writes the image so that it is upright when the EXIF orientation is applied."""
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the Transpose that undoes each
    stored = image.transpose(Image.Transpose(back[orientation])) if orientation in back else image
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored.save(file, exif=exif)


def write_png(file: Path, width: int, height: int, depth: int, kind: int, rows: bytes) -> None:
    """A PNG from raw rows, each with its filter byte: for what Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def write_rgb16(image: Image.Image, file: Path) -> None:
    """As PNG with 16 bits a channel."""
    deep = (np.asarray(image).astype(">u2") * 257).reshape(image.height, -1)
    write_png(file, *image.size, 16, 2, b"".join(b"\0" + row.tobytes() for row in deep))


def write_good(folder: Path, count: int) -> list[str]:
    """`count` images with captions: every kind in every aspect ratio, in turn. Returns their names."""
    names = []
    for i in range(count):
        image = make_image(*SHAPES[i % 4], colour=(i % 256, 255 - i % 256, (7 * i) % 256))
        kind = KINDS[i // 4 % len(KINDS)]
        name = f"{'sub/' if i % 7 == 0 else ''}{i:04d}.{kind.split('-')[0]}"
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_kind(image, kind, file)
        file.with_suffix(".txt").write_text(f"image {i}\nnumber {i}, {kind}\n" if i % 3 else f"image {i}\n")
        names.append(name)
    return names


KINDS = (
    *("jpg", "jpg-progressive", "jpg-grey", "jpg-cmyk", "jpg-exif6", "jpg-exif8", "jpg-exif3", "jpg-exif5"),
    *("png", "png-alpha", "png-grey", "png-grey16", "png-rgb16", "png-palette", "png-exif6", "png-grey_alpha"),
    *("webp", "webp-alpha", "webp-animated", "webp-exif6", "bmp", "tiff-cmyk", "gif"),
)


def write_kind(image: Image.Image, kind: str, file: Path) -> None:
    """Writes the image as one of KINDS."""
    half = Image.new("L", image.size, 255)
    half.paste(0, (0, 0, image.width // 3, image.height))
    match kind.split("-")[-1]:
        case "progressive":
            image.save(file, progressive=True)
        case "grey":
            image.convert("L").save(file)
        case "cmyk":
            image.convert("CMYK").save(file)
        case "alpha":
            image.putalpha(half)
            image.save(file)
        case "grey_alpha":
            Image.merge("LA", (image.convert("L"), half)).save(file)
        case "grey16":
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(file)
        case "rgb16":
            write_rgb16(image, file)
        case "palette":
            image.quantize(16).save(file, transparency=3)
        case "animated":
            image.save(file, save_all=True, append_images=[image.rotate(180)])
        case turned if turned.startswith("exif"):
            save_turned(image, file, int(turned[-1]))
        case _:
            image.save(file)


def write_damaged(folder: Path) -> dict[str, str]:
    """Twelve files from which no image can be had, with captions; name → what is said of it."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8))
    whole = {}
    for suffix in ("jpg", "png", "webp"):
        noise.save(folder / f"whole.{suffix}")
        whole[suffix] = (folder / f"whole.{suffix}").read_bytes()
        (folder / f"whole.{suffix}").unlink()
    flipped = bytearray(whole["png"])
    flipped[len(flipped) // 2] ^= 0xFF
    contents = {
        "empty.jpg": (b"", "is empty"),
        "short.jpg": (whole["jpg"][: len(whole["jpg"]) // 2], "is cut short"),
        "short.png": (whole["png"][: len(whole["png"]) // 2], "is cut short"),
        "short.webp": (whole["webp"][: len(whole["webp"]) // 2], "is cut short"),
        "text.png": (b"not an image, only words\n", "is text, not an image"),
        "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page, not an image"),
        "flipped.png": (bytes(flipped), "is damaged (broken data stream when reading image file)"),
        "zeros.webp": (bytes(5000), "is no image of a known kind"),
        "phone.jpg": (b"\0\0\0\x18ftypheic" + bytes(100), "is a HEIC image, which cannot be read"),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    write_png(folder / "huge.png", 100_000, 100_000, 8, 2, bytes(1000))
    os.symlink("nowhere.jpg", folder / "link.jpg")
    (folder / "folder.jpg").mkdir()
    reasons = {name: reason for name, (_, reason) in contents.items()} | {
        "huge.png": "says that it has more than 179 million pixels",
        "link.jpg": "is a link to a file that is not there",
        "folder.jpg": "is a folder",
    }
    for name in reasons:
        (folder / name).with_suffix(".txt").write_text("a damaged image\n")
    return reasons
