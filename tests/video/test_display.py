"""Videos as a player shows them: turned, mirrored, stretched, in their colours, on the background."""

from __future__ import annotations

import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from t2x_core.video import Choice, DamagedClipError, Videos

HEIGHT, WIDTH = 48, 64
CORNERS = np.asarray([(220, 30, 30), (30, 200, 30), (30, 30, 220), (230, 230, 230)])
"""Colours of the quarters: top left, top right, bottom left, bottom right."""
BEHIND = (40, 160, 250)
ONE = 1 << 16
MATRICES = {  # a, b, c, d: x = a·column + c·row, y = b·column + d·row
    "as it is": (1, 0, 0, 1),
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transversed": (0, -1, -1, 0),
}


def quarters(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    for q, colour in enumerate(CORNERS):
        rows, columns = np.arange(height) * 2 // height == q // 2, np.arange(width) * 2 // width == q % 2
        pixels[np.ix_(rows, columns)] = colour
    return pixels


def write(path: Path, codec: str, pixels: str, image: np.ndarray, matrix=None, aspect=None, options=None) -> Path:
    """Four equal frames of (h, w, 3 or 4)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], pixels
        stream.options = options or {}
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            a, b, c, d = (ONE * value for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for _ in range(4):
            kind = "rgba" if image.shape[2] == 4 else "rgb24"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format=kind)))
        container.mux(stream.encode())
    return path


def corners(image: np.ndarray) -> np.ndarray:
    h, w = image.shape[:2]
    return np.asarray([image[h * y // 4, w * x // 4] for y in (1, 3) for x in (1, 3)]).astype(int)


def read(path: Path) -> np.ndarray:
    """The first frame at its own size."""
    videos = Videos(60)
    video = videos.measure(str(path), whole=True)
    size = (video.height, video.width)
    frames, _ = videos.clip(str(path), Choice(1, stride=1), 0.0, size, size, background=BEHIND, exact=video.exact)
    return frames[0]


def by_hand(image: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Each pixel is put where the matrix says."""
    a, b, c, d = matrix
    h, w = image.shape[:2]
    rows, columns = np.mgrid[:h, :w]
    x, y = a * columns + c * rows, b * columns + d * rows
    x, y = x - x.min(), y - y.min()
    shown = np.zeros((y.max() + 1, x.max() + 1, 3), np.uint8)
    shown[y, x] = image
    return shown


@pytest.mark.parametrize("name", MATRICES)
def test_turned_and_mirrored(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "libx264", "yuv420p", quarters(), MATRICES[name], options={"crf": "8"})
    shown, expected = read(path), by_hand(quarters(), MATRICES[name])
    assert shown.shape == expected.shape
    assert np.abs(corners(shown) - corners(expected)).max() < 16


@pytest.mark.parametrize("aspect", ["2/1", "64/45", "8/9", "1/1"])
@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "mpeg4"), (".mpg", "mpeg2video")])
def test_pixels_that_are_not_square(aspect: str, suffix: str, codec: str, tmp_path: Path) -> None:
    """The height is kept."""
    if codec == "mpeg2video" and aspect != "1/1":
        aspect = "4/3"  # it knows few
    path = write(tmp_path / f"a{suffix}", codec, "yuv420p", quarters(), aspect=Fraction(aspect))
    shown = read(path)
    assert shown.shape[:2] == (HEIGHT, round(WIDTH * Fraction(aspect)))
    assert np.abs(corners(shown) - CORNERS).max() < 16


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_pixels_that_only_the_container_says_are_not_square(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", "libvpx-vp9", "yuv420p", quarters())
    shown = tmp_path / f"b{suffix}"
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-c", "copy", "-aspect", f"{2 * WIDTH}:{HEIGHT}", str(shown)]
    subprocess.run(command, check=True)
    assert read(shown).shape[:2] == (HEIGHT, 2 * WIDTH)


def test_pixels_that_are_not_square_in_a_turned_video(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "libx264", "yuv420p", quarters(), MATRICES["90"], Fraction(2))
    assert read(path).shape[:2] == (2 * WIDTH, HEIGHT)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("space", "kr", "kb"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114), (9, 0.2627, 0.0593), (2, 0.299, 0.114)]
)
@pytest.mark.parametrize(("pixels", "depth"), [("yuv420p", 8), ("yuv420p10le", 10), ("yuv444p", 8)])
def test_colours_by_the_matrix_and_range_of_the_stream(
    full: bool, space: int, kr: float, kb: float, pixels: str, depth: int, tmp_path: Path
) -> None:
    """BT.709, BT.601, BT.2020, and none (as BT.601); the formulas of ITU-T H.273, 8.3."""
    r, g, b = (CORNERS / 255).T
    luma = kr * r + (1 - kr - kb) * g + kb * b
    chroma = (b - luma) / (2 - 2 * kb), (r - luma) / (2 - 2 * kr)
    unit, top = 2 ** (depth - 8), 2**depth - 1
    planes = [luma * top if full else unit * (219 * luma + 16)]
    planes += [value * top + 128 * unit if full else unit * (224 * value + 128) for value in chroma]
    path, dtype = tmp_path / "a.mkv", np.uint16 if depth > 8 else np.uint8
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pixels
        stream.codec_context.colorspace, stream.codec_context.color_range = space, 2 if full else 1
        frame = av.VideoFrame(WIDTH, HEIGHT, pixels)
        frame.colorspace, frame.color_range = space, 2 if full else 1
        for plane, values in zip(frame.planes, planes, strict=True):
            rows, columns = np.arange(plane.height) * 2 // plane.height, np.arange(plane.width) * 2 // plane.width
            levels = values.round().clip(0, top).astype(dtype).reshape(2, 2)[rows][:, columns]
            buffer = np.zeros((plane.height, plane.line_size // dtype().itemsize), dtype)
            buffer[:, : plane.width] = levels
            plane.update(buffer.tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert np.abs(corners(read(path)) - CORNERS).max() <= 3


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels", "options"),
    [
        (".mov", "qtrle", "argb", {}),
        (".mov", "png", "rgba", {}),
        (".mov", "prores_ks", "yuva444p10le", {"profile": "4444"}),
        (".mkv", "ffv1", "bgra", {}),
        (".webm", "libvpx", "yuva420p", {"auto-alt-ref": "0", "b": "2000000"}),
        (".webm", "libvpx-vp9", "yuva420p", {"auto-alt-ref": "0", "b": "2000000"}),
    ],
)
def test_transparent_parts_show_the_background(
    suffix: str, codec: str, pixels: str, options: dict[str, str], tmp_path: Path
) -> None:
    image = np.dstack([quarters(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    image[: HEIGHT // 2, WIDTH // 2 :, 3] = 0
    image[HEIGHT // 2 :, : WIDTH // 2, 3] = 128
    path = write(tmp_path / f"a{suffix}", codec, pixels, image, options=options)
    alpha = np.asarray([1, 0, 128 / 255, 1])[:, None]
    assert np.abs(corners(read(path)) - (alpha * CORNERS + (1 - alpha) * np.asarray(BEHIND))).max() < 8


@pytest.mark.parametrize("pixels", ["gray", "gray10le", "bgr0", "yuv411p"])
def test_other_kinds_of_pixels(pixels: str, tmp_path: Path) -> None:
    shown = corners(read(write(tmp_path / "a.mkv", "ffv1", pixels, quarters())))
    expected = CORNERS if "gray" not in pixels else (CORNERS @ (0.299, 0.587, 0.114))[:, None]
    assert np.abs(shown - expected).max() < 6


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    videos = Videos(20)
    for name, why in (
        ("pipe.mp4", "is a pipe, not a file"),
        ("folder.mp4", "is a folder"),
        ("/dev/zero", "is a device"),
    ):
        with pytest.raises(DamagedClipError, match=why):
            videos.measure(str(tmp_path / name), whole=True)
    assert videos._decoder is None  # nobody was asked


def test_a_cover_beside_the_sound_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        sound, cover = container.add_stream("aac", rate=44100), container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(quarters(), format="rgb24")))
        container.mux(cover.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.rate = 44100
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    with pytest.raises(DamagedClipError, match="it is sound only"):
        Videos(20).measure(str(tmp_path / "a.mp4"), whole=True)
