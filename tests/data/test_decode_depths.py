"""Images of unusual depths, polarities and transparent colours, against formulas on what was written."""

from __future__ import annotations

import os
import socket
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2x_core.data.decode import DamagedImageError, decode, image_size

BEHIND = (250, 120, 30)
GREY16 = np.asarray([0, 1, 257, 300, 30000, 50000, 65000, 65535])
RGB16 = np.asarray(
    [(0, 0, 0), (1, 2, 3), (257, 514, 1000), (30000, 20000, 10000), (30001, 20000, 10000), (65535, 0, 9)]
)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_png(
    path: Path, depth: int, colour: int, row: bytes, width: int, transparent: bytes = b"", palette: bytes = b""
) -> Path:
    """Four equal rows; `colour`: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA (PNG specification, 11.2.1)."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 4, depth, colour, 0, 0, 0))
    more = (chunk(b"PLTE", palette) if palette else b"") + (chunk(b"tRNS", transparent) if transparent else b"")
    data = chunk(b"IDAT", zlib.compress((b"\0" + row) * 4))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + more + data + chunk(b"IEND", b""))
    return path


def row_of(path: Path) -> np.ndarray:
    """(width, 3), the first row of an image whose rows are equal."""
    pixels = decode(path, BEHIND).permute(1, 2, 0).numpy().astype(int)
    assert (pixels == pixels[:1]).all()
    assert image_size(path, True) == image_size(path, False) == pixels.shape[:2]
    return pixels[0]


def on_background(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Levels 0 to 1 of (width, 3) and (width,) → 0 to 255 on the background."""
    return 255 * colours * alpha[:, None] + np.asarray(BEHIND) * (1 - alpha[:, None])


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("clear", [None, 0, 1, 3])
def test_grey_of_any_depth_with_a_transparent_level(depth: int, clear: int | None, tmp_path: Path) -> None:
    top = 2**depth - 1
    clear = clear if clear is None or clear <= top else top
    levels = np.arange(8) % (top + 1) if depth < 8 else np.asarray([0, 1, 3, 4, top // 3, top // 2, top - 1, top])
    bits = "".join(f"{level:0{depth}b}" for level in levels)
    row = int(bits, 2).to_bytes(len(bits) // 8, "big")
    file = write_png(tmp_path / "x.png", depth, 0, row, 8, b"" if clear is None else struct.pack(">H", clear))
    expected = on_background(np.repeat(levels[:, None] / top, 3, 1), (levels != clear).astype(float))
    assert np.abs(row_of(file) - expected).max() <= 1


@pytest.mark.parametrize("clear", [None, 0, 3])
def test_rgb_of_16_bit_with_a_transparent_colour(clear: int | None, tmp_path: Path) -> None:
    """Only the colour itself is transparent, not its neighbours whose upper 8 bits are the same."""
    key = b"" if clear is None else RGB16[clear].astype(">u2").tobytes()
    file = write_png(tmp_path / "x.png", 16, 2, RGB16.astype(">u2").tobytes(), len(RGB16), key)
    alpha = np.asarray([float(i != clear) for i in range(len(RGB16))])
    assert np.abs(row_of(file) - on_background(RGB16 / 65535, alpha)).max() <= 1


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("colour", [4, 6])
def test_an_alpha_channel(depth: int, colour: int, tmp_path: Path) -> None:
    top, alpha = 2**depth - 1, np.linspace(0, 1, len(RGB16))
    levels = (RGB16 / 65535 * top).round()
    levels = levels[:, :1] if colour == 4 else levels
    row = np.hstack([levels, (alpha * top).round()[:, None]]).astype(">u2" if depth == 16 else "u1").tobytes()
    file = write_png(tmp_path / "x.png", depth, colour, row, len(RGB16))
    expected = on_background(np.broadcast_to(levels / top, (len(RGB16), 3)), alpha)
    assert np.abs(row_of(file) - expected).max() <= 1.6


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    palette = np.asarray([(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 99, 199)])
    file = write_png(
        tmp_path / "x.png", 4, 3, bytes([0x01, 0x23]), 4, bytes([255, 128, 0]), palette.astype("u1").tobytes()
    )
    expected = on_background(palette / 255, np.asarray([1, 128 / 255, 0, 1]))
    assert np.abs(row_of(file) - expected).max() <= 1


def write_tiff(path: Path, levels: np.ndarray, white_is_zero: bool, order: str = "<") -> Path:
    """Grey of 8 or 16 bit, uncompressed (TIFF 6.0, section 4)."""
    bits, (height, width) = levels.dtype.itemsize * 8, levels.shape
    data = levels.astype(levels.dtype.newbyteorder(order)).tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, int(not white_is_zero)), (273, 200)]
    tags += [(277, 1), (278, height), (279, len(data))]
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    path.write_bytes((head + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)).ljust(200, b"\0") + data)
    return path


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_tiff_in_which_white_is_zero(white_is_zero: bool, order: str, kind: type, tmp_path: Path) -> None:
    top = np.iinfo(kind).max
    levels = np.tile(np.linspace(0, top, 8).round().astype(kind), (4, 1))
    file = write_tiff(tmp_path / "x.tif", levels, white_is_zero, order)
    if white_is_zero and order == ">" and kind is np.uint16:  # Pillow has no word for it: refused, not inverted
        with pytest.raises(DamagedImageError, match="is a TIFF of a kind that cannot be read"):
            decode(file, BEHIND)
        return
    expected = levels[0] / top * 255
    expected = 255 - expected if white_is_zero else expected
    assert np.abs(row_of(file) - expected[:, None]).max() <= 1


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_of_a_turned_tiff_is_known_from_its_header(orientation: int, compression: str, tmp_path: Path) -> None:
    upright = np.arange(96, dtype=np.uint8).reshape(4, 8, 3)
    turns = {2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (1, False), 7: (3, True), 8: (3, False)}
    turn, mirrored = turns.get(orientation, (0, False))
    stored = np.rot90(upright[:, ::-1] if mirrored else upright, turn)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "x.tif", exif=exif, compression=compression)
    assert (decode(tmp_path / "x.tif", BEHIND).permute(1, 2, 0).numpy() == upright).all()
    assert image_size(tmp_path / "x.tif", False) == image_size(tmp_path / "x.tif", True) == (4, 8)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_numbers_without_a_known_white_are_refused(dtype: type, tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 8), dtype)).save(tmp_path / "x.tif")
    for act in (lambda: decode(tmp_path / "x.tif", BEHIND), lambda: image_size(tmp_path / "x.tif", False)):
        with pytest.raises(DamagedImageError, match="of which nobody says what is white"):
            act()


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.png").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "s.png"))
    found: dict[str, str] = {}

    def look() -> None:
        for name in ("pipe.jpg", "folder.png", "s.png", "/dev/zero"):
            try:
                image_size(tmp_path / name, False)
            except DamagedImageError as error:
                found[name] = str(error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(60)
    listening.close()
    assert found == {
        "pipe.jpg": "is a pipe, not a file",
        "folder.png": "is a folder",
        "s.png": "is a socket, not a file",
        "/dev/zero": "is a device, not a file",
    }
